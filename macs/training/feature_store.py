"""The frozen models' outputs, computed once: source embeddings of every recording, latent moments of every frame.

A cache folder holds <kind>-<fingerprint>/<name>.safetensors, shards of 256 files each. The fingerprint is that of the
weights and settings the outputs depend on, so another separator, crop count or reader of files begins another folder; a
file that was changed (size, time) is computed anew. Shards are written beside and renamed: a kill loses the unfinished
one only. Several processes, of one run or of several, may build at the same time.
"""

import contextlib
import functools
import hashlib
import json
import os
from pathlib import Path

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from macs.audio import AudioError
from macs.data.pairs import PairError
from macs.files import fingerprint, visible_files, write_beside

SHARD_FILES = 256
FILES = 8  # encoded at a time; frames in both flips


class CacheError(RuntimeError):
    """A cache that cannot be written; the message names the file and says what to do."""


@functools.cache  # memory-mapped, without an open file handle
def _shard(path):
    return safe_open(path, framework="pt")


class FeatureStore:
    """The features of one kind with one fingerprint, on disk, memory-mapped and read row by row.

    cache_dir: the cache. data_dir: what the files' names are relative to. kind: "audio", "image".
    settings, model_files: what the features depend on, besides the file itself.
    """

    def __init__(self, cache_dir, data_dir, kind, settings, model_files):
        self.folder = Path(cache_dir) / f"{kind}-{fingerprint(settings, model_files)}"
        self.data_dir, self.kind, self.settings = Path(data_dir), kind, settings
        self.scan()

    def scan(self):
        """Reads the shards' headers; a shard that is damaged is reported and its files count as missing."""
        self.index = {}  # (name, size, time) of a file -> (shard, row, group)
        for path in visible_files(self.folder, [".safetensors"]):
            try:
                header = json.loads(_shard(path).metadata()["header"])
            except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
                tqdm.write(f"{path}: the shard cannot be read ({error}); its features are computed anew")
                with contextlib.suppress(OSError):  # it is reported once
                    os.replace(path, path.with_suffix(".damaged"))
                continue
            for row, file in enumerate(header["files"]):
                self.index[tuple(file)] = (path, row, header["group"])

    def others(self):
        """Folders of this kind that were made with other weights or settings."""
        return [path for path in self.folder.parent.glob(f"{self.kind}-*") if path != self.folder]

    def key(self, path):
        """(name, size in bytes, time in ns) of a file, by which its features are found."""
        stat = path.stat()
        return path.relative_to(self.data_dir).as_posix(), stat.st_size, stat.st_mtime_ns

    def group(self, path):
        """The group of a file's features (a frame's training size), or None as `entry`."""
        entry = self.entry(path)
        return entry and tuple(entry[2])

    def entry(self, path):
        """(shard, row, group) of a file's features, or None where they are missing or the file was changed since."""
        try:
            return self.index.get(self.key(path))
        except OSError:
            return None

    def write(self, keys, features, group):
        """Writes a shard: features (N, parts, ...) of N files, in half precision."""
        header = json.dumps({"files": keys, "group": group})
        path = self.folder / f"{hashlib.sha256(header.encode()).hexdigest()[:16]}.safetensors"
        try:
            with write_beside(path) as partial:
                save_file({"features": features.to("cpu", torch.float16).contiguous()}, partial, {"header": header})
        except (OSError, SafetensorError) as error:
            raise CacheError(
                f"{path}: cannot be written ({error}); make room and start again, the finished shards stay"
            ) from error

    def make_folder(self):
        """Makes the folder, before anything is computed for it. Raises CacheError."""
        try:
            with write_beside(self.folder / "settings.json") as partial:
                partial.write_text(json.dumps(self.settings, indent=2))
        except OSError as error:
            raise CacheError(
                f"{self.folder}: cannot be written ({error.strerror}); choose another --cache_dir"
            ) from error


def read_features(entry, part):
    """Part number `part` of the features that `FeatureStore.entry` found, in float32."""
    shard, row, _ = entry
    return _shard(shard).get_slice("features")[row, part].float()


class _Files(Dataset):
    """Files read in the loader's processes: (key, what was read), or (None, message)."""

    def __init__(self, files, group, key, read):
        self.files, self.group, self.key, self.read = files, group, key, read

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        try:
            key = self.key(self.files[index])  # before reading: a change in between is noticed the next time
            return key, self.read(self.files[index], self.group)
        except (AudioError, PairError, OSError) as error:
            return None, str(error)


def fill(store, files, read, make_encode, accelerator, num_workers=0):
    """Computes the features that a store lacks; the processes of a run share the shards.

    files: {path: group}; a shard holds one group. read(path, group): what the loader's processes do.
    make_encode: called where something is missing: loads the models and returns encode([what was read]) ->
    features (B, parts, ...). Returns the messages of the files that could not be read.
    """
    groups = {}
    for path, group in files.items():
        if store.entry(path) is None:
            groups.setdefault(group, []).append(path)
    shards = [
        (group, paths[i : i + SHARD_FILES])
        for group, paths in groups.items()
        for i in range(0, len(paths), SHARD_FILES)
    ]
    if shards and not store.index and (others := store.others()):
        accelerator.print(
            f"{others[0]} was made with other weights or settings, or an earlier reader of files, and stays; adding "
            f"{store.folder}"
        )
    problems = []
    accelerator.wait_for_everyone()  # all have looked before the first one writes
    mine = shards[accelerator.process_index :: accelerator.num_processes]
    if mine:
        store.make_folder()
        encode = make_encode()
    with tqdm(
        total=sum(len(paths) for _, paths in mine), desc=f"{store.kind} features", unit="file",
        disable=not mine or not accelerator.is_local_main_process,
    ) as bar:  # fmt: skip
        for group, paths in mine:
            keys, features = [], []
            for batch in DataLoader(
                _Files(paths, group, store.key, read), FILES, num_workers=num_workers, collate_fn=list
            ):
                values = [value for key, value in batch if key]
                keys += [key for key, _ in batch if key]
                problems += [message for key, message in batch if not key]
                features += [encode(values).cpu()] if values else []
                bar.update(len(batch))
            if keys:
                store.write(keys, torch.cat(features), group)
    accelerator.wait_for_everyone()
    store.scan()
    return gather_object(problems) if accelerator.num_processes > 1 else problems


def cached_prompt(cache_dir, model_files, encode):
    """The embeddings of the prompt {name: tensor} that `encode()` computes where the cache does not hold them."""
    path = Path(cache_dir) / f"text-{fingerprint({}, model_files)}.safetensors"
    with contextlib.suppress(OSError, SafetensorError), safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}
    texts = {name: embeds.cpu().contiguous() for name, embeds in encode().items()}
    try:
        with write_beside(path) as partial:
            save_file(texts, partial)
    except (OSError, SafetensorError) as error:
        raise CacheError(f"{path}: cannot be written ({error}); choose another --cache_dir") from error
    return texts
