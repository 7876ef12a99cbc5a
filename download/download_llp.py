"""Downloads the LLP dataset (Tian et al., 2020): 10 s of each YouTube video in LLP.csv, as mp4 and 16 kHz mono wav.

To DATA_DIR/LLP/download/{video,audio}/<YouTube id>.{mp4,wav}. A rerun goes on where the last one ended; a part of the
videos has left YouTube for good.
"""

import argparse
import sys
from pathlib import Path

from download.jobs import JobOptions, add_job_arguments
from download.youtube import Clip, add_arguments, download_clips, download_segment, video_options
from macs.data.labels import read_labels
from macs.options import integer
from macs.script import run


def read_clips(path, min_labels=1):
    """Clips of a file with ids `<11 characters>_<start>_<end>` (seconds), those with at least so many labels."""
    clips = []
    for name, labels in read_labels(path).items():
        youtube_id, (start, _, end) = name[:11], name[12:].partition("_")
        try:
            clip = Clip(youtube_id, youtube_id, float(start), float(end))
        except ValueError:
            raise ValueError(f"{path}: expected ids such as BjCEufrlXm4_20_30, got {name!r}.") from None
        if len(labels) >= min_labels:
            clips.append(clip)
    return clips


def main(argv=None, download=download_segment):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="DATA_DIR")
    parser.add_argument("--csv", type=Path, default="asset/LLP.csv", help="the dataset's list (AVVP_dataset_full.csv)")
    parser.add_argument(
        "--min_labels",
        type=integer(1),
        default=2,
        help="take the videos with at least so many labels; 2 is the paper's LLP-multi, 1 all of LLP",
    )
    add_arguments(parser)
    add_job_arguments(parser)
    args = parser.parse_args(argv)
    try:
        clips = read_clips(args.csv, args.min_labels)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    return download_clips(
        clips,
        args.data_dir / "LLP" / "download",
        JobOptions.of(args),
        **video_options(args),
        download=download,
    )


if __name__ == "__main__":
    run(main)
