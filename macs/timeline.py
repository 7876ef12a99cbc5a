"""A recording of any length through time: what is heard in windows of 8 s, and which source is which in the next one.

The separator orders a window's M signals by significance, so the dog may be signal 2 in one window and signal 1 in the
next. Neighbouring windows overlap: signals whose waveforms agree there, and whose embeddings do, are one source.
"""

import hashlib
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy.optimize import linear_sum_assignment

from macs.attribution import label_probabilities
from macs.audio import SAMPLE_RATE, AudioError
from macs.files import fingerprint, write_beside
from macs.windows import BLOCK, analyse

BLOCK_SECONDS = BLOCK / SAMPLE_RATE
HOPS = (0.5, 1.0, 2.0, 4.0)  # s; whole blocks, and at least half a window overlaps
VERSION = 2  # of what is kept; raise it when the analysis changes
SMOOTHING = 1.5  # s; pauses between barks do not count
STEADY_SECONDS, STEADY_DISTANCE = 6.0, 0.1  # widths of the filter, in time and in 1 - cosine
FADE_FROM, FADE_TO = -8.0, -20.0  # dB below what a source is in its window
MEMORY = 0.8  # of a source's embedding, at a window in which it is as loud as ever
EMBEDDING_WEIGHT = 0.5  # of the embeddings' similarity beside the waveforms' correlation


@dataclass
class Timeline:
    """What is heard in a recording, window by window; made by `listen`, or by `MACSPipeline.listen`.

    pipe: the MACSPipeline that heard it. seconds: length of the recording. starts (W,): where the windows begin, in s.
    signals (W, M): which of the separator's signals (its rank) followed source i is in each window.
    rank_embeds (W, M, D): unit norm, in the separator's order. levels (T, M): RMS of the followed sources in blocks of
    0.25 s. peaks (C,): the largest sample, spectrum (C, 256): level in dB from 0 to 8 kHz, both in columns of 1/16 s.
    """

    pipe: object
    seconds: float
    starts: torch.Tensor
    signals: torch.Tensor
    rank_embeds: torch.Tensor
    levels: torch.Tensor
    peaks: torch.Tensor
    spectrum: torch.Tensor

    @cached_property
    def window_embeds(self):
        """(W, M, D), unit norm: the embeddings of the followed sources, steadied (see `steadied`)."""
        return steadied(self.rank_embeds.gather(1, self.signals[..., None].expand_as(self.rank_embeds)), self.starts)

    @property
    def window_seconds(self):
        return self.pipe.separator.config.num_samples / SAMPLE_RATE

    def embeds(self, t):
        """The embeddings at time t (s, a number or (N,)), (M, D) or (N, M, D), of the sources in order, unit norm.

        Interpolated on the sphere (slerp, Shoemake 1985) between the windows whose middles t lies between.
        """
        before, after, way = self._between(t)
        embeds = self.window_embeds
        return slerp(embeds[before], embeds[after], way[..., None, None])

    def _between(self, t):
        """Times (...) in s -> windows before and after, and how far (0-1) each time is from one to the other."""
        t = torch.as_tensor(t, dtype=torch.float64)
        middles = self.starts + self.window_seconds / 2
        after = torch.searchsorted(middles, t.contiguous()).clamp(1, max(1, len(middles) - 1))
        before, after = after - 1, after.clamp(max=len(middles) - 1)
        way = (t - middles[before]) / (middles[after] - middles[before]).clamp(min=1e-9)
        return before, after, way.clamp(0, 1).float()

    @cached_property
    def _smooth_powers(self):
        return _smoothed(self.levels.square())

    def strength(self, t):
        """RMS of the sources at time t (s, a number or (N,)), (M,) or (N, M), over about 1.5 s around it."""
        place = torch.as_tensor(t, dtype=torch.float64) / BLOCK_SECONDS - 0.5  # between the middles of two blocks
        place = place.clamp(0, len(self.levels) - 1)
        before = place.floor().long()
        way = (place - before).float()[..., None]
        smooth = self._smooth_powers
        after = (before + 1).clamp(max=len(smooth) - 1)
        return ((1 - way) * smooth[before] + way * smooth[after]).sqrt()

    def weights(self, t):
        """Shares of the audio attention at time t: (M,) or (N, M) from 0 to 1, `source_weights` of a picture.

        A window of 8 s hears what comes and what has gone. A source that is FADE_FROM dB weaker at t than it is within
        4 s begins to be left out, at FADE_TO dB it is.
        """
        t = torch.as_tensor(t, dtype=torch.float64)
        half = self.window_seconds / 2
        reach = round(half / BLOCK_SECONDS)
        loudest = F.max_pool1d(self._smooth_powers.T[None], 2 * reach + 1, 1, reach)[0].T  # within 4 s
        # at both ends the picture hears the first and the last window
        middle = t.clamp(half, max(half, self.seconds - half))
        loudest = loudest[(middle / BLOCK_SECONDS).long().clamp(max=len(loudest) - 1)]
        fall = 20 * (self.strength(t) / loudest.sqrt().clamp(min=1e-7)).clamp(min=1e-7).log10()
        weights = ((fall - FADE_TO) / (FADE_FROM - FADE_TO)).clamp(1e-3, 1)
        weights = weights / weights.amax(-1, keepdim=True)  # in a pause of all of them the last picture stays
        return torch.where(weights > 2e-3, weights, 0.0)

    def heard(self, t):
        """What a picture of time t (N,) takes: source_embeds (N, M, D) and source_weights (N, M).

        The adapter adds to every embedding a vector that says which rank its signal has; a source that changes its rank
        changes from one to the other gradually. In the middle of a window the picture is that of the window, steadied.
        """
        before, after, way = self._between(t)
        position = self.pipe.adapter.projector.pe.detach().float().cpu()
        way = way[..., None, None]
        rank = (1 - way) * position[self.signals[before]] + way * position[self.signals[after]]
        return self.embeds(t) + rank - position, self.weights(t)

    def names(self, labels=None):
        """What each source is, by CLAP: a list of M dicts {label: probability}, the most probable first.

        The mean over the windows, weighted by how loud the source is in each. labels: a list of names such as "dog", or
        a text file with one in a line; by default those of `macs.attribution.default_labels`.
        """
        power = self.window_powers
        names = []
        for source, windows in enumerate(zip(*self.window_names(labels), strict=True)):
            weights = power[:, source] / power[:, source].sum().clamp(min=1e-20)
            mean = {n: sum(float(w) * d[n] for w, d in zip(weights, windows, strict=True)) for n in windows[0]}
            names.append(dict(sorted(mean.items(), key=lambda item: -item[1])))
        return names

    def window_names(self, labels=None):
        """What each source is in each window: a list of W lists of M dicts, as of `macs.attribution`."""
        return label_probabilities(self.pipe, self.window_embeds, labels)

    @property
    def window_powers(self):
        """Mean square of the sources in each window, (W, M)."""
        blocks = round(self.window_seconds / BLOCK_SECONDS)
        first = (self.starts / BLOCK_SECONDS).round().long()
        return torch.stack([self.levels[i : i + blocks].square().mean(0) for i in first])


def steadied(embeds, starts):
    """Embeddings (W, M, D) of windows that begin at starts (W,), each a mean over its neighbours that sound alike.

    Weights fall with the time between two windows and with the distance of their embeddings (the bilateral filter,
    Tomasi and Manduchi 1998): what flickers becomes steady, and what comes or goes does so as before.
    """
    total = embeds.clone()
    for shift in range(1, len(starts)):
        apart = (starts[shift:] - starts[:-shift]).float()
        if apart.min() > 2 * STEADY_SECONDS:
            break
        alike = (embeds[shift:] * embeds[:-shift]).sum(-1, keepdim=True)  # cosine
        weight = ((alike - 1) / STEADY_DISTANCE - 0.5 * (apart / STEADY_SECONDS).square()[:, None, None]).exp()
        total[:-shift] += weight * embeds[shift:]
        total[shift:] += weight * embeds[:-shift]
    return F.normalize(total, dim=-1)


def _smoothed(powers):
    """(T, M) -> (T, M): the mean of the blocks around each, weighted by a triangle of 1.5 s to each side."""
    reach = round(SMOOTHING / BLOCK_SECONDS)
    triangle = (1 - torch.arange(-reach, reach + 1).abs() / (reach + 1))[None, None]
    counted = torch.cat([powers, torch.ones(len(powers), 1)], 1)  # the last column counts what is there
    sums = F.conv1d(F.pad(counted.T[:, None], (reach, reach)), triangle)[:, 0].T
    return sums[:, :-1] / sums[:, -1:]


def slerp(start, end, way):
    """From unit vectors (..., D) to others on the great circle; way (..., 1) from 0 to 1."""
    angle = (start * end).sum(-1, keepdim=True).clamp(-1, 1).acos().clamp(min=1e-4)
    return (torch.sin((1 - way) * angle) * start + torch.sin(way * angle) * end) / torch.sin(angle)


def listen(pipe, path, hop=2.0, cache_dir=None, batch_size=4, progress=False):
    """A recording of any length -> Timeline; memory and time grow with its length only by the numbers kept.

    hop: from one window of 8 s to the next, one of HOPS, in s. cache_dir: a folder in which the analysis is kept, by
    the recording's and the models' content, and found again; None keeps nothing. batch_size: windows at a time.
    Raises AudioError for what is no recording, ValueError for a wrong hop.
    """
    if hop not in HOPS:
        raise ValueError(f"hop: expected one of {', '.join(f'{h:g}' for h in HOPS)} s, but got {hop}")
    if cache_dir is None:
        with tempfile.TemporaryDirectory() as folder:
            heard = analyse(pipe, path, hop, Path(folder), batch_size, progress)
    else:
        settings = {"hop": hop, "version": VERSION, "models": _models_fingerprint(pipe)}
        settings["raise_quiet"] = pipe.separator.config.raise_quiet
        kept = Path(cache_dir) / f"{Path(path).stem[:80]}-{_fingerprint(settings, path)}.safetensors"
        if kept.is_file():
            heard = load_file(kept)
        else:
            heard = analyse(pipe, path, hop, kept.parent, batch_size, progress)
            with write_beside(kept) as partial:
                save_file(heard, partial)
    signals = follow(heard["embeds"], heard["powers"], heard["correlations"])
    levels = _levels(heard["starts"], signals, heard["powers"])
    return Timeline(
        pipe, float(heard["seconds"]), heard["starts"], signals, heard["embeds"], levels, heard["peaks"],
        heard["spectrum"].float(),
    )  # fmt: skip


def _fingerprint(settings, path):
    try:
        return fingerprint(settings, [path])
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror}); expected a recording") from None


def _models_fingerprint(pipe):
    """What separator and CLAP are, by their weights."""
    digest = hashlib.sha256()
    for model in (pipe.separator, pipe.clap):
        for name, value in model.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def follow(embeds, powers, correlations):
    """Which signal each source is in each window: (W, M), a permutation of the signals for each window.

    embeds (W, M, D), powers (W, M, B), correlations (W - 1, M, M) as `macs.windows.analyse` gives them. From window to
    window the assignment with the largest sum of correlation in the overlap and similarity of the embeddings (Kuhn
    1955). The embedding of a source is a running mean over the windows it was loud in, so that one that pauses is known
    again.
    """
    num_windows, num_sources, _ = embeds.shape
    signals = torch.arange(num_sources).repeat(num_windows, 1)
    known, loudest = embeds[0].clone(), powers[0].mean(-1)
    for window in range(1, num_windows):
        similarity = correlations[window - 1][signals[window - 1]] + EMBEDDING_WEIGHT * known @ embeds[window].T
        signals[window] = torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1])
        power = powers[window].mean(-1)[signals[window]]
        loudest = torch.maximum(loudest, power)
        gain = (1 - MEMORY) * (power / loudest.clamp(min=1e-12)).sqrt()[:, None]
        known = F.normalize((1 - gain) * known + gain * embeds[window][signals[window]], dim=-1)
    return signals


def _levels(starts, signals, powers):
    """-> RMS of the followed sources (T, M), in blocks of 0.25 s.

    Of the windows that hear a block, the one in whose middle it lies most is taken.
    """
    blocks = powers.shape[-1]
    first = (starts / BLOCK_SECONDS).round().long()  # the block each window begins with
    block = torch.arange(int(first[-1]) + blocks)
    window = (block[:, None] - first[None] - blocks / 2 + 0.5).abs().argmin(1)
    within = (block - first[window]).clamp(0, blocks - 1)
    return powers[window[:, None], signals[window], within[:, None]].sqrt()
