"""Features of image and audio files: every content is encoded once, in batches, and kept on disk."""

import copy
import threading
import time
import uuid
import warnings
from collections import defaultdict
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from torch.utils.data import DataLoader
from tqdm import tqdm

import macs.audio
import macs.data.pairs
from macs.audio import read_audio
from macs.data.pairs import to_rgb
from macs.files import sha256, visible_files, write_beside


class _Files(torch.utils.data.Dataset):
    """Item i: (i, [prepared tensor per encoder], None), or (i, None, the reason why the file could not be read)."""

    def __init__(self, paths, prepares, sample_rate):
        self.paths, self.prepares, self.sample_rate = paths, prepares, sample_rate

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        try:
            path, rate = self.paths[i], self.sample_rate
            if rate:
                content = read_audio(path, sample_rate=rate)
            else:
                with Image.open(path) as image:
                    content = to_rgb(image)
            return i, [prepare(content) for prepare in self.prepares], None
        except Exception as error:  # whatever is wrong with one file must not lose the others
            return i, None, f"{type(error).__name__}: {error}"


def encode_files(paths, encoders, cache_dir=None, batch_size=64, num_workers=0, devices=("cpu",)):
    """Features of image or audio files, every distinct content read and encoded once.

    paths: n files; encoders: {name: Encoder}, all of images or all of audio at one rate; cache_dir: folder in which
    features are kept by the files' content (None: nowhere); devices: the batches go to whichever is free.
    Returns ({name: (n, D) float32}, {path: reason}): rows of files that could not be read are NaN.
    Raises ValueError if an encoder returns something that is not finite.
    """
    rates = {encoder.sample_rate for encoder in encoders.values()}
    if len(rates) > 1:
        raise ValueError(f"encode_files takes encoders of one kind; these have sample rates {rates}")
    fingerprints, errors = _fingerprint(paths)
    features = {name: _load_cached(cache_dir, encoder, set(fingerprints)) for name, encoder in encoders.items()}

    # files that miss the same encoders go together: a picture is decoded once for all of them
    groups = defaultdict(dict)
    for path, fingerprint in zip(paths, fingerprints, strict=True):
        missing = tuple(name for name in encoders if fingerprint is not None and fingerprint not in features[name])
        if missing:
            groups[missing].setdefault(fingerprint, path)
    for names, files in groups.items():
        wanted = {name: encoders[name] for name in names}
        broken = _encode(files, wanted, features, cache_dir, batch_size, num_workers, devices)
        errors |= {path: broken[f] for path, f in zip(paths, fingerprints, strict=True) if f in broken}

    result = {}
    for name in encoders:
        width = next((len(row) for row in features[name].values()), 0)
        blank = np.full(width, np.nan, np.float32)
        rows = [features[name].get(f, blank) for f in fingerprints]
        result[name] = np.array(rows, np.float32).reshape(len(paths), width)
    return result, errors


@torch.inference_mode()
def _encode(files, encoders, features, cache_dir, batch_size, num_workers, devices):
    """Adds the features of files {fingerprint: path} to `features`; returns {fingerprint: reason} of unreadable."""
    fingerprints, paths = list(files), list(files.values())
    prepares, rate = [encoder.prepare for encoder in encoders.values()], next(iter(encoders.values())).sample_rate
    loader = DataLoader(_Files(paths, prepares, rate), batch_size=batch_size, num_workers=num_workers, collate_fn=list)
    batches = iter(tqdm(loader, desc=f"Encoding {'clips' if rate else 'images'} ({', '.join(encoders)})", unit="batch"))
    lock, stop, fresh, broken = threading.Lock(), threading.Event(), {name: {} for name in encoders}, {}
    saved = time.monotonic()

    @torch.inference_mode()  # the mode belongs to a thread
    def work(replicas, device):
        nonlocal saved
        replicas = {name: encoder.to(device) for name, encoder in replicas.items()}
        while not stop.is_set():
            with lock:
                items = next(batches, None)
            if items is None:
                return
            broken.update({fingerprints[i]: reason for i, _, reason in items if reason})
            items = [item for item in items if item[2] is None]
            for k, (name, encoder) in enumerate(replicas.items()):
                shapes = defaultdict(list)
                for i, tensors, _ in items:
                    shapes[tensors[k].shape].append((i, tensors[k]))
                for members in shapes.values():
                    rows = encoder(torch.stack([tensor for _, tensor in members]).to(device)).float().cpu().numpy()
                    for (i, _), row in zip(members, rows, strict=True):
                        if not np.isfinite(row).all():
                            raise ValueError(
                                f"{paths[i]}: the features of encoder '{name}' are not finite; "
                                "check its weights and precision. Finished features are kept."
                            )
                        fresh[name][fingerprints[i]] = row
            with lock:
                if time.monotonic() - saved > 30:
                    _save_cached(cache_dir, encoders, fresh, features)
                    saved = time.monotonic()

    try:
        if len(devices) == 1:
            work(encoders, devices[0])
        else:
            replicas = [encoders, *(copy.deepcopy(encoders) for _ in devices[1:])]
            with ThreadPoolExecutor(len(devices)) as pool:
                futures = [pool.submit(work, *pair) for pair in zip(replicas, devices, strict=True)]
                try:
                    wait(futures, return_when=FIRST_EXCEPTION)
                finally:
                    stop.set()
                for future in futures:
                    future.result()
    finally:  # also when interrupted
        with lock:
            _save_cached(cache_dir, encoders, fresh, features)
    return broken


def _fingerprint(paths):
    """SHA-256 of every file's bytes, None where it cannot be read, and {path: reason} for those."""
    errors = {}

    def digest(path):
        try:
            return bytes.fromhex(sha256(path))
        except OSError as error:
            errors[path] = f"{type(error).__name__}: {error}"

    with ThreadPoolExecutor(8) as pool:  # hashing leaves the interpreter lock, reading waits for the disk
        return list(tqdm(pool.map(digest, paths), total=len(paths), desc="Reading files", leave=False)), errors


def _folder(cache_dir, encoder):
    """An encoder's folder in the cache, another one for what another reader of files made."""
    reader = macs.audio.READER if encoder.sample_rate else macs.data.pairs.READER
    return Path(cache_dir, f"{encoder.identity}-r{reader}")


def _load_cached(cache_dir, encoder, wanted):
    """{fingerprint: (D,) features} of what the cache holds of `wanted`."""
    found = {}
    if cache_dir is None:
        return found
    for shard in visible_files(_folder(cache_dir, encoder), [".safetensors"]):
        try:
            tensors = load_file(shard)
        except Exception as error:  # a damaged disk, a half copy: the features are simply made again
            warnings.warn(f"{shard}: damaged, its features are encoded again ({error})", stacklevel=2)
            continue
        keys = [row.tobytes() for row in tensors["fingerprints"]]
        found |= {key: row.copy() for key, row in zip(keys, tensors["features"], strict=True) if key in wanted}
    return found


def _save_cached(cache_dir, encoders, fresh, features):
    """Moves fresh features to `features` and, as one new file per encoder, to the cache. Files are never changed:
    processes may share a cache, and one that is killed leaves every finished file whole."""
    for name, rows in fresh.items():
        features[name].update(rows)
        if cache_dir is not None and rows:
            keys = np.stack([np.frombuffer(key, np.uint8) for key in rows])
            with write_beside(_folder(cache_dir, encoders[name]) / f"{uuid.uuid4().hex}.safetensors") as partial:
                save_file({"fingerprints": keys, "features": np.stack(list(rows.values()))}, partial)
        rows.clear()
