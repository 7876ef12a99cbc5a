"""Real recordings beside the recipes: DIR/<class>/*.{wav,ogg,flac,mp3}, and DIR/recordings.csv with their sources.

The csv has the columns filename (<class>/<name>, within DIR), class, source, author, licence, split. A class is one of
the world's, or any other sound: then its recordings are «none of these» and come as "Noise". split is "train" or
"test"; all recordings of one source are of one split, or else a test would meet what training has heard.
soundscapes/prepare_recordings.py makes such a folder.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np

from macs.audio import AUDIO_SUFFIXES, AudioError, duration, read_audio
from macs.data.labels import read_csv
from soundscapes.sound.recipes import AMBIENCES, EVENTS
from soundscapes.sound.synthesis import LENGTH, SAMPLE_RATE

COLUMNS = ("filename", "class", "source", "author", "licence", "split")
NOISE = "Noise"  # what CLAP is told of sounds that the world does not know
LONG = 12  # seconds; of longer recordings only the wanted part is read, shorter ones are kept in memory
FADE = np.linspace(0, 1, 80, dtype=np.float32)  # 5 ms, over which a cut starts and ends, so that it does not click


def read_table(folder):
    """The rows of DIR/recordings.csv as dicts. Raises AudioError, which names what is wrong and where."""
    path = Path(folder) / "recordings.csv"
    if not path.is_file():
        raise AudioError(f"{path}: no such file; soundscapes/prepare_recordings.py makes such a folder")
    try:
        columns, numbered = read_csv(path)
    except ValueError as error:
        raise AudioError(str(error)) from None
    if missing := [column for column in COLUMNS if column not in columns]:
        raise AudioError(f"{path}: the column {missing[0]!r} is missing; expected {', '.join(COLUMNS)}")
    splits = {}
    for number, row in numbered:
        if row["split"] not in ("train", "test"):
            raise AudioError(f"{path}, line {number}: expected the split train or test, not {row['split']!r}")
        if splits.setdefault(row["source"], row["split"]) != row["split"]:
            raise AudioError(f"{path}, line {number}: {row['source']!r} is in both splits; a source can be in one only")
        if not (Path(folder) / row["filename"]).is_file() or not row["filename"].lower().endswith(AUDIO_SUFFIXES):
            raise AudioError(f"{path}, line {number}: {row['filename']!r} is no audio file in {folder}")
    return [row for _, row in numbered]


def label_of(row):
    """What a recording is called: one of the world's classes, or NOISE."""
    return row["class"] if row["class"] in {**AMBIENCES, **EVENTS} else NOISE


class Recordings:
    """The recordings of one split, by class.

    labels: the world's classes there are recordings of, and NOISE if there are any of other sounds. shares
    {label: float}: how many of the scenes' sources are recordings, not recipes: about `share`, but less of a class
    with few sources, or else these would be learnt by heart. Raises AudioError: a folder without the csv,
    a row that cannot be right, no recording of that split.
    """

    def __init__(self, folder, split="train", share=0.5):
        grouped = {}  # label: class: source: paths
        for row in read_table(folder):
            if row["split"] == split:
                sources = grouped.setdefault(label_of(row), {}).setdefault(row["class"], {})
                sources.setdefault(row["source"], []).append(str(Path(folder) / row["filename"]))
        if not grouped:
            raise AudioError(f"{folder}: recordings.csv has no recording of the split {split!r}")
        self.labels = [label for label in (*AMBIENCES, *EVENTS, NOISE) if label in grouped]
        self._paths = {
            label: [list(sources.values()) for sources in classes.values()] for label, classes in grouped.items()
        }
        counts = {label: sum(map(len, classes)) for label, classes in self._paths.items()}
        self.shares = {label: share * counts[label] / (counts[label] + 4) for label in self.labels}

    def excerpt(self, label, rng):
        """A recording of `label` as a source of a scene: (LENGTH,) float32 at 16 kHz, RMS 1 where it is louder.

        The classes of NOISE are equally likely, then a class's sources, then a source's recordings. Of long ones a part
        is taken; short ones are put into silence or repeated.
        """
        choice = self._paths[label]
        while not isinstance(choice, str):
            choice = choice[rng.integers(len(choice))]
        clip = fill(_part(choice, rng), rng, gaps=label not in AMBIENCES)
        power = np.sort(np.mean(clip.reshape(-1, 1600) ** 2, axis=1))
        sounding = power[power > 1e-3 * power[-1]]  # a bark in silence is as loud as one of many
        return clip / np.sqrt(sounding[len(sounding) // 2 :].mean() + 1e-12)


def fill(samples, rng, gaps):
    """Makes (LENGTH,) of a recording (n,), n <= LENGTH: as it is before silence, somewhere in silence, or repeated.

    gaps: pauses are left between its repetitions, as befits events.
    """
    clip = np.zeros(LENGTH, np.float32)
    kind = rng.choice(["before silence", "in silence", "repeated"], p=[0.4, 0.2, 0.4])
    start = rng.integers(LENGTH - len(samples) + 1) if kind == "in silence" else 0
    while start < LENGTH:
        part = clip[start : start + len(samples)]
        part += samples[: len(part)]
        if kind != "repeated":
            break
        start += len(samples) + (int(rng.exponential(0.5) * SAMPLE_RATE) if gaps else 0)
    return clip


def trimmed(samples):
    """Without the silence, 60 dB below the loudest, at both ends of samples (n,); faded in and out."""
    frames = np.pad(samples, (0, -len(samples) % 160)).reshape(-1, 160)
    power = np.mean(frames**2, axis=1)
    heard = np.flatnonzero(power >= 1e-6 * power.max())
    samples = samples[160 * heard[0] : 160 * (heard[-1] + 1)].copy()
    fade = FADE[: len(samples) // 2]
    samples[: len(fade)] *= fade
    samples[len(samples) - len(fade) :] *= fade[::-1]
    return samples


@lru_cache(maxsize=512)  # 120 MB of five-second clips
def _whole(path):
    """A recording without the silence around it, (n,); None of a long one."""
    return trimmed(read_audio(path).numpy()) if duration(path) <= LONG else None


def _part(path, rng):
    samples = _whole(path)
    seconds = LENGTH / SAMPLE_RATE
    if samples is None:
        return trimmed(read_audio(path, rng.uniform(0, duration(path) - seconds), seconds).numpy())[:LENGTH]
    start = rng.integers(max(len(samples) - LENGTH, 0) + 1)
    return samples[start : start + LENGTH]
