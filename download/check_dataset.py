"""Looks through a prepared dataset: a report (text and figure) and a list of what training would stumble over.

    python download/check_dataset.py --data_dir data --dataset_name LLP --labels_csv asset/LLP.csv

Reads every recording and decodes every picture. Exit code 1 if there is anything to put right.
"""

import argparse
import os
import statistics
import sys
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from download.dataset_figure import bytes_text, draw_report
from download.extract_frames import labels_by_video
from download.journal import read_journal
from macs.audio import SILENCE, AudioError, find_recordings, read_audio
from macs.data.pairs import FRAME, IMAGE_SUFFIXES
from macs.decoding import decode
from macs.files import PARTIAL, visible_files, write_beside
from macs.options import integer
from macs.script import run

JOURNALS = {"downloads": "download/downloads.jsonl", "archives": "downloads.jsonl", "frames": "frames.jsonl"}
MIN_SECONDS = 1.0
MIN_PIXELS = 64  # of the shorter side
MAX_LISTED = 20  # problems of one kind


@dataclass
class Part:
    """What was found in one folder of clips (a split, or all of FSD50K)."""

    name: str
    seconds: dict = field(default_factory=dict)  # id -> length of the recording
    sample_rates: Counter = field(default_factory=Counter)
    frames: dict = field(default_factory=lambda: defaultdict(list))  # id -> [second]
    sizes: Counter = field(default_factory=Counter)  # (width, height) of the pictures
    bytes: int = 0


def check_recording(path, min_seconds):
    """(seconds, sample rate, problem or None) of a recording; the first two are None if it cannot be opened."""
    seconds = rate = None
    try:
        seconds, rate = decode(path, lambda recording: (recording.length() / recording.rate, recording.rate))
        waveform = read_audio(path, sample_rate=rate)
    except AudioError as error:
        return seconds, rate, str(error).removeprefix(f"{path}: ")
    if waveform.abs().max() < SILENCE:
        return seconds, rate, "silent from beginning to end"
    if seconds < min_seconds:
        return seconds, rate, f"only {seconds:.2f} s long"
    return seconds, rate, None


def check_picture(path):
    """((width, height) or None, problem or None) of a picture; it is decoded, which finds those that are cut off."""
    try:
        with Image.open(path) as image:
            size = image.size
            image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        return None, f"not a picture that can be read ({error})".replace(str(path), "the file")
    return size, f"only {size[0]}x{size[1]} pixels" if min(size) < MIN_PIXELS else None


def check_part(name, audio_dir, image_dir, problems, workers):
    """Checks the clips of a folder, and their pictures if image_dir is given; adds (kind, path, what) to problems."""
    part = Part(name)
    recordings, _ = find_recordings(audio_dir) if audio_dir.is_dir() else ([], [])
    pictures = visible_files(image_dir, IMAGE_SUFFIXES) if image_dir else []
    if not recordings:
        problems.append(("no sound at all", audio_dir, "no recordings in it"))
    with ThreadPoolExecutor(workers) as pool:
        # FSD50K has clips of 0.3 s, which are padded; but a 10 s segment of a video that short has come to harm
        results = pool.map(partial(check_recording, min_seconds=MIN_SECONDS if image_dir else 0.0), recordings)
        results = tqdm(results, f"{name} audio", len(recordings))
        for path, (seconds, rate, problem) in zip(recordings, results, strict=True):
            part.bytes += path.stat().st_size
            if seconds is not None:
                part.seconds[path.stem] = seconds
                part.sample_rates[rate] += 1
            if problem:
                problems.append(("sound that cannot be used", path, problem))
        results = pool.map(check_picture, pictures)
        for path, (size, problem) in zip(pictures, tqdm(results, f"{name} pictures", len(pictures)), strict=True):
            part.bytes += path.stat().st_size
            if match := FRAME.fullmatch(path.stem):
                part.frames[match[1]].append(int(match[2]))
            else:
                problems.append(("names", path, "expected <id>_frame_<second>.jpg"))
            if size:
                part.sizes[size] += 1
            if problem:
                problems.append(("pictures that cannot be used", path, problem))
    ids = {path.stem: path.name for path in recordings}
    if image_dir:
        problems += [
            ("sound without a picture", audio_dir / ids[id], f"no {id}_frame_<n>.jpg in {image_dir}")
            for id in sorted(ids.keys() - part.frames.keys())
        ]
        problems += [
            (
                "pictures without a sound",
                image_dir / f"{id}_frame_{part.frames[id][0]}.jpg",
                f"no {id}.wav in {audio_dir}",
            )
            for id in sorted(part.frames.keys() - ids.keys())
        ]
    return part


def check_labels(parts, labels, complete, problems):
    """Clips that the label files do not name; and, where all that they name are expected, those that are not there."""
    ids = {id for part in parts for id in part.seconds}
    problems += [("clips without labels", id, "not in the label file") for id in sorted(ids - labels.keys())]
    if complete:
        problems += [
            ("clips that are missing", id, "in the label file, but no recording") for id in labels if id not in ids
        ]


def check_splits(parts, problems):
    """YouTube videos that are in several splits."""
    splits = defaultdict(set)
    for part in parts:
        for id in part.seconds:
            splits[id[:11]].add(part.name)
    problems += [
        ("videos in several splits", id, " and ".join(sorted(names)))
        for id, names in sorted(splits.items())
        if len(names) > 1
    ]


def check_leftovers(root, problems):
    """Half-done downloads, which a rerun of the download continues, and files that a kill left unfinished."""
    for path in [*root.rglob("*.part"), *(root / name for name in (".partial", "download/.partial"))]:
        if path.exists():
            problems.append(("left over from a run that was stopped", path, "run that command again to finish"))
    for path in root.rglob(f"{PARTIAL}*"):
        problems.append(("left over from a run that was stopped", path, "remove it"))


def report_text(root, journals, parts, labels, problems):
    lines = [f"{root}"]
    for name, entries in journals.items():
        states = Counter(entry["state"] for entry in entries.values())
        lines.append(
            f"{name}: {len(entries)} asked for, {states['done']} got, {states['gone']} gone, {states['failed']} failed"
        )
        reasons = Counter((entry["state"], entry["reason"]) for entry in entries.values() if entry["state"] != "done")
        lines += [f"  {count:6d} {state}: {reason}" for (state, reason), count in reasons.most_common(10)]
    for part in parts:
        frames = sum(map(len, part.frames.values()))
        lines.append(f"{part.name}: {len(part.seconds)} clips, {frames} frames, {bytes_text(part.bytes)}")
        if part.seconds:
            lengths = sorted(part.seconds.values())
            rates = ", ".join(f"{rate} Hz ({count})" for rate, count in part.sample_rates.most_common())
            lines.append(
                f"  sound: {sum(lengths) / 3600:.2f} h, each {lengths[0]:.2f} to {lengths[-1]:.2f} s "
                f"(median {statistics.median(lengths):.2f} s), {rates}"
            )
        if part.sizes:
            sizes = ", ".join(f"{w}x{h} ({count})" for (w, h), count in part.sizes.most_common(4))
            lines.append(
                f"  pictures: {sizes}" + (f" and {len(part.sizes) - 4} other sizes" if len(part.sizes) > 4 else "")
            )
    if labels:
        numbers = Counter(len(labels.get(id, ())) for part in parts for id in part.seconds)
        lines.append("labels per clip: " + ", ".join(f"{n} ({count})" for n, count in sorted(numbers.items())))
    kinds = defaultdict(list)
    for kind, where, what in problems:
        kinds[kind].append(f"  {where}: {what}")
    lines.append(f"{len(problems)} things to put right" + (":" if problems else "."))
    for kind, found in kinds.items():
        lines.append(f"{kind} ({len(found)}):")
        lines += found[:MAX_LISTED] + ([f"  ... and {len(found) - MAX_LISTED} more"] if len(found) > MAX_LISTED else [])
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="DATA_DIR")
    parser.add_argument("--dataset_name", required=True, help="folder in DATA_DIR: FSD50K, LLP, AudioSet, Landscape")
    parser.add_argument(
        "--labels_csv",
        type=Path,
        nargs="*",
        help="label files (default: collection_*.csv of FSD50K; none for the others)",
    )
    parser.add_argument(
        "--workers", type=integer(1), default=os.cpu_count(), help="threads (default: one for each core)"
    )
    args = parser.parse_args(argv)
    root = args.data_dir / args.dataset_name
    if not root.is_dir():
        sys.exit(f"{root}: no such folder. First: bash download/prepare_{args.dataset_name.lower()}.sh")

    problems = []
    single = args.dataset_name == "FSD50K"  # sounds only, and in one folder
    splits = [name for name in ("train", "eval", "val", "test") if (root / name).is_dir()]
    if single:
        parts = [check_part("all", root, None, problems, args.workers)]
    else:
        parts = [
            check_part(name, root / name / "audio", root / name / "image", problems, args.workers) for name in splits
        ]
    if not parts:
        problems.append(("no splits", root, "neither train/ nor test/ in it; run download/extract_frames.py"))
    label_files = args.labels_csv or (sorted(root.glob("collection_*.csv")) if single else [])
    try:
        labels = {id: names for path in label_files for id, names in labels_by_video(path).items()}
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    if labels:
        check_labels(parts, labels, single, problems)
    if not single:
        check_splits(parts, problems)
    check_leftovers(root, problems)
    journals = {name: read_journal(root / path)[0] for name, path in JOURNALS.items() if (root / path).exists()}

    text = report_text(root, journals, parts, labels, problems)
    print(text)
    with write_beside(root / "report.txt") as path:
        path.write_text(text + "\n")
    with write_beside(root / "report.png") as path:
        draw_report(args.dataset_name, journals, parts, labels, len(problems)).savefig(path, dpi=110)
    print(f"This report: {root / 'report.txt'}, as a figure: {root / 'report.png'}")
    return 1 if problems else 0


if __name__ == "__main__":
    run(main)
