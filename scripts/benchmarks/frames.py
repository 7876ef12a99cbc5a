"""Frame extraction in clips/s, all ten seconds of each clip, beside one call of ffmpeg for each frame."""

import contextlib
import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.timing import interleaved
from download import extract_frames
from download.ffmpeg import WAV_ARGUMENTS, find_ffmpeg


def add_arguments(parser):
    parser.add_argument("--video", type=Path, help="a clip; without it one of 10 s, 1280x720, 30 frames/s is made")
    parser.add_argument("--clips", type=int, default=8, help="copies of it")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)


def run(args):
    ffmpeg = find_ffmpeg()
    with tempfile.TemporaryDirectory() as folder:
        videos = make_videos(ffmpeg, args, Path(folder))
        ways = {f"{workers} workers": partial(extract, videos, workers) for workers in args.workers}
        ways["a call for each frame"] = partial(extract_one_by_one, ffmpeg, videos)
        seconds = interleaved(ways, args.repeats)
    for name, median in seconds.items():
        print(f"{name:>22}: {args.clips / median:6.2f} clips/s")


def make_videos(ffmpeg, args, folder):
    video = folder / "clip.mp4"
    if args.video:
        video = args.video.resolve()
    else:
        subprocess.run(
            [
                ffmpeg,
                "-v",
                "error",
                "-f",
                "lavfi",
                "-i",
                "testsrc2=s=1280x720:r=30:d=10",
                "-f",
                "lavfi",
                "-i",
                "sine=d=10",
                "-pix_fmt",
                "yuv420p",
                video,
            ],
            check=True,
        )
    videos = folder / "videos"
    videos.mkdir()
    for number in range(args.clips):
        (videos / f"{number:011}.mp4").symlink_to(video)
    return videos


def extract(videos, workers):
    with (
        tempfile.TemporaryDirectory(dir=videos.parent) as data_dir,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        extract_frames.main(
            [
                "--data_dir",
                data_dir,
                "--dataset_name",
                "LLP",
                "--split",
                "train",
                "--choose",
                "all",
                "--video_dir",
                str(videos),
                "--workers",
                str(workers),
            ]
        )


def extract_one_by_one(ffmpeg, videos):
    for video in videos.iterdir():
        for second in range(10):
            subprocess.run(
                [
                    ffmpeg,
                    "-v",
                    "error",
                    "-y",
                    "-ss",
                    str(second + 0.5),
                    "-i",
                    video,
                    "-frames:v",
                    "1",
                    "-q:v",
                    "2",
                    videos.parent / "frame.jpg",
                ],
                check=True,
            )
        subprocess.run([ffmpeg, "-v", "error", "-y", "-i", video, *WAV_ARGUMENTS, videos.parent / "a.wav"], check=True)
