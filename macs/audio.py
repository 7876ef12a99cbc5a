"""Reading audio: every recording in the project comes in through here.

Anything libsndfile decodes (wav, flac, ogg, mp3, ...), any sample rate, channel count and length, becomes mono float32
at 16 kHz. Only the wanted part of a long file is decoded into memory.
"""

from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

SAMPLE_RATE = 16000  # Hz; the separator's rate (paper, section on the separator)
CLIP_SAMPLES = 8 * SAMPLE_RATE  # the separator hears 8 s
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif")
SILENCE = 1e-4  # peak below which a clip counts as silent: -80 dB full scale


class AudioError(ValueError):
    """A recording that cannot be used; the message names the file, what came and what to do."""


def _open(path):
    if not Path(path).is_file():
        raise AudioError(f"{path}: no such audio file")
    if Path(path).stat().st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes); record or download it again")
    try:
        return soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path}: expected audio (wav, flac, ogg, mp3), but it cannot be decoded ({error.error_string}); "
            "convert it, for instance with: ffmpeg -i INPUT OUTPUT.wav"
        ) from None


def duration(path):
    """Length of a recording in seconds, from its header; AudioError where it cannot be opened."""
    with _open(path) as file:
        return file.frames / file.samplerate


def read_audio(path, start=0.0, seconds=None, sample_rate=SAMPLE_RATE):
    """Part of a recording as mono float32.

    start, seconds: the part to read (default: all of it); the result is shorter where the file ends earlier.
    Returns a tensor (T,) in [-1, 1] as a rule, at `sample_rate` Hz, the mean over the channels.
    Raises AudioError: not audio, no samples, NaN or infinite samples, a start behind the end.
    """
    with _open(path) as file:
        if file.frames == 0:
            raise AudioError(f"{path}: the file holds 0 samples; record or download it again")
        first = round(start * file.samplerate)
        if not 0 <= first < file.frames:
            raise AudioError(
                f"{path}: cannot start at {start:g} s, the recording is {file.frames / file.samplerate:.2f} s long"
            )
        file.seek(first)
        try:
            samples = file.read(
                -1 if seconds is None else round(seconds * file.samplerate), dtype="float32", always_2d=True
            )
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{path}: decoding broke off ({error.error_string}); the file may be truncated") from None
        rate = file.samplerate
    if len(samples) == 0:
        raise AudioError(f"{path}: no samples could be decoded; the file may be truncated")
    if not np.isfinite(samples).all():
        raise AudioError(f"{path}: expected finite samples, but some are NaN or infinite; export the file again")
    mono = samples.mean(axis=1)
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate)
    return torch.from_numpy(np.ascontiguousarray(mono, dtype=np.float32))


def loudest_start(path, seconds=CLIP_SAMPLES / SAMPLE_RATE, hop=0.1):
    """Start (s) of the window of `seconds` with the most energy, on a grid of `hop` s; 0.0 for shorter files.

    The file is decoded once in blocks of `hop` s, so memory stays small for hours of audio.
    """
    with _open(path) as file:
        if file.frames <= seconds * file.samplerate:
            return 0.0
        # float64 sums: a difference of cumulative energies is taken below
        energy = [
            float(np.square(block.mean(axis=1), dtype=np.float64).sum())
            for block in file.blocks(round(hop * file.samplerate), dtype="float32", always_2d=True)
        ]
        last_start = file.frames / file.samplerate - seconds
    energy = np.nan_to_num(np.array(energy), nan=0.0, posinf=0.0)
    total = np.concatenate([[0.0], np.cumsum(energy)])
    window = round(seconds / hop)
    return min(float(np.argmax(total[window:] - total[:-window])) * hop, last_start)


def fit_length(waveform, num_samples=CLIP_SAMPLES, offset=0):
    """Zero-pads (..., T) to (..., num_samples), `offset` zeros before it; cuts what is longer at its end."""
    waveform = waveform[..., : num_samples - offset]
    return torch.nn.functional.pad(waveform, (offset, num_samples - offset - waveform.shape[-1]))


def load_clip(path, start=None, num_samples=CLIP_SAMPLES):
    """One clip as the separator wants it: (num_samples,) float32 at 16 kHz.

    start: where to cut a longer recording, in seconds; None takes its loudest part. Shorter ones are zero-padded.
    """
    seconds = num_samples / SAMPLE_RATE
    start = loudest_start(path, seconds) if start is None else start
    return fit_length(read_audio(path, start, seconds), num_samples)
