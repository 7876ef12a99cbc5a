"""Recordings of a minute in which sources come and go at known times."""

from dataclasses import dataclass

import numpy as np

from soundscapes.sound.recipes import AMBIENCES, EVENTS, synthesise
from soundscapes.sound.synthesis import SAMPLE_RATE

FADE = SAMPLE_RATE // 2


@dataclass
class Minute:
    """parts: [(label, entry, exit in s)]. stems (S, T) float32 at 16 kHz sum to the mixture (T,)."""

    parts: list
    stems: np.ndarray

    @property
    def mixture(self):
        return self.stems.sum(0)

    @property
    def seconds(self):
        return self.stems.shape[1] // SAMPLE_RATE

    def sounding(self):
        """{label: (seconds,) bool}: the seconds in which each sounds for at least half of it."""
        second = np.arange(self.seconds)
        return {label: (second >= start) & (second < end) for label, start, end in self.parts}


def make_minute(index, seed=0):
    """Number 0: rain, in it a dog (10-25 s), a bell (30-40), a train (45-60); the others as drawn."""
    rng = np.random.default_rng([index, seed, 23])
    if index == 0:
        parts = [("rain", 0, 60), ("dog", 10, 25), ("bell", 30, 40), ("train", 45, 60)]
    else:
        events = rng.permutation(list(EVENTS))[:3].tolist()
        now, parts = int(rng.integers(5, 12)), [(str(rng.choice(list(AMBIENCES))), 0, 60)]
        for i, event in enumerate(events):
            end = min(60, now + int(rng.integers(9, 16)))
            parts.append((event, now, end))
            now = end + int(rng.integers(-2, 6)) if i < 2 else 0
    stems = np.stack([_stem(rng, *part) for part in parts])
    stems *= 10 ** (rng.uniform(-6, 0, (len(stems), 1)).astype(np.float32) / 20)
    mixture = stems.sum(0)
    stems *= min(0.06 / mixture.std(), 0.95 / np.abs(mixture).max())
    return Minute(parts, stems.astype(np.float32))


def _stem(rng, label, start, end, seconds=60):
    """One clip of 8 s of the class, repeated from start to end with cross-fades: the same dog all the time."""
    clip = synthesise(label, rng)
    ramp = np.sin(np.linspace(0, np.pi / 2, FADE, dtype=np.float32))
    clip = clip.copy()
    clip[:FADE] *= ramp
    clip[-FADE:] *= ramp[::-1]
    stem = np.zeros(seconds * SAMPLE_RATE, np.float32)
    for onset in range(start * SAMPLE_RATE, end * SAMPLE_RATE, len(clip) - FADE):
        part = stem[onset : min(onset + len(clip), end * SAMPLE_RATE)]
        part += clip[: len(part)]
    return stem
