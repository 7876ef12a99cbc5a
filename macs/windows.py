"""A recording of any length in windows: read in parts, separated and embedded in batches; what is kept are numbers."""

import tempfile
from pathlib import Path

import soundfile
import torch
import torch.nn.functional as F
from tqdm import tqdm

from macs.audio import SAMPLE_RATE, copy_mono

BLOCK = SAMPLE_RATE // 4  # samples; strength is measured in blocks of 0.25 s
COLUMN = 1000  # samples in a column of the overview


def analyse(pipe, path, hop, folder, batch_size, progress):
    """The numbers that are kept, as a dictionary of tensors; arguments as of `macs.timeline.listen`.

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
        # What stays is allocated before the loop: small blocks that stay between large ones would keep the heap growing
        num_windows, num_sources = len(starts), pipe.num_sources
        embeds, previous = None, None
        powers = torch.zeros(num_windows, num_sources, size // BLOCK)
        correlations = torch.zeros(num_windows - 1, num_sources, num_sources)
        peaks, spectrum = _overview(sound)
        with soundfile.SoundFile(sound) as file, tqdm(total=len(starts), unit="window", disable=not progress) as bar:
            for first in range(0, len(starts), batch_size):
                windows = []
                for start in starts[first : first + batch_size]:
                    file.seek(start)
                    windows.append(torch.from_numpy(file.read(size, dtype="float32", fill_value=0.0)))
                windows = torch.stack(windows).to(pipe._execution_device)
                mixtures = pipe.separator.level(windows)
                sources = pipe.separate(mixtures)  # (b, M, size)
                part = slice(first, first + len(windows))
                embedded = pipe.encode_sources(sources)
                raised = mixtures.abs().amax(-1) / windows.abs().amax(-1).clamp(min=1e-9)
                sources = sources / raised.clamp(min=1)[:, None, None]  # as loud as they are in the recording
                embeds = torch.zeros(num_windows, *embedded.shape[1:]) if embeds is None else embeds
                embeds[part], powers[part] = embedded, _block_powers(sources)
                for window, signals in enumerate(sources, first):
                    if window > 0:
                        shift = starts[window] - starts[window - 1]
                        correlations[window - 1] = _correlation(previous[:, shift:], signals[:, : size - shift])
                    previous = signals
                bar.update(len(windows))
    return {
        "seconds": torch.tensor(length / SAMPLE_RATE, dtype=torch.float64),
        "starts": torch.tensor(starts, dtype=torch.float64) / SAMPLE_RATE,
        "embeds": embeds,
        "powers": powers,
        "peaks": peaks,
        "spectrum": spectrum,
        "correlations": correlations,
    }


def _overview(sound):
    """What a mono file looks like from afar: peaks (C,) and spectrum (C, 256) in dB (half precision), see Timeline."""
    length, columns = -(-soundfile.info(sound).frames // COLUMN), 512
    peaks, spectrum = torch.zeros(length), torch.zeros(length, 256, dtype=torch.half)
    window = torch.hann_window(510)
    parts = soundfile.blocks(sound, blocksize=COLUMN * columns, dtype="float32", fill_value=0.0)
    for first, part in zip(range(0, length, columns), parts, strict=True):
        part = torch.from_numpy(part)
        power = torch.stft(part, 510, COLUMN // 4, window=window, return_complex=True)[:, :-1].abs().square()
        level = (10 * power.unflatten(1, (-1, 4)).mean(2).clamp(min=1e-8).log10()).T
        peaks[first : first + columns] = part.unflatten(0, (-1, COLUMN)).abs().amax(1)[: length - first]
        spectrum[first : first + columns] = level[: length - first]
    return peaks, spectrum


def _block_powers(waveforms):
    """(..., T) -> (..., T / BLOCK): the mean square of every block."""
    return waveforms.unflatten(-1, (-1, BLOCK)).square().mean(-1)


def _correlation(before, after):
    """Signals (M, T) and (M, T) -> (M, M): the cosine of each with each."""
    return F.normalize(before, dim=-1) @ F.normalize(after, dim=-1).T
