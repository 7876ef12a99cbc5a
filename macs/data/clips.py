"""The labelled clips of stage one: FSD50K, and LLP, AudioSet, Landscape or one's own set for fine-tuning."""

import re
import warnings
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from macs.audio import SAMPLE_RATE, AudioError, duration, find_recordings, fit_length, read_audio
from macs.data.labels import label_texts, read_labels

ATTEMPTS = 100  # clips in a row that may fail to decode before it is the folder that is wrong
YOUTUBE_ID = re.compile(r"(.{11})(?:[_#].*)?")


def audio_folder(data_dir, dataset_name, data_set="train"):
    """Where a set's recordings lie: DATA_DIR/FSD50K, else DATA_DIR/<DATASET_NAME>/<data_set>/audio."""
    root = Path(data_dir) / dataset_name
    return root if dataset_name == "FSD50K" else root / data_set / "audio"


def find_audio(folder):
    """The recordings in a folder, sorted by name. Raises FileNotFoundError where there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected one with recordings (wav, flac, ogg, mp3).")
    paths, _ = find_recordings(folder)
    if not paths:
        raise FileNotFoundError(f"{folder}: expected recordings (wav, flac, ogg, mp3), but there are none.")
    return paths


def label_files(data_dir, dataset_name):
    """The set's own label files: collection_*.csv of FSD50K, else <DATASET_NAME>.csv, there or in asset/."""
    root = Path(data_dir) / dataset_name
    if dataset_name == "FSD50K":
        expected, found = root / "collection_dev.csv", sorted(root.glob("collection_*.csv"))
    else:
        expected = root / f"{dataset_name}.csv"
        found = [path for path in (expected, Path("asset") / expected.name) if path.is_file()][:1]
    if not found:
        raise FileNotFoundError(f"{expected}: no such file; name the set's label files with --labels.")
    return found


def labels_of(paths, files):
    """The labels of recordings: [labels] for each path, by its name, or by the YouTube id the name begins with.

    files: label files that `read_labels` takes. A recording without a row has no labels; how many there are is one
    warning. Raises ValueError where none has a row.
    """
    labels = {}
    for file in files:
        labels |= read_labels(file)
    by_video = {match[1]: names for key, names in labels.items() if (match := YOUTUBE_ID.fullmatch(key))}
    found = []
    for path in paths:
        match = YOUTUBE_ID.fullmatch(path.stem)
        found.append(labels.get(path.stem, by_video.get(match[1]) if match else None))
    unknown = [path.name for path, names in zip(paths, found, strict=True) if names is None]
    where = " and ".join(map(str, files))
    if len(unknown) == len(paths):
        raise ValueError(f"{where}: expected a row for each recording in {paths[0].parent}, but there is none for any "
                         f"of the {len(paths)}, such as {unknown[0]}.")  # fmt: skip
    if unknown:
        warnings.warn(f"{len(unknown)} of {len(paths)} recordings have no row in {where}, such as {unknown[0]}; they "
                      "are used without labels.", stacklevel=2)  # fmt: skip
    return [names or [] for names in found]


def with_labels(paths, files):
    """Those of the recordings that have labels: FSD50K is used without the others, as in the original.

    files: label files that `read_labels` takes. Raises ValueError where none has labels.
    """
    labels = {}
    for file in files:
        labels |= read_labels(file)
    kept = [path for path in paths if labels.get(path.stem)]
    if not kept:
        where = " and ".join(map(str, files))
        raise ValueError(f"{where}: expected labels for the recordings in {paths[0].parent}, but none of the "
                         f"{len(paths)} has any, such as {paths[0].name}.")  # fmt: skip
    return kept


class Clips(Dataset):
    """Random excerpts of recordings with their texts, the same for every (seed, epoch, index) whatever the workers.

    paths: recordings; text_ids (N, L): for each the numbers of its texts; num_samples: length of the excerpts at
    16 kHz. A longer recording is cropped at random, a shorter one zero-padded at a random offset.
    Items: waveform (num_samples,), text_ids (L,), and `skipped`: what was wrong with the recordings that could not be
    decoded, whose place the next one takes.
    """

    def __init__(self, paths, text_ids, num_samples, seed):
        self.paths, self.text_ids, self.num_samples, self.seed = paths, text_ids, num_samples, seed
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, self.epoch, index])
        skipped = []
        for attempt in range(min(ATTEMPTS, len(self))):
            number = (index + attempt) % len(self)
            try:
                waveform = random_excerpt(self.paths[number], self.num_samples, rng)
            except (AudioError, OSError) as error:
                skipped.append(str(error))
                continue
            return {"waveform": waveform, "text_ids": torch.as_tensor(self.text_ids[number]), "skipped": skipped}
        raise AudioError(f"{len(skipped)} recordings in a row could not be read; the first: {skipped[0]}")


def open_clips(
    data_dir, dataset_name, data_set, labels, validation_set, validation_clips, num_sources, num_samples, seed
):
    """(training Clips, validation Clips, the distinct texts) of a set; see `Clips` for what the text numbers are.

    labels: label files, or None for the set's own. The validation clips, validation_clips at most, are those of the
    part validation_set, or are drawn from a tenth of the set by the seed. num_sources: texts of a clip.
    """
    paths = find_audio(audio_folder(data_dir, dataset_name, data_set))
    files = labels or label_files(data_dir, dataset_name)
    if dataset_name == "FSD50K":
        paths = with_labels(paths, files)
    if validation_set:
        held_out = find_audio(audio_folder(data_dir, dataset_name, validation_set))[:validation_clips]
    else:
        order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed)).tolist()
        count = min(validation_clips, len(paths) // 10)
        held_out = [paths[i] for i in sorted(order[:count])]
        paths = [paths[i] for i in sorted(order[count:])]
    texts = [label_texts(names, dataset_name, num_sources) for names in labels_of(paths + held_out, files)]
    numbers = {text: i for i, text in enumerate(sorted({text for row in texts for text in row}))}
    text_ids = torch.tensor([[numbers[text] for text in row] for row in texts])
    training = Clips(paths, text_ids[: len(paths)], num_samples, seed)
    return training, Clips(held_out, text_ids[len(paths) :], num_samples, seed), list(numbers)


def random_excerpt(path, num_samples, rng):
    """(num_samples,) of a recording at 16 kHz: a random crop, or all of it zero-padded at a random offset."""
    seconds = num_samples / SAMPLE_RATE
    room = duration(path) - seconds
    waveform = read_audio(path, rng.uniform(0, room) if room > 0 else 0.0, seconds)[:num_samples]
    return fit_length(waveform, num_samples, rng.integers(num_samples - len(waveform) + 1))


def collate(items):
    """Batches items of `Clips`: waveform (B, T), text_ids (B, L), skipped: a list of messages."""
    return {
        "waveform": torch.stack([item["waveform"] for item in items]),
        "text_ids": torch.stack([item["text_ids"] for item in items]),
        "skipped": [message for item in items for message in item["skipped"]],
    }


def find_stems(paths):
    """{recording: [its stems]} for those with known sources: audio/<id>.wav has stems/<id>_<label>.wav, two or more."""
    folder = paths[0].parent.parent / "stems"
    stems = {path.stem: [] for path in paths}
    for stem in find_audio(folder) if folder.is_dir() else []:
        pieces = stem.stem.split("_")
        for end in range(len(pieces) - 1, 0, -1):
            if (name := "_".join(pieces[:end])) in stems:
                stems[name].append(stem)
                break
    return {path: stems[path.stem] for path in paths if len(stems[path.stem]) > 1}
