"""Building blocks of synthetic sounds: noise, oscillators, struck modes, voices, rooms. Clips are (LENGTH,) float32."""

import numpy as np
from scipy import fft, signal

SAMPLE_RATE = 16000  # Hz
LENGTH = 8 * SAMPLE_RATE  # samples in a clip
SECONDS = np.arange(LENGTH, dtype=np.float32) / SAMPLE_RATE


def log_uniform(rng, low, high, size=None):
    """Draws with the logarithm uniform: every octave between low and high is equally likely."""
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def noise(rng, low, high, tilt=0.0, length=LENGTH):
    """Gaussian noise (length,) of unit RMS between low and high Hz, falling by `tilt` dB per octave inside."""
    size = fft.next_fast_len(length, real=True)
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)[1:].astype(np.float32)
    edges = (1 + (low / frequencies) ** 8) * (1 + (frequencies / high) ** 8)
    gain = (frequencies / low) ** (-tilt / 6.02) / np.sqrt(edges)
    spectrum = np.zeros(len(gain) + 1, np.complex64)
    spectrum[1:] = gain * rng.standard_normal((len(gain), 2), np.float32).view(np.complex64)[:, 0]
    wave = fft.irfft(spectrum, size)[:length]
    return wave / np.sqrt(np.mean(wave**2))


def wander(rng, low, high, rate, length=LENGTH):
    """A smooth random curve (length,) between low and high, with about `rate` new directions per second."""
    points = max(4, round(rate * length / SAMPLE_RATE) + 2)
    curve = np.repeat(rng.uniform(low, high, points + 4), 8)
    curve = np.convolve(curve, np.hanning(18)[1:-1] / np.hanning(18).sum(), "same")[12:-12]
    return np.interp(np.linspace(0, len(curve) - 1, length), np.arange(len(curve)), curve).astype(np.float32)


def phase(frequency):
    """Phase in radians of an oscillator whose frequency in Hz (n,) changes over time; wrapped into one turn."""
    turns = np.cumsum(frequency, dtype=np.float64) / SAMPLE_RATE
    return ((turns % 1.0) * 2 * np.pi).astype(np.float32)


def bump(length, attack, release):
    """An envelope (length,) that rises and falls along half cosines; attack and release in samples."""
    steps = np.arange(length, dtype=np.float32)
    rise = np.clip((steps + 1) / max(attack, 1), 0, 1)
    fall = np.clip((length - steps) / max(release, 1), 0, 1)
    return (0.5 - 0.5 * np.cos(np.pi * rise)) * (0.5 - 0.5 * np.cos(np.pi * fall))


def place(onsets, pieces):
    """Adds pieces, a sequence of arrays, into a clip (LENGTH,) at onsets in seconds; what hangs over is cut."""
    clip = np.zeros(LENGTH, np.float32)
    for onset, piece in zip(onsets, pieces, strict=True):
        part = clip[int(onset * SAMPLE_RATE) :][: len(piece)]
        part += piece[: len(part)]
    return clip


def scatter(rng, pieces):
    """Adds thousands of short pieces (N, n) into a clip (LENGTH,) at independent, uniform onsets (a Poisson rain)."""
    where = rng.integers(0, LENGTH, len(pieces))[:, None] + np.arange(pieces.shape[1])
    return np.bincount(where.ravel(), pieces.ravel(), LENGTH + pieces.shape[1])[:LENGTH].astype(np.float32)


def rhythm(rng, interval, jitter=0.1, start=None):
    """Onsets in seconds over the clip, about `interval` seconds apart, each displaced by the fraction `jitter`."""
    start = rng.uniform(0, 0.6 * interval) if start is None else start
    onsets = np.arange(start, 7.9, interval)
    return np.clip(onsets + rng.normal(0, jitter * interval, len(onsets)), 0, 7.9)


def modes(frequencies, decays, length):
    """Decaying sinusoids (K, length) of the modes of a struck body; frequencies in Hz, decays (60 dB) in seconds."""
    seconds = SECONDS[:length]
    frequencies, decays = np.asarray(frequencies, np.float32)[:, None], np.asarray(decays, np.float32)[:, None]
    ringing = np.exp(-6.9 / decays * seconds) * np.sin(2 * np.pi * frequencies * seconds)
    return ringing * (frequencies < 0.47 * SAMPLE_RATE)


def formants(source, centres, bandwidths, gains):
    """Filters a throat's source (n,) with resonances side by side; centres and bandwidths in Hz."""
    voice = np.zeros_like(source)
    for centre, bandwidth, gain in zip(centres, bandwidths, gains, strict=True):
        b, a = signal.iirpeak(min(centre, 7500), centre / bandwidth, SAMPLE_RATE)
        voice += gain * signal.lfilter(b.astype(np.float32), a.astype(np.float32), source)
    return voice


def throat(rng, pitch, sharpness, breath):
    """The source of a voice (n,): pulses at pitch (n,) Hz, the sharper the brighter, with a share of breath noise."""
    pulses = np.exp(sharpness * (np.cos(phase(pitch * (1 + 0.01 * wander(rng, -1, 1, 30, len(pitch))))) - 1))
    hiss = rng.standard_normal(len(pitch), np.float32)
    return pulses - pulses.mean() + breath * hiss * (0.3 + pulses)


def room(rng, dry):
    """Puts a clip (LENGTH,) into a random place: an echo of decaying noise (0.1 to 0.9 s), a tilt of the spectrum."""
    tail = int(log_uniform(rng, 0.1, 0.9) * SAMPLE_RATE)
    wet = log_uniform(rng, 0.03, 0.35)
    echo = rng.standard_normal(tail, np.float32) * np.exp(-6.9 * np.arange(tail, dtype=np.float32) / tail)
    echo *= wet / np.sqrt(np.sum(echo**2))
    delay = int(rng.uniform(0.002, 0.02) * SAMPLE_RATE)
    response = np.concatenate([np.zeros(delay, np.float32), echo])
    response[0] = 1
    size = fft.next_fast_len(LENGTH + len(response), real=True)
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE).astype(np.float32)
    tilt = (np.maximum(frequencies, 60) / 1000) ** (rng.uniform(-3, 3) / 6.02)  # up to 3 dB per octave either way
    tilt *= np.clip(frequencies / 40, 0, 1)  # nothing below what a loudspeaker plays
    return fft.irfft(fft.rfft(dry, size) * fft.rfft(response, size) * tilt, size)[:LENGTH]
