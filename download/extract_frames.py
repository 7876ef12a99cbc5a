"""Videos -> the layout that training reads: {train,test}/audio/<id>.wav and image/<id>_frame_<second>.jpg.

Frame n of a video is the picture that shows in the middle of second n, at n + 0.5 s. Each video is decoded once,
whatever the number of frames asked for; what is chosen depends on the seed and the video alone.
"""

import argparse
import hashlib
import json
import os
import random
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from download.ffmpeg import WAV_ARGUMENTS, FFmpegError, find_ffmpeg, run_ffmpeg
from download.jobs import SOME_FAILED, Gone, JobOptions, add_job_arguments, run_jobs
from download.journal import read_journal
from download.preprocess_audioset import best_seconds
from macs.data.labels import read_labels
from macs.decoding import duration
from macs.files import publish, sha256, visible_files
from macs.options import integer, number
from macs.script import run

JOURNAL = "frames.jsonl"
MIN_SECONDS = 1.0
# The picture that shows at 0.5, 1.5, 2.5, ... s (the last frame at or before it); square pixels; even width for JPEG
FILTER = "fps=1:start_time=0.5:round=up,scale='trunc(iw*sar/2)*2:ih',setsar=1"


@dataclass(frozen=True)
class Video:
    id: str
    path: Path
    split: str
    events: tuple | None  # of the frames file, or None

    def __str__(self):
        return f"{self.path} -> {self.split}"


def read_frames_json(path):
    """Reads a frames file into {id: list}, and whether the lists are counts.

    Counts (LLP_*.json): n_0, n_1, ..., the events in each second. Else (audioset_eval_frames.json) the best seconds
    themselves, in ascending order, which ten counts never are in all videos of a file.
    """
    try:
        events = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: cannot be read as JSON ({error}).") from None
    if not (
        isinstance(events, dict)
        and events
        and all(
            isinstance(values, list) and all(isinstance(value, int) for value in values) for values in events.values()
        )
    ):
        raise SystemExit(f"{path}: expected {{video id: [whole numbers]}}.")
    counts = any(a >= b for values in events.values() for a, b in zip(values, values[1:], strict=False))
    return events, counts


def best_available(events, counts, available, min_events=1):
    """The best of the available seconds, ascending; empty if there are none.

    events: counts of events for each second, or the best seconds themselves, or None (all are as good).
    """
    if events is None:
        return list(available)
    if not counts:
        return [second for second in available if second in events]
    return best_seconds({second: events[second] for second in available if second < len(events)}, min_events)


def is_test(id, test_fraction):
    """Whether a video belongs to the test part; depends on the YouTube id alone, so segments of one stay together."""
    digest = hashlib.sha256(id[:11].encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < test_fraction


def extract(ffmpeg, path, folder, threads=1):
    """Writes <second>.jpg for every second of the video and audio.wav (16 kHz, mono) into the folder, in one decode.

    Returns (seconds that have a picture, length of the sound in s, a note if the video is damaged). Raises Gone if it
    has no pictures, no sound or less than a second of it, or cannot be read at all.
    """
    try:
        log = run_ffmpeg(
            ffmpeg,
            [
                "-threads",
                threads,
                "-i",
                path.resolve(),
                # passthrough: else ffmpeg would repeat pictures to fill what it takes for gaps
                "-map",
                "0:V:0",
                "-vf",
                FILTER,
                "-filter_threads",
                1,
                "-fps_mode",
                "passthrough",
                "-q:v",
                2,
                "-start_number",
                0,
                "%d.jpg",
                "-map",
                "0:a:0",
                *WAV_ARGUMENTS,
                "audio.wav",
            ],
            folder,
        )
    except FFmpegError as error:
        raise Gone(str(error)) from None
    seconds = sorted(int(image.stem) for image in folder.glob("*.jpg"))
    length = duration(folder / "audio.wav")
    if not seconds or length < MIN_SECONDS:
        raise Gone(f"only {length:.2f} s of sound and {len(seconds)} s of pictures in it")
    notes = []
    if announced := re.search(r"Duration: (\d+):(\d+):([\d.]+)", log):
        hours, minutes, rest = map(float, announced.groups())
        total = 3600 * hours + 60 * minutes + rest
        if min(length, len(seconds) + 0.5) < total - 1:
            notes.append(f"{length:.1f} s of sound and {len(seconds)} s of pictures instead of {total:.1f} s")
    if errors := len(re.findall(r"Error submitting packet|Decoding error|error while decoding", log)):
        notes.append(f"{errors} errors in decoding, look at its pictures")
    return seconds, length, f"damaged: {', '.join(notes)}" if notes else ""


class ClipSimilarity:
    """CLIP's cosine similarity of pictures and labels (Radford et al., 2021)."""

    def __init__(self, model, device):
        from transformers import CLIPModel, CLIPProcessor

        self.model = CLIPModel.from_pretrained(model).to(device).eval()
        self.processor = CLIPProcessor.from_pretrained(model)
        self.device = device
        self.text_embeds = {}  # of each label, (D,)

    @torch.inference_mode()
    def __call__(self, paths, labels):
        """paths: N pictures; labels: N lists of labels -> (N,): the mean over each picture's labels."""
        names = {name for of_one in labels for name in of_one}
        if new := sorted(names - self.text_embeds.keys()):
            texts = [f"a photo of {name.replace('_', ' ')}" for name in new]
            inputs = self.processor(text=texts, padding=True, truncation=True, return_tensors="pt").to(self.device)
            embeds = self.model.get_text_features(**inputs).pooler_output
            self.text_embeds |= zip(new, torch.nn.functional.normalize(embeds, dim=-1), strict=True)
        images = [Image.open(path).convert("RGB") for path in paths]
        inputs = self.processor(images=images, return_tensors="pt").to(self.device)
        embeds = torch.nn.functional.normalize(self.model.get_image_features(**inputs).pooler_output, dim=-1)
        text = torch.stack([torch.stack([self.text_embeds[name] for name in of_one]).mean(0) for of_one in labels])
        return (embeds * text).sum(-1).tolist()


def choose_by_clip(batch, similarity, labels, num_frames, place):
    """Chooses and places the frames of several extracted videos, after one pass of CLIP over all their pictures.

    batch: [(Video, folder, facts)], where facts["frames"] are the best seconds of which num_frames remain.
    """
    pictures = [(video, folder, second) for video, folder, facts in batch for second in facts["frames"]]
    scores = similarity(
        [folder / f"{second}.jpg" for _, folder, second in pictures], [labels[video.id] for video, _, _ in pictures]
    )
    score = {(video.id, second): value for (video, _, second), value in zip(pictures, scores, strict=True)}
    for video, folder, facts in batch:
        best_first = sorted(facts["frames"], key=lambda second: -score[video.id, second])
        facts["frames"] = sorted(best_first[:num_frames])
        place(video, folder, facts["frames"])


def labels_by_video(path):
    """{id as in the file names: labels}: LLP's ids (<11 characters>_20_30) lose their times, all others stay whole."""
    return {re.sub(r"^(.{11})_[\d.]+_[\d.]+$", r"\1", id): names for id, names in read_labels(path).items()}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="DATA_DIR")
    parser.add_argument("--dataset_name", required=True, choices=["LLP", "AudioSet", "Landscape"])
    parser.add_argument("--video_dir", type=Path, help="folder of <id>.mp4; default: DATA_DIR/NAME/download/video")
    parser.add_argument(
        "--frames_json",
        type=Path,
        help="{id: [events in each second]} or {id: [best seconds]}; without it all seconds are equal",
    )
    parser.add_argument(
        "--split",
        choices=["train", "eval", "test"],
        help="where these videos belong; default: train, or test for --test_fraction of them",
    )
    parser.add_argument(
        "--test_fraction", type=number(0, 1), default=0.1, help="without --split, by a hash of the YouTube id"
    )
    parser.add_argument(
        "--choose",
        choices=["random", "all", "clip"],
        default="random",
        help="of the best seconds: some at random, all, or those most similar to the labels",
    )
    parser.add_argument("--num_frames", type=integer(1), default=1, help="frames for each video (not for --choose all)")
    parser.add_argument(
        "--min_events",
        type=integer(1),
        default=1,
        help="leave out videos in which no second has so many events, where the file has counts",
    )
    parser.add_argument("--seed", type=integer(0), default=0, help="of --choose random")
    parser.add_argument("--labels_csv", type=Path, help="labels of the videos, for --choose clip")
    parser.add_argument("--clip_model", default="openai/clip-vit-base-patch32", help="hub id or folder")
    parser.add_argument(
        "--batch_size", type=integer(1), default=64, help="pictures for each pass of CLIP, of several videos"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of CLIP")
    add_job_arguments(parser, workers=os.cpu_count(), interval=None)
    args = parser.parse_args(argv)
    if args.choose == "clip" and not args.labels_csv:
        parser.error("--choose clip needs --labels_csv")
    return args


def main(argv=None, similarity=ClipSimilarity):
    args = parse_args(argv)
    root = args.data_dir / args.dataset_name
    video_dir = args.video_dir or root / "download" / "video"
    ffmpeg = find_ffmpeg()

    # The videos that are there, and what is known of their seconds
    paths = {path.stem: path for path in visible_files(video_dir, [".mp4"])}
    events, counts, events_hash = {}, False, ""
    if args.frames_json:
        events, counts = read_frames_json(args.frames_json)
        events_hash = sha256(args.frames_json)[:8]
    ids = [id for id in events or paths if id in paths]
    print(f"{video_dir}: {len(ids)} of {len(events or paths)} videos are there.")
    if not ids:
        print(
            f"{video_dir}: nothing to extract. Expected <id>.mp4 as the download scripts leave them; name another "
            "folder by --video_dir."
        )
        return SOME_FAILED
    videos = [
        Video(
            id,
            paths[id],
            args.split or ("test" if is_test(id, args.test_fraction) else "train"),
            tuple(events[id]) if events else None,
        )
        for id in ids
    ]
    labels = {}
    if args.choose == "clip":
        try:
            labels = labels_by_video(args.labels_csv)
        except (OSError, ValueError) as error:
            sys.exit(str(error))
        if unknown := [id for id in ids if not labels.get(id)]:
            print(f"{args.labels_csv}: {len(unknown)} videos have no labels and are left out: {', '.join(unknown[:5])}")
            videos = [video for video in videos if labels.get(video.id)]

    # Frames of different choices shall not mix in one folder
    choice = f"{args.choose} num_frames={args.num_frames} seed={args.seed} frames_json={events_hash}"
    if args.choose == "clip":
        choice += f" clip_model={args.clip_model}"
    before = {
        entry["choice"]
        for id, entry in read_journal(root / JOURNAL)[0].items()
        if id in paths and id in set(ids) and entry["state"] == "done"
    }
    if before - {choice}:
        raise SystemExit(
            f"{root / JOURNAL}: frames of these videos have been chosen otherwise before ({before.pop()}; "
            f"now {choice}). Move {root / JOURNAL} and the image and audio folders away, or take another "
            "--data_dir."
        )

    def outputs(video, seconds):
        folder = root / video.split
        return [
            folder / "audio" / f"{video.id}.wav",
            *(folder / "image" / f"{video.id}_frame_{second}.jpg" for second in seconds),
        ]

    def place(video, folder, seconds):
        sources = [folder / "audio.wav", *(folder / f"{second}.jpg" for second in seconds)]
        for source, target in zip(sources, outputs(video, seconds), strict=True):
            publish(source, target)

    def work(video, folder, stop):
        available, length, note = extract(ffmpeg, video.path, folder, max(1, os.cpu_count() // args.workers))
        seconds = best_available(video.events, counts, available, args.min_events)
        if not seconds:
            if counts and max(video.events, default=0) < args.min_events:
                raise Gone("no second in which enough events are heard and seen")
            raise Gone(f"none of its best seconds is in its {len(available)} s of pictures")
        if args.choose == "random":
            random_of_video = random.Random(f"{args.seed} {video.id}")
            seconds = sorted(random_of_video.sample(seconds, min(args.num_frames, len(seconds))))
        if args.choose != "clip":
            place(video, folder, seconds)
        return {"reason": note, "seconds": round(length, 3), "split": video.split, "frames": seconds, "choice": choice}

    def complete(video, entry):
        return (
            entry is not None
            and entry["state"] == "done"
            and all(path.is_file() for path in outputs(video, entry["frames"]))
        )

    finish, videos_at_once = None, 1
    if args.choose == "clip" and not args.dry_run:
        finish = partial(
            choose_by_clip,
            similarity=similarity(args.clip_model, args.device),
            labels=labels,
            num_frames=args.num_frames,
            place=place,
        )
        videos_at_once = max(1, args.batch_size // 10)
    return run_jobs(
        videos,
        work,
        root,
        complete,
        JobOptions.of(args),
        journal_name=JOURNAL,
        unit="video",
        finish=finish,
        batch=videos_at_once,
    )


if __name__ == "__main__":
    run(main)
