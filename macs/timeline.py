"""A recording of any length through time: what is heard in windows of 8 s, and which source is which in the next one.

The separator orders a window's M signals by significance, so the dog may be signal 2 in one window and signal 1 in the
next. Neighbouring windows overlap: signals whose waveforms agree there, and whose embeddings do, are one source.
"""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from macs.attribution import label_probabilities
from macs.audio import SAMPLE_RATE, copy_mono
from macs.files import fingerprint, write_beside

BLOCK = SAMPLE_RATE // 4  # samples; strength is measured in blocks of 0.25 s
BLOCK_SECONDS = BLOCK / SAMPLE_RATE
HOPS = (0.5, 1.0, 2.0, 4.0)  # s; whole blocks, and at least half a window overlaps
VERSION = 1  # of what is kept; raise it when the analysis changes
MEMORY = 0.8  # of a source's embedding, at a window in which it is as loud as ever
EMBEDDING_WEIGHT = 0.5  # of the embeddings' similarity beside the waveforms' correlation


@dataclass
class Timeline:
    """What is heard in a recording, window by window; made by `listen`, or by `MACSPipeline.listen`.

    pipe: the MACSPipeline that heard it. seconds: length of the recording. starts (W,): where the windows begin, in s.
    signals (W, M): which of the separator's signals (its rank) followed source i is in each window.
    rank_embeds (W, M, D): unit norm, in the separator's order. levels (T, M): RMS of the followed sources in blocks of
    0.25 s. mixture_levels (T,): of the recording.
    """

    pipe: object
    seconds: float
    starts: torch.Tensor
    signals: torch.Tensor
    rank_embeds: torch.Tensor
    levels: torch.Tensor
    mixture_levels: torch.Tensor

    @property
    def window_embeds(self):
        """(W, M, D): the embeddings in the order of the followed sources."""
        return self.rank_embeds.gather(1, self.signals[..., None].expand_as(self.rank_embeds))


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
            heard = _analyse(pipe, path, hop, Path(folder), batch_size, progress)
    else:
        settings = {"hop": hop, "version": VERSION, "models": _models_fingerprint(pipe)}
        kept = Path(cache_dir) / f"{Path(path).stem[:80]}-{_fingerprint(settings, path)}.safetensors"
        if kept.is_file():
            heard = load_file(kept)
        else:
            heard = _analyse(pipe, path, hop, kept.parent, batch_size, progress)
            with write_beside(kept) as partial:
                save_file(heard, partial)
    signals = follow(heard["embeds"], heard["powers"], heard["correlations"])
    return Timeline(
        pipe, float(heard["seconds"]), heard["starts"], signals, heard["embeds"],
        *_levels(heard["starts"], signals, heard["powers"], heard["mixture_powers"]),
    )  # fmt: skip


def _fingerprint(settings, path):
    try:
        return fingerprint(settings, [path])
    except OSError as error:
        from macs.audio import AudioError

        raise AudioError(f"{path}: cannot be read ({error.strerror}); expected a recording") from None


def _models_fingerprint(pipe):
    """What separator and CLAP are, by their weights."""
    digest = hashlib.sha256()
    for model in (pipe.separator, pipe.clap):
        for name, value in model.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _analyse(pipe, path, hop, folder, batch_size, progress):
    """The numbers that are kept, as a dictionary of tensors; see `listen`.

    powers (W, M, B): mean square of each signal in the B blocks of a window. correlations (W - 1, M, M): of each signal
    with each of the next window's, where the two overlap.
    """
    size, step = pipe.separator.config.num_samples, round(hop * SAMPLE_RATE)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as scratch:
        # A plain copy: seeking in it is exact and fast, and a recording that ends in garbage has an end
        sound = Path(scratch) / "mono.wav"
        length = copy_mono(path, sound)
        last = max(0, -(-(length - size) // BLOCK) * BLOCK)  # the last window ends with the recording
        starts = sorted({*range(0, last, step), last})
        embeds, powers, mixture_powers, correlations, previous = [], [], [], [], None
        with soundfile.SoundFile(sound) as file, tqdm(total=len(starts), unit="window", disable=not progress) as bar:
            for first in range(0, len(starts), batch_size):
                windows = []
                for start in starts[first : first + batch_size]:
                    file.seek(start)
                    windows.append(torch.from_numpy(file.read(size, dtype="float32", fill_value=0.0)))
                windows = torch.stack(windows).to(pipe._execution_device)
                sources = pipe.separate(windows)  # (b, M, size)
                embeds.append(pipe.encode_sources(sources).float().cpu())
                powers.append(_block_powers(sources).cpu())
                mixture_powers.append(_block_powers(windows).cpu())
                for i, signals in enumerate(sources):
                    if previous is not None:
                        shift = starts[first + i] - starts[first + i - 1]
                        correlations.append(_correlation(previous[:, shift:], signals[:, : size - shift]).cpu())
                    previous = signals
                bar.update(len(windows))
    num_sources = pipe.num_sources
    return {
        "seconds": torch.tensor(length / SAMPLE_RATE, dtype=torch.float64),
        "starts": torch.tensor(starts, dtype=torch.float64) / SAMPLE_RATE,
        "embeds": torch.cat(embeds),
        "powers": torch.cat(powers),
        "mixture_powers": torch.cat(mixture_powers),
        "correlations": torch.stack(correlations) if correlations else torch.zeros(0, num_sources, num_sources),
    }


def _block_powers(waveforms):
    """(..., T) -> (..., T / BLOCK): the mean square of every block."""
    return waveforms.unflatten(-1, (-1, BLOCK)).square().mean(-1)


def _correlation(before, after):
    """Signals (M, T) and (M, T) -> (M, M): the cosine of each with each."""
    return F.normalize(before, dim=-1) @ F.normalize(after, dim=-1).T


def follow(embeds, powers, correlations):
    """Which signal each source is in each window: (W, M), a permutation of the signals for each window.

    embeds (W, M, D), powers (W, M, B), correlations (W - 1, M, M) as `_analyse` gives them. From window to window the
    assignment with the largest sum of correlation in the overlap and similarity of the embeddings (Kuhn 1955). The
    embedding of a source is a running mean over the windows it was loud in, so that one that pauses is known again.
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


def _levels(starts, signals, powers, mixture_powers):
    """-> RMS of the followed sources (T, M) and of the recording (T,), in blocks of 0.25 s.

    Of the windows that hear a block, the one in whose middle it lies most is taken.
    """
    blocks = powers.shape[-1]
    first = (starts / BLOCK_SECONDS).round().long()  # the block each window begins with
    block = torch.arange(int(first[-1]) + blocks)
    window = (block[:, None] - first[None] - blocks / 2 + 0.5).abs().argmin(1)
    within = (block - first[window]).clamp(0, blocks - 1)
    return powers[window[:, None], signals[window], within[:, None]].sqrt(), mixture_powers[window, within].sqrt()
