"""Paired recordings and frames of stage two, in the layout of the authors' sets.

In <data_dir>/<dataset_name>/<data_set>/: audio/<id>.wav and image/<id>_frame_<number>.jpg, several frames for one.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch.utils.data import Dataset, default_collate

from macs.audio import SAMPLE_RATE, AudioError, duration, find_recordings, load_clip
from macs.data.buckets import BUCKETS, LANDSCAPE
from macs.files import visible_files

# Training sizes by set; a folder of any other name has the buckets too
DATASETS = {"LLP": BUCKETS, "AudioSet": BUCKETS, "Landscape": LANDSCAPE}
FRAME = re.compile(r"(.+)_frame_(\d+)", re.DOTALL)  # a frame's name without its suffix: the id, and the number
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
READER = 2  # raise it where `read_image` changes what it gives: latents that were cached before are made anew
ATTEMPTS = 100  # pairs in a row that may fail to be read before it is the disk that is wrong


class PairError(ValueError):
    """A set or a frame that cannot be used; the message names the file, what was expected and what to do."""


@dataclass(frozen=True)
class Pair:
    """A recording and one of its frames."""

    clip_id: str
    audio: Path
    image: Path


def find_pairs(data_dir, dataset_name, data_set="train"):
    """The pairs of a set, sorted by frame, and what had to be left out.

    A frame <id>_frame_<number> or <id> belongs to the recording <id>; the id may hold `-`, `#` and `_frame_` itself.
    Returns ([Pair], {kind of problem: [paths]}). Raises PairError where there is no pair.
    """
    folder = Path(data_dir) / dataset_name / data_set
    found = {}
    for part in ("audio", "image"):
        if not (folder / part).is_dir():
            sets = sorted(str(path.parent.relative_to(data_dir)) for path in Path(data_dir).glob("*/*/audio"))
            raise PairError(
                f"{folder / part}: no such folder; expected recordings in {folder / 'audio'} and frames in "
                f"{folder / 'image'}. {data_dir} holds the sets: {', '.join(sets) or 'none'}"
            )
    found["audio"], _ = find_recordings(folder / "audio")
    found["image"] = visible_files(folder / "image", IMAGE_SUFFIXES)
    recordings = {path.stem: path for path in reversed(found["audio"])}
    pairs, without_recording = [], []
    for image in found["image"]:
        frame = FRAME.fullmatch(image.stem)
        clip_id = image.stem if image.stem in recordings or not frame else frame[1]
        if clip_id in recordings:
            pairs.append(Pair(clip_id, recordings[clip_id], image))
        else:
            without_recording.append(image)
    heard = {pair.audio for pair in pairs}
    problems = {
        "frames without their recording": without_recording,
        "recordings without a frame": [path for path in recordings.values() if path not in heard],
    }
    if not pairs:
        raise PairError(
            f"{folder}: no frame has its recording: {len(found['audio'])} recordings in audio/, {len(found['image'])} "
            "frames in image/; expected audio/<id>.wav and image/<id>_frame_<number>.jpg"
        )
    return pairs, {kind: paths for kind, paths in problems.items() if paths}


def describe(problems):
    """One line for each kind of problem: what was left out, how often, and which for instance."""
    return [
        f"{len(paths)} {kind}, left out: {', '.join(str(path) for path in paths[:3])}{', ...' * (len(paths) > 3)}"
        for kind, paths in problems.items()
    ]


def to_rgb(image):
    """A PIL image as it is to be seen, in 8-bit RGB: turned as its EXIF entry says, grey repeated, alpha dropped.

    16-bit grey is scaled; PIL's own conversion would clip it to white.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    return image.convert("RGB")


def image_size(path):
    """(height, width) of a frame as it is shown, from its header. Raises PairError."""

    def read(image):
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) > 4  # by 90 degrees
        return image.size if turned else image.size[::-1]

    return _open_image(path, read)


def read_image(path, size):
    """A frame scaled to cover `size` (height, width) and cut to it around its centre: (3, H, W) in [-1, 1].

    Raises PairError.
    """

    def read(image):
        fitted = ImageOps.fit(to_rgb(image), size[::-1], Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).float() / 127.5 - 1

    return _open_image(path, read)


def _open_image(path, use):
    try:
        with Image.open(path) as image:
            return use(image)
    # Pillow raises SyntaxError and ValueError on some broken files
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PairError(f"{path}: the frame cannot be read ({error}); extract or download it again") from None


def read_crop(path, crop, num_crops, num_samples):
    """Crop number `crop` of `num_crops` evenly spread over a recording: (num_samples,) at 16 kHz.

    Shorter recordings are zero-padded, and all their crops are the same. Raises AudioError.
    """
    room = max(0.0, duration(path) - num_samples / SAMPLE_RATE)
    return load_clip(path, room * crop / max(1, num_crops - 1), num_samples)


@dataclass(frozen=True)
class Draws:
    """What is random in training, drawn for each sample from (seed, epoch, index) alone.

    So a sample's crop, flip, dropped embedding, timestep and noise do not depend on batch size, workers or processes.
    num_crops: of a recording. drop_rate: share of the samples whose embeddings are zeros. latent_channels,
    num_timesteps: of the generator.
    """

    seed: int = 0
    num_crops: int = 4
    drop_rate: float = 0.1
    latent_channels: int = 4
    num_timesteps: int = 1000

    def __call__(self, epoch, index, latent_size):
        """latent_size (h, w) -> crop, flip, dropped, timestep, noise (C, h, w), posterior_noise (C, h, w)."""
        rng = np.random.default_rng([self.seed, epoch, index])
        shape = (self.latent_channels, *latent_size)
        return {
            "crop": int(rng.integers(self.num_crops)),
            "flip": bool(rng.random() < 0.5),
            "dropped": bool(rng.random() < self.drop_rate),
            "timestep": int(rng.integers(self.num_timesteps)),
            "noise": torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)),
            "posterior_noise": torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)),
        }


class PairedClips(Dataset):
    """Pairs with their random draws; indexed by (epoch, index), as BucketBatchSampler gives them.

    pairs: [Pair]; sizes: the training size (height, width) of each; num_samples: length of the crops at 16 kHz;
    latent_scale: pixels per latent. Items: `draws`, and waveform (num_samples,), pixels (3, H, W) in [-1, 1], flipped
    where drawn. A pair that cannot be read has its place taken by the next one of its size; `skipped` says why.
    """

    def __init__(self, pairs, sizes, draws, num_samples, latent_scale=8):
        self.pairs, self.sizes, self.draws = pairs, sizes, draws
        self.num_samples, self.latent_scale = num_samples, latent_scale
        members = {}
        for index, size in enumerate(sizes):
            members.setdefault(size, []).append(index)
        self.next = [0] * len(pairs)  # the next pair of the same size
        for indices in members.values():
            for index, following in zip(indices, indices[1:] + indices[:1], strict=True):
                self.next[index] = following

    def __len__(self):
        return len(self.pairs)

    def read(self, index, crop, flip):
        """What is drawn of pair number `index`, as a dictionary of tensors. Raises AudioError, PairError, OSError."""
        pair = self.pairs[index]
        pixels = read_image(pair.image, self.sizes[index])
        return {
            "waveform": read_crop(pair.audio, crop, self.draws.num_crops, self.num_samples),
            "pixels": pixels.flip(-1) if flip else pixels,
        }

    def __getitem__(self, epoch_and_index):
        epoch, index = epoch_and_index
        draws = self.draws(epoch, index, [side // self.latent_scale for side in self.sizes[index]])
        crop, flip = draws.pop("crop"), draws.pop("flip")
        skipped = []
        for _ in range(min(ATTEMPTS, len(self))):
            try:
                return draws | self.read(index, crop, flip) | {"index": index, "skipped": skipped}
            except (AudioError, PairError, OSError) as error:
                skipped.append(str(error))
            index = self.next[index]
        raise PairError(f"{len(skipped)} pairs in a row could not be read; the first: {skipped[0]}")


def collate(items):
    """Items of PairedClips -> a batch of tensors (B, ...); skipped: a list of messages."""
    skipped = [message for item in items for message in item.pop("skipped")]
    return default_collate(items) | {"skipped": skipped}
