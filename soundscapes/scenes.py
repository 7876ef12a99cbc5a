"""Soundscapes: a synthetic world of paired sounds and pictures, made where it is needed, without any download.

A scene is one to three sources at varying levels (at most one ambience, which makes the picture's background), heard
as a mixture with its stems, seen as a painting, named by labels and a caption. It depends on (split, index, seed) only,
and on the recordings, where some take the place of synthesised sources.
"""

import csv
import multiprocessing
import signal
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import soundfile
from tqdm.contrib.concurrent import process_map

from macs.files import write_beside
from soundscapes.paint.landscapes import paint
from soundscapes.sound.recipes import AMBIENCES, EVENTS, synthesise
from soundscapes.sound.recordings import Recordings
from soundscapes.sound.synthesis import SAMPLE_RATE

CLASSES = [*AMBIENCES, *EVENTS]
CLASS_TEXTS = [*(f"The sound of {name}" for name in CLASSES), "Noise"]  # as stage one names them to CLAP
SPLITS = {"train": 0, "val": 1, "test": 2, "demo": 3}
# what is heard, and where an event happens when the ambience is its place
PHRASES = {
    "rain": ("rain falling", "in the rain"),
    "wind": ("wind howling", "in the wind"),
    "sea": ("waves breaking", "by the sea"),
    "stream": ("a stream babbling", "beside a stream"),
    "fire": ("a fire crackling", "at a campfire"),
    "crickets": ("crickets chirping", "among crickets"),
    "traffic": ("traffic passing", "beside a busy road"),
    "bird": ("a bird singing",),
    "dog": ("a dog barking",),
    "cow": ("a cow mooing",),
    "frog": ("a frog croaking",),
    "bell": ("a bell ringing",),
    "clock": ("a clock ticking",),
    "car horn": ("a car horn honking",),
    "train": ("a steam train chuffing",),
    "helicopter": ("a helicopter flying",),
    "siren": ("a siren wailing",),
    "drum": ("a drum beating",),
    "thunder": ("thunder rolling",),
    "cuckoo": ("a cuckoo calling",),
}
PAINTED_AS = {"cuckoo": "bird"}  # of UNTAUGHT: what UNet and judge know it as


@dataclass
class Scene:
    """One scene. Sound and picture are made when first asked for, independently of each other, and then kept.

    labels: one to three of CLASSES, in the order of the stems. caption: what is heard, in words.
    """

    split: str
    index: int
    seed: int
    labels: list[str]
    caption: str
    sample_rate: int = SAMPLE_RATE
    recordings: Recordings | None = None

    @cached_property
    def stems(self):
        """The sources (S, 128000), float32 in [-1, 1], 8 s at 16 kHz; they sum to the mixture exactly.

        Their values lie on the grid of 16-bit samples, so that wav files hold them without loss.
        """
        stems = np.stack([_source(self, place, name) for place, name in enumerate(self.labels)])
        rng = _rng(self, 2)
        stems *= 10 ** (rng.uniform(-6, 0, (len(stems), 1)).astype(np.float32) / 20)
        mixture = stems.sum(0)
        level = np.exp(rng.uniform(np.log(0.04), np.log(0.09)))  # the mixture's RMS: -28 to -21 dBFS
        stems *= min(level / mixture.std(), 0.95 / np.abs(mixture).max())
        return np.round(stems * 32768) / np.float32(32768)

    @cached_property
    def mixture(self):
        """All sources together (128000,), float32 in [-1, 1], 8 s at 16 kHz."""
        return self.stems.sum(0)

    @cached_property
    def image(self):
        """The picture: PIL image 128×128, RGB."""
        return paint([PAINTED_AS.get(name, name) for name in self.labels], _rng(self, 3))

    @property
    def pixels(self):
        """The picture as float32 (3, 128, 128) in [-1, 1], as VAE, UNet and judge take it."""
        return np.array(self.image).transpose(2, 0, 1) / np.float32(127.5) - 1

    @property
    def id(self):
        """The scene's name in file names."""
        return f"{self.split}-{self.seed}-{self.index:06d}"


def _rng(scene, *purpose):
    return np.random.default_rng([SPLITS[scene.split], scene.index, scene.seed, *purpose])


def _source(scene, place, name):
    """A source (128000,): a recording with the probability of their share, else synthesised."""
    rng = _rng(scene, 4, place)
    if scene.recordings and rng.random() < scene.recordings.shares.get(name, 0):
        return scene.recordings.excerpt(name, rng)
    return synthesise(name, _rng(scene, 1, place))


def make_scene(split, index, seed=0, num_sources=None, labels=None, recordings=None):
    """Scene number `index` (from 0) of a split: "train", "val", "test" or "demo".

    num_sources: 1, 2 or 3; drawn if None. labels: the sources, in place of drawn ones: of CLASSES, or cuckoo.
    recordings: Recordings, which some of the sources are drawn from; labels, caption and picture stay the same.
    ValueError where a split or label is unknown, or where the labels hold two ambiences.
    """
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r} of the soundscapes: choose one of {', '.join(SPLITS)}.")
    scene = Scene(split, index, seed, [], "", recordings=recordings)
    rng = _rng(scene, 0)
    drawn = int(rng.integers(1, 4))
    order = rng.permutation(CLASSES).tolist()
    if labels is None:
        if num_sources not in (None, 1, 2, 3):
            raise ValueError(f"A scene has 1, 2 or 3 sources, not {num_sources}.")
        surplus = [name for name in order if name in AMBIENCES][1:]
        labels = [name for name in order if name not in surplus][: num_sources or drawn]
    elif not labels or (unknown := [name for name in labels if name not in PHRASES]):
        raise ValueError(f"Unknown labels {unknown if labels else labels}: the soundscapes know {', '.join(PHRASES)}.")
    elif sum(name in AMBIENCES for name in labels) > 1:
        raise ValueError(f"A scene has one ambience at most, not {labels}.")
    scene.labels = list(labels)
    scene.caption = caption(scene.labels, rng)
    return scene


def caption(labels, rng):
    """Puts labels into words in a way drawn from rng, such as "A dog barking and a bell ringing by the sea"."""
    labels = rng.permutation(labels).tolist()
    style = rng.integers(4)
    if style == 0:
        return "The sound of " + " and ".join(labels)
    places = [PHRASES[name][1] for name in labels if name in AMBIENCES]
    events = [PHRASES[name][0] for name in labels if name not in AMBIENCES]
    if style < 3 and events:
        text = " ".join([" and ".join(events), *places])
    else:
        text = ", ".join(PHRASES[name][0] for name in labels)
    return text[0].upper() + text[1:]


def write_scene(scene, folder, stems=False):
    """Writes audio/<id>.wav (16 bit) and image/<id>_frame_0.jpg into folder, with stems also stems/<id>_<label>.wav.

    Files that are there are left alone; new ones are written beside and renamed, so that none is ever half there.
    """

    def write(path, save):
        if not path.exists():
            with write_beside(path) as partial:
                save(partial)

    folder = Path(folder)
    write(folder / "audio" / f"{scene.id}.wav", lambda path: write_wav(path, scene.mixture))
    write(folder / "image" / f"{scene.id}_frame_0.jpg", lambda path: scene.image.save(path, quality=95))
    for place, name in enumerate(scene.labels if stems else []):
        path = folder / "stems" / f"{scene.id}_{name.replace(' ', '_')}.wav"
        write(path, lambda path, place=place: write_wav(path, scene.stems[place]))


def write_wav(path, samples):
    """Writes a scene's samples (T,) as 16-bit wav, as integers: soundfile would scale floats by 32767, with loss."""
    soundfile.write(path, (samples * 32768).astype(np.int16), SAMPLE_RATE, subtype="PCM_16")


def _numbered_scene(split, index, seed, max_sources, recordings=None, taught=None):
    scene = make_scene(split, index, seed, max_sources and 1 + index % max_sources, recordings=recordings)
    if taught and index % 2 == 0:
        ambiences = [name for name in scene.labels if name in AMBIENCES]
        scene = make_scene(split, index, seed, labels=[taught, *ambiences], recordings=recordings)
    return scene


def _write_number(split, folder, seed, stems, max_sources, recordings, taught, index):
    if multiprocessing.parent_process():  # Ctrl-C ends the script, which ends its workers
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    write_scene(_numbered_scene(split, index, seed, max_sources, recordings, taught), folder, stems)


def write_soundscapes(
    data_dir, counts, seed=0, stems=False, num_workers=1, dataset_name="Soundscapes", max_sources=None, recordings=None,
    taught=None,
):  # fmt: skip
    """Writes {split: number of scenes} as DATA_DIR/<dataset_name>/{split}/{audio,image} with their labels.

    With max_sources the scenes have 1, ..., max_sources in turn, else 1 to 3 as drawn; with recordings, {split:
    Recordings}, some of their sources are real. With taught, one of UNTAUGHT, every other scene is that sound, alone or
    with the scene's ambience. <dataset_name>.csv (filename, event_labels) and captions.csv (filename,
    caption) list the scenes of this call. Called again it makes only what is missing.
    """
    root = Path(data_dir) / dataset_name
    for split, count in counts.items():
        heard = (recordings or {}).get(split)
        write = partial(_write_number, split, root / split, seed, stems, max_sources, heard, taught)
        process_map(write, range(count), max_workers=max(1, num_workers), chunksize=1, desc=f"{split} scenes")
    scenes = [
        _numbered_scene(split, index, seed, max_sources, taught=taught)
        for split, count in counts.items()
        for index in range(count)
    ]
    table = [(scene.id, ",".join(scene.labels)) for scene in scenes]
    _write_table(root / f"{dataset_name}.csv", "event_labels", table)
    _write_table(root / "captions.csv", "caption", [(scene.id, scene.caption) for scene in scenes])


def _write_table(path, column, rows):
    with write_beside(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("filename", column), *rows])
