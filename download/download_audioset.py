"""Downloads AudioSet's evaluation segments (Gemmeke et al., 2017): 10 s of each YouTube video, as mp4 and 16 kHz wav.

To DATA_DIR/AudioSet/download/{video,audio}/<YouTube id>.{mp4,wav}. A rerun goes on where the last one ended; a part of
the videos has left YouTube for good.
"""

import argparse
import csv
import io
import json
import sys
from pathlib import Path

from download.jobs import JobOptions, add_job_arguments
from download.youtube import Clip, add_arguments, download_clips, download_segment, video_options
from macs.files import read_text
from macs.script import run

COLUMNS = ["YTID", "start_seconds", "end_seconds", "positive_labels"]


def read_clips(path):
    """Clips of AudioSet's *_segments.csv: three header lines, then id, start, end, "mid,mid,..."."""
    file = io.StringIO(read_text(path))
    lines = [next(file, "") for _ in range(3)]
    if [name.strip(" #\r\n") for name in lines[2].split(",")] != COLUMNS:
        raise ValueError(f"{path}: expected the columns {', '.join(COLUMNS)} in the third line, got {lines[2]!r}.")
    clips = []
    for row in csv.reader(file, skipinitialspace=True):
        try:
            youtube_id, start, end, _ = row
            clips.append(Clip(youtube_id, youtube_id, float(start), float(end)))
        except ValueError:
            raise ValueError(f"{path}: expected {', '.join(COLUMNS)}, got {row}.") from None
    return clips


def main(argv=None, download=download_segment):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="DATA_DIR")
    parser.add_argument("--csv", type=Path, default="asset/eval_segments.csv", help="AudioSet's list of segments")
    parser.add_argument(
        "--frames_json",
        type=Path,
        help="take only the videos named in this file (audioset_eval_frames.json: the strongly labelled ones)",
    )
    add_arguments(parser)
    add_job_arguments(parser)
    args = parser.parse_args(argv)

    try:
        clips = read_clips(args.csv)
        if args.frames_json:
            wanted = json.loads(read_text(args.frames_json))
            clips = [clip for clip in clips if clip.id in wanted]
    except json.JSONDecodeError as error:
        sys.exit(f"{args.frames_json}: cannot be read as JSON ({error}).")
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    return download_clips(
        clips,
        args.data_dir / "AudioSet" / "download",
        JobOptions.of(args),
        **video_options(args),
        download=download,
    )


if __name__ == "__main__":
    run(main)
