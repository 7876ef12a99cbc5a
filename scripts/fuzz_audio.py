"""Reads damaged recordings: python scripts/fuzz_audio.py --count 10000 --seed 0

Valid files of twelve formats are damaged at random and read. Nothing but AudioError may come, within 5 s and 1 GB;
exits 1 otherwise, with the damaged files kept. One that ends the process itself is left as the newest in the folder.
"""

import argparse
import faulthandler
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import soundfile

from macs.audio import AudioError, duration, load_clip
from macs.options import integer
from macs.script import run

FORMATS = {  # suffix: FFmpeg's options
    "wav": [], "flac": [], "ogg": ["-c:a", "libvorbis"], "mp3": [], "opus": [], "aiff": [], "caf": [], "w64": [],
    "m4a": [], "webm": ["-c:a", "libopus"], "wma": [], "aac": [],
}  # fmt: skip
MAX_SECONDS, MAX_MEGABYTES = 5, 1024


def make_originals(folder):
    """1.5 s of tone and noise in every format of FORMATS -> [paths]."""
    rng = np.random.default_rng(0)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(66150) / 44100) + 0.02 * rng.standard_normal(66150)
    soundfile.write(folder / "source.wav", np.stack([tone, 0.5 * tone], axis=1), 44100)
    paths = [folder / f"original.{suffix}" for suffix in FORMATS]
    for path, options in zip(paths, FORMATS.values(), strict=True):
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", folder / "source.wav", *options, path]
        subprocess.run(command, check=True)
    return paths


def damage(content, rng):
    """Bytes of a file with one to three faults: changed, missing, zeroed, doubled or foreign parts, a cut end."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        # half of the faults hit the header
        at = int(rng.integers(min(len(content), 256) if rng.random() < 0.5 else len(content)))
        length = int(rng.integers(1, max(2, len(content) // 4)))
        kind = rng.integers(7)
        if kind == 0:
            content[at] = rng.integers(256)
        elif kind == 1:
            content[at : at + 4] = bytes([[0, 255, 127, 128][rng.integers(4)]] * 4)
        elif kind == 2:
            content[at : at + length] = bytes(min(length, len(content) - at))
        elif kind == 3:
            content[at:at] = content[at : at + length]
        elif kind == 4:
            content[at:at] = rng.bytes(length)
        elif kind == 5:
            del content[at : at + length]
        else:
            del content[max(at, 1) :]
        content = content or bytearray(1)
    return bytes(content)


def fuzz(folder, count, seed, read=lambda path: (load_clip(path), duration(path))):
    """Damages and reads `count` files -> (Counter of outcomes, [what went wrong], slowest read in s)."""
    originals = [(path.suffix, path.read_bytes()) for path in make_originals(folder)]
    outcomes, faults, slowest = Counter(), [], 0.0
    for number in range(count):
        suffix, content = originals[number % len(originals)]
        path = folder / f"{number}{suffix}"
        path.write_bytes(damage(content, np.random.default_rng([seed, number])))
        start = time.monotonic()
        try:
            read(path)
            outcome = "read"
        except AudioError as error:
            outcome = "AudioError" if str(path) in str(error) else f"an AudioError that does not name the file: {error}"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - start
        slowest = max(slowest, seconds)
        outcomes[f"{suffix} {outcome}" if outcome in ("read", "AudioError") else "fault"] += 1
        if outcome not in ("read", "AudioError"):
            faults.append(f"{path}: {outcome}")
        elif seconds > MAX_SECONDS:
            faults.append(f"{path}: took {seconds:.1f} s")
        else:
            path.unlink()
    return outcomes, faults, slowest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--count", type=integer(1), default=10000, help="damaged files")
    parser.add_argument("--seed", type=integer(0), default=0, help="of the damage")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    faulthandler.enable()
    folder = Path(tempfile.mkdtemp(prefix="fuzz_audio_"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    outcomes, faults, slowest = fuzz(folder, args.count, args.seed)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 - before
    if megabytes > MAX_MEGABYTES:
        faults.append(f"memory grew by {megabytes} MB")
    for outcome, number in sorted(outcomes.items()):
        print(f"{number:6d}  {outcome}")
    print("\n".join(faults))
    print(f"{args.count} damaged files in {folder}: {len(faults)} faults, slowest {slowest:.2f} s, +{megabytes} MB")
    sys.exit(bool(faults))


if __name__ == "__main__":
    run(main)
