"""Reading audio: every recording and every array of samples in the project comes in through here.

Files of any kind (see `macs.decoding`), any sample rate, channel count and length, become mono float32 at 16 kHz. Only
the wanted part of a long file is held in memory.
"""

import math
import numbers
import os
import warnings

import numpy as np
import soundfile
import soxr
import torch

from macs.decoding import MAX_CHANNELS, MAX_RATE, MIN_RATE, AudioError, decode, duration, scale
from macs.recordings import AUDIO_SUFFIXES, find_recordings

__all__ = [
    "AUDIO_SUFFIXES", "CLIP_SAMPLES", "SAMPLE_RATE", "SILENCE", "AudioError", "copy_mono", "duration",
    "find_recordings", "fit_length", "load_clip", "loudest_start", "raise_quiet", "read_audio", "to_waveforms",
]  # fmt: skip

READER = 2  # raise it where the same file comes to other samples: features that were cached before are made anew
SAMPLE_RATE = 16000  # Hz; the separator's rate (paper, section on the separator)
CLIP_SAMPLES = 8 * SAMPLE_RATE  # the separator hears 8 s
SILENCE = 1e-4  # peak below which a clip counts as silent: -80 dB full scale
QUIET, RAISED = 0.1, 0.42  # peak below which a clip is quiet (-20 dB full scale); the median of the soundscapes' peaks
PEAK = 100.0  # samples above it (+40 dB full scale) are no sound at all, or integers that nobody scaled
OFFSET = 0.02  # mean above which it is a fault of the recorder and removed; sound stays far below it
CANCELLED = 0.01  # share of the channels' energy below which their mean has cancelled; 1/64 where one of 64 sounds
BLOCK_SAMPLES = 2**24  # most that is decoded at a time, all channels together: 64 MB


def read_audio(path, start=0.0, seconds=None, sample_rate=SAMPLE_RATE):
    """Part of a recording as mono float32.

    start, seconds: the part to read (default: all of it); the result is shorter where the file ends earlier.
    Returns a tensor (T,) in [-1, 1] as a rule, at `sample_rate` Hz, the mean over the channels (see `_mono`).
    Raises AudioError: not audio, no samples, samples that are NaN or beyond all scale, a start behind the end.
    """
    if not (math.isfinite(start) and start >= 0):
        raise AudioError(f"{path}: cannot start at {start:g} s; expected a position from 0 on")

    def read(recording):
        first = round(start * recording.rate)
        wanted = math.inf if seconds is None else round(seconds * recording.rate)
        blocks, held = [], 0
        for block in recording.blocks(first, int(min(max(wanted, 1), BLOCK_SAMPLES // recording.channels))):
            blocks.append(block[: int(min(wanted - held, len(block)))])
            held += len(blocks[-1])
            if held >= wanted:
                break
        if held == 0:
            length = recording.length() / recording.rate
            raise AudioError(f"{path}: cannot start at {start:g} s, the recording is {length:.2f} s long")
        return np.concatenate(blocks) if len(blocks) > 1 else blocks[0], recording.rate

    samples, rate = decode(path, read)
    return _resample(_mono(samples, path), rate, sample_rate)


class CannotWrite(Exception):
    """An output fails while a recording is decoded; no OSError, which `decode` takes for the recording's."""


def copy_mono(path, target, seconds=32):
    """A recording of any length as mono float32 at 16 kHz, written to the wav file (RF64) `target` part by part.

    seconds: length of the parts; only one is in memory. A part with samples that are no sound becomes silence, with a
    warning. Returns the number of samples. Raises AudioError: not audio, no samples, no part that is sound; OSError
    where the disk is full.
    """

    def copy(recording):
        size = max(1, int(min(seconds * recording.rate, BLOCK_SAMPLES // recording.channels)))
        resampler = soxr.ResampleStream(recording.rate, SAMPLE_RATE, 1)
        good, error, position, length = False, None, 0, 0
        with writing(soundfile.SoundFile, target, "w", SAMPLE_RATE, 1, "FLOAT", format="RF64") as file:
            for block in recording.blocks(0, size):
                try:
                    mono, good = _mono(block, path), True
                except AudioError as problem:
                    mono = np.zeros(len(block), np.float32)
                    if error is None:
                        at = f"{position / recording.rate:.0f} s"
                        warnings.warn(f"{path}: no sound from {at} on ({problem}); taken for silence", stacklevel=4)
                    error = problem
                position += len(block)
                mono = resampler.resample_chunk(mono)
                writing(file.write, mono)
                length += len(mono)
            mono = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            writing(file.write, mono)
        if not good:
            raise error or AudioError(f"{path}: the file holds 0 samples; record or download it again")
        return length + len(mono)

    def writing(work, *args, **kwargs):
        try:
            return work(*args, **kwargs)
        except (soundfile.SoundFileError, OSError, AssertionError) as error:  # the last for a part that is cut short
            raise CannotWrite(f"{target}: cannot be written ({error}); is the disk full?") from error

    try:
        return decode(path, copy)
    except CannotWrite as error:
        raise OSError(str(error)) from error


def _mono(samples, name):
    """(T, C) float32 -> (T,): the mean over the channels, without a recorder's offset.

    Channels in antiphase (a cable or a microphone wired the wrong way round) would cancel; the louder one is taken and
    a warning given. Raises AudioError for samples that are no sound; `name` is what they came from.
    """
    peak = np.abs(samples).max()
    if not np.isfinite(peak):
        raise AudioError(f"{name}: expected finite samples, but some are NaN or infinite; export the file again")
    if peak > PEAK:
        raise AudioError(f"{name}: expected samples in [-1, 1], but there are some of {peak:g}; scale them")
    mono = _channel_mean(samples)
    if samples.shape[1] > 1:
        energies = _channel_energies(samples)
        if np.dot(mono, mono) < CANCELLED * energies.mean():
            channel = int(energies.argmax())
            warnings.warn(f"{name}: its channels cancel each other (antiphase); channel {channel + 1} of "
                          f"{samples.shape[1]} is used alone", stacklevel=2)  # fmt: skip
            mono = samples[:, channel].copy()
    offset = mono.mean(dtype=np.float64)
    if abs(offset) > OFFSET:
        mono -= np.float32(offset)
    return mono


def _channel_mean(samples):
    """(T, C) -> (T,). For one and two channels many times as fast as numpy's mean along the short axis, and equal."""
    if samples.shape[1] > 2:
        return samples.mean(axis=1)
    return samples[:, 0].copy() if samples.shape[1] == 1 else (samples[:, 0] + samples[:, 1]) / np.float32(2)


def _channel_energies(samples):
    return np.array([channel @ channel for channel in samples.T])


def _resample(mono, rate, sample_rate):
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate)
    return torch.from_numpy(np.ascontiguousarray(mono, dtype=np.float32))


def loudest_start(path, seconds=CLIP_SAMPLES / SAMPLE_RATE, hop=0.1):
    """Start (s) of the window of `seconds` with the most energy, on a grid of `hop` s; 0.0 for shorter files.

    The file is decoded once in blocks of `hop` s, so memory stays small for hours of audio.
    """

    def search(recording):
        if recording.frames is not None and recording.frames <= seconds * recording.rate:
            if recording.length() <= seconds * recording.rate:
                return 0.0
        size = round(hop * recording.rate)
        start = _loudest_window(recording.blocks(0, size), round(seconds / hop)) * hop
        return min(start, max(0.0, recording.end / recording.rate - seconds))

    return decode(path, search)


def _loudest_window(blocks, window):
    """Number of the block at which the `window` blocks with the most energy begin; 0 if there are fewer.

    blocks: (T, C) float32, all of one length but the last. Offset and antiphase are judged over all of them.
    """
    # float64 sums: a difference of cumulative energies is taken below
    energy, total, lengths, channel_energies = [], [], [], []
    for block in blocks:
        mono = _channel_mean(block)
        energy.append(float(np.square(mono, dtype=np.float64).sum()))
        total.append(float(mono.sum(dtype=np.float64)))
        lengths.append(len(block))
        if block.shape[1] > 1:
            channel_energies.append(_channel_energies(block))
    if len(energy) <= window:
        return 0
    # a block with samples that are no sound counts as silent
    energy, total = (np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0) for values in (energy, total))
    if channel_energies:
        channels = np.nan_to_num(np.array(channel_energies, np.float64), nan=0.0, posinf=0.0)  # (blocks, C)
        if energy.sum() < CANCELLED * channels.sum(axis=0).mean():
            energy, total = channels[:, channels.sum(axis=0).argmax()], np.zeros(len(energy))
    offset = total.sum() / sum(lengths)
    if abs(offset) > OFFSET:
        energy = energy - 2 * offset * total + offset**2 * np.array(lengths)
    sums = np.concatenate([[0.0], np.cumsum(energy)])
    return int(np.argmax(sums[window:] - sums[:-window]))


def fit_length(waveform, num_samples=CLIP_SAMPLES, offset=0):
    """Zero-pads (..., T) to (..., num_samples), `offset` zeros before it; cuts what is longer at its end."""
    waveform = waveform[..., : num_samples - offset]
    return torch.nn.functional.pad(waveform, (offset, num_samples - offset - waveform.shape[-1]))


def raise_quiet(waveforms):
    """Clips (B, T) with those raised to the peak RAISED whose own is below QUIET; silence stays as it is.

    Masks and embeddings depend on the level, and a model knows those it was trained with.
    """
    peaks = waveforms.abs().amax(-1, keepdim=True)
    return torch.where((peaks < QUIET) & (peaks >= SILENCE), waveforms * (RAISED / peaks), waveforms)


def load_clip(path, start=None, num_samples=CLIP_SAMPLES):
    """One clip as the separator wants it: (num_samples,) float32 at 16 kHz.

    start: where to cut a longer recording, in seconds; None takes its loudest part. Shorter ones are zero-padded.
    """
    seconds = num_samples / SAMPLE_RATE
    start = loudest_start(path, seconds) if start is None else start
    return fit_length(read_audio(path, start, seconds), num_samples)


def to_waveforms(audio, num_samples=CLIP_SAMPLES):
    """Clips in whatever form libraries hand them over -> (B, num_samples) float32 at 16 kHz.

    audio: one clip or a list of them. A clip is
    - a path: cut to its loudest part;
    - (rate, samples) or (samples, rate), as of Gradio, scipy, soundfile, librosa and torchaudio, or {"array",
      "sampling_rate"} as of datasets: samples (T,), (T, C) or (C, T), mixed down, resampled, cut to the loudest part;
    - an array or tensor at 16 kHz, T <= num_samples: (T,), (T, C), or (B, T), which are B clips. In a list (C, T) and
      (B, T) cannot be told apart and are refused.
    Samples are floats in [-1, 1], or int16, int32, uint8, int8, which are scaled. Shorter clips are zero-padded.
    Raises AudioError, a ValueError: anything else, with its shape and what to do.
    """
    if not isinstance(audio, (list, tuple)) or _is_pair(audio):
        clips = [audio]
    elif len(audio) == 0:
        raise AudioError("expected one clip or a list of clips, but got an empty list")
    elif all(isinstance(value, numbers.Real) for value in audio):
        raise AudioError(
            f"expected a list of clips, but got a list of {len(audio)} numbers; for one clip pass numpy.array(list)"
        )
    else:
        clips = audio
    waveforms = [_to_waveform(clip, num_samples, single=clips is not audio) for clip in clips]
    return torch.cat([fit_length(waveform, num_samples) for waveform in waveforms])


def _to_waveform(clip, num_samples, single):
    """One clip -> (1 or B, T) at 16 kHz; `single`: it did not come in a list."""
    if isinstance(clip, (str, os.PathLike)):
        return load_clip(clip, num_samples=num_samples)[None]
    if isinstance(clip, dict) or hasattr(clip, "get_all_samples"):  # datasets since 4.0: a decoder read like a dict
        try:
            return _resampled_clip(clip["array"], clip["sampling_rate"], num_samples)
        except (KeyError, TypeError):
            keys = sorted(map(str, clip)) if isinstance(clip, dict) else type(clip).__name__
            raise AudioError(f'expected a clip as {{"array", "sampling_rate"}}, but got {keys}') from None
    if _is_pair(clip):
        rate, samples = clip if _is_number(clip[0]) else clip[::-1]
        return _resampled_clip(samples, rate, num_samples)

    samples = _to_array(clip)
    advice = "give its sample rate, as (rate, samples), or its path"
    if samples.ndim == 2 and samples.shape[0] > samples.shape[1]:  # (T, C), as soundfile reads it
        samples = _channels_last(samples)
    elif samples.ndim == 2 and (single or len(samples) == 1):  # (B, T)
        samples = samples[:, None].swapaxes(1, 2)  # (B, T, 1)
        if samples.shape[1] <= num_samples:
            return torch.stack([torch.from_numpy(_mono(row, "audio")) for row in samples])
        samples = samples[0]
    elif samples.ndim == 2:
        raise AudioError(
            f"expected clips of shape (T,) in a list, but got {samples.shape}, which may be clips or channels; "
            "for channels pass (rate, samples), for clips one array (B, T)"
        )
    else:
        samples = _channels_last(samples)
    if len(samples) > num_samples:
        raise AudioError(
            f"expected at most {num_samples} samples at 16 kHz, but got {samples.shape[0]}; is this another rate, or "
            f"longer? Then {advice}"
        )
    return torch.from_numpy(_mono(samples, "audio"))[None]


def _is_number(value):
    """A number, or an array or tensor that holds just one."""
    return isinstance(value, numbers.Real) or getattr(value, "shape", None) == ()


def _is_pair(clip):
    """Whether this is samples with their rate, in either order."""
    return (
        isinstance(clip, (list, tuple))
        and len(clip) == 2
        and _is_number(clip[0]) != _is_number(clip[1])
        and not any(isinstance(part, (str, os.PathLike, dict)) for part in clip)
    )


def _to_array(samples):
    """An array, tensor or sequence of numbers as float32, integers scaled."""
    if isinstance(samples, torch.Tensor):
        samples = samples.detach().cpu()
        samples = (samples.float() if samples.is_floating_point() else samples).numpy()
    try:
        samples = scale(np.asarray(samples))
    except (TypeError, ValueError) as error:
        raise AudioError(f"audio: {error}, from a {type(samples).__name__}") from None
    if samples.size == 0 or samples.ndim not in (1, 2):
        raise AudioError(
            f"expected audio of shape (T,), (T, C) or (B, T) with samples in it, but got {samples.shape}; a batch has "
            "two dimensions, and channels come as (rate, samples)"
        )
    return samples


def _channels_last(samples):
    """(T,), (T, C) or (C, T) -> (T, C); the shorter axis is the channels."""
    if samples.ndim == 1:
        return samples[:, None]
    samples = samples if samples.shape[0] > samples.shape[1] else samples.T
    if samples.shape[1] > MAX_CHANNELS:
        raise AudioError(
            f"expected audio of shape (T, C) or (C, T) with at most {MAX_CHANNELS} channels, but got {samples.shape}"
        )
    return samples


def _resampled_clip(samples, rate, num_samples):
    """Samples at any rate -> (1, T <= num_samples) at 16 kHz, the loudest part of longer ones."""
    if not (_is_number(rate) and MIN_RATE <= float(rate) <= MAX_RATE):
        raise AudioError(f"expected a sample rate from {MIN_RATE} to {MAX_RATE} Hz, but got {rate}")
    rate = float(rate)
    samples = _channels_last(_to_array(samples))
    seconds, hop = num_samples / SAMPLE_RATE, 0.1
    if len(samples) > seconds * rate:
        size = round(hop * rate)
        blocks = (samples[i : i + size] for i in range(0, len(samples), size))
        start = min(_loudest_window(blocks, round(seconds / hop)) * hop, len(samples) / rate - seconds)
        first = round(start * rate)
        samples = samples[first : first + round(seconds * rate)]
    return _resample(_mono(samples, "audio"), rate, SAMPLE_RATE)[None, :num_samples]
