"""Sounds as people have them: short, faint, hissing, clipped, from the next room, through a telephone.

Each augmentation is f(samples, rng) → samples: (T,) float32 at 16 kHz, of the same length; silence stays silence. All
draw from rng only. Those of LINEAR are linear in the samples: sources may be augmented one by one, with generators of
one seed, and still sum to the augmented mixture.
"""

import numpy as np
import soxr
from scipy import fft, signal

from soundscapes.sound.synthesis import SAMPLE_RATE, log_uniform, noise

# What there is to hear ------------------------------------------------------------------------------------------------


def shorten(samples, rng):
    """One short event: 0.3 to 4 s around the loudest moment, then silence, or the same again and again."""
    length = min(int(log_uniform(rng, 0.3, 4) * SAMPLE_RATE), len(samples))
    loudest = np.abs(samples).argmax()
    start = int(np.clip(loudest - rng.uniform(0.05, 0.6) * length, 0, len(samples) - length))
    event = samples[start : start + length] * np.minimum(1, (length - np.arange(length)) / 160).astype(np.float32)
    if rng.random() < 0.5:
        return np.resize(event, len(samples))
    onset = rng.integers(len(samples) - length + 1) if rng.random() < 0.3 else 0
    return np.pad(event, (onset, len(samples) - length - onset))


# In the air: linear -------------------------------------------------------------------------------------------------


def speed(samples, rng):
    """Up to a fifth slower or faster, the pitch going with it; what a faster one lacks is taken from its beginning."""
    factor = log_uniform(rng, 0.8, 1.25)
    changed = soxr.resample(samples, SAMPLE_RATE * factor, SAMPLE_RATE)
    return np.resize(changed, len(samples))


def reverberate(samples, rng):
    """A room's impulse response: the sound itself, then noise decaying over 0.1 to 1.2 s (RT60), darker the later."""
    length = int(log_uniform(rng, 0.1, 1.2) * SAMPLE_RATE)
    tail = rng.standard_normal(length, np.float32) * np.exp(-6.9 * np.arange(length, dtype=np.float32) / length)
    darkness = rng.uniform(0, 0.9)
    tail = signal.lfilter([1 - darkness], [1, -darkness], tail).astype(np.float32)
    tail *= log_uniform(rng, 0.05, 1.5) / np.sqrt(np.sum(tail**2))  # reverberant to direct amplitude
    delay = int(rng.uniform(0.001, 0.03) * SAMPLE_RATE)
    response = np.concatenate([np.ones(1, np.float32), np.zeros(delay, np.float32), tail])
    return signal.fftconvolve(samples, response)[: len(samples)].astype(np.float32)


def equalise(samples, rng):
    """A smooth random gain over the logarithm of the frequency, ±12 dB, as of other microphones and places."""
    frequencies = np.array([30, 125, 350, 1000, 2800, 8000])
    return _with_gain(samples, frequencies, rng.uniform(-12, 12, len(frequencies)))


def band(samples, rng):
    """A band as of a telephone (300 to 3400 Hz), of a low sampling rate (from 2 kHz up), or of a small loudspeaker."""
    kind = rng.choice(["telephone", "sampling rate", "loudspeaker"])
    low = {"telephone": 300, "sampling rate": 20, "loudspeaker": log_uniform(rng, 120, 600)}[kind]
    high = {"telephone": 3400, "sampling rate": log_uniform(rng, 2000, 7000), "loudspeaker": 7800}[kind]
    frequencies = np.array([0.3 * low, low, high, min(1.25 * high, 8000)])
    return _with_gain(samples, frequencies, np.array([-60, 0, 0, -60]))


def _with_gain(samples, frequencies, decibels):
    """Filters without delay: the gain is linear in dB over the logarithm of the frequency between the given ones."""
    size = fft.next_fast_len(len(samples) + SAMPLE_RATE // 4, real=True)  # a filter's ringing must not wrap around
    grid = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 1)
    gain = 10 ** (np.interp(np.log(grid), np.log(frequencies), decibels) / 20)
    return fft.irfft(fft.rfft(samples, size) * gain.astype(np.float32), size)[: len(samples)]


# In the recorder and on its way -------------------------------------------------------------------------------------


def background(samples, rng):
    """A recorder's and a place's noise, 0 to 40 dB below the sound: hiss to rumble, and in some a mains hum."""
    level = np.sqrt(np.mean(samples**2)) * 10 ** (-rng.uniform(0, 40) / 20)
    added = noise(rng, log_uniform(rng, 20, 300), log_uniform(rng, 2000, 8000), rng.uniform(-2, 5), len(samples))
    if rng.random() < 0.2:
        seconds = np.arange(len(samples), dtype=np.float32) / SAMPLE_RATE
        mains = rng.choice([50, 60])
        added += sum(rng.uniform(0, 1) * np.sin(2 * np.pi * mains * k * seconds) for k in (1, 2, 3, 5))
    return samples + (level * added).astype(np.float32)


def clip(samples, rng):
    """Cut off at the level that its loudest samples, a tenth of them at most, exceed."""
    loud = np.quantile(np.abs(samples), 1 - log_uniform(rng, 0.001, 0.1))
    limit = max(loud, 0.05 * np.abs(samples).max())  # of a lone event in silence something is left
    return np.clip(samples, -limit, limit).astype(np.float32)


def codec(samples, rng):
    """Logarithmic quantisation as of telephony (ITU-T G.711's mu-law), with 8 down to 5 bits."""
    peak = np.abs(samples).max() + 1e-9
    steps = 2 ** rng.integers(5, 9) / 2 - 1
    coded = np.round(np.log1p(255 * np.abs(samples) / peak) / np.log(256) * steps) / steps
    return (np.sign(samples) * (256**coded - 1) / 255 * peak).astype(np.float32)


def level(samples, rng):
    """A peak between full scale and 50 dB below it, in steps of 16-bit samples."""
    gain = 10 ** (-rng.uniform(0, 50) / 20) / (np.abs(samples).max() + 1e-9)
    return np.round(32767 * gain * samples).astype(np.float32) / 32768


# Together -----------------------------------------------------------------------------------------------------------

SHORT = ((shorten, 0.3),)
LINEAR = ((speed, 0.4), (reverberate, 0.4), (equalise, 0.5))
RECORDED = ((background, 0.5), (band, 0.4), (clip, 0.15), (codec, 0.15), (level, 1.0))


def augment(samples, rng, augmentations=SHORT + LINEAR + RECORDED):
    """Applies each of (augmentation, probability) or not, in their order: (T,) float32 at 16 kHz → (T,)."""
    for change, probability in augmentations:
        if rng.random() < probability:
            samples = change(samples, rng)
    return samples
