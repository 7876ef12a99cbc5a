"""Downloads the Landscape dataset (Lee et al., 2022): 10 s segments of YouTube videos, as mp4 and 16 kHz mono wav.

To DATA_DIR/Landscape/download/{video,audio}/<YouTube id>#<start>#<end>.{mp4,wav}. A rerun goes on where the last one
ended. What has left YouTube no script can get: ask the authors of the dataset for a copy, unpack it, and give its
folder as --from_folder.
"""

import argparse
import shutil
import sys
from pathlib import Path

from download.jobs import JobOptions, add_job_arguments
from download.youtube import Clip, add_arguments, download_clips, download_segment, video_options
from macs.data.labels import read_labels
from macs.script import run


def read_clips(path):
    """Clips of Landscape.csv, whose ids are `<11 characters>#<start>#<end>` (seconds)."""
    clips = []
    for name in read_labels(path):
        youtube_id, _, times = name.partition("#")
        start, _, end = times.partition("#")
        try:
            clips.append(Clip(name, youtube_id, float(start), float(end)))
        except ValueError:
            raise ValueError(f"{path}: expected ids such as CI0jX5TMs0Q#457#467, got {name!r}.") from None
    return clips


def from_folder(root, otherwise):
    """A `download` that takes `<id>.mp4` from anywhere under root, and asks `otherwise` for the rest."""
    videos = {path.stem: path for path in Path(root).rglob("*.mp4")}
    print(f"{root}: {len(videos)} mp4 files.")

    def download(clip, folder, **options):
        if clip.id in videos:
            return Path(shutil.copy(videos[clip.id], folder / "segment.mp4"))
        return otherwise(clip, folder, **options)

    return download


def main(argv=None, download=download_segment):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="DATA_DIR")
    parser.add_argument("--csv", type=Path, default="asset/Landscape.csv", help="the dataset's list")
    parser.add_argument(
        "--from_folder",
        type=Path,
        help="a folder with <id>.mp4 files of an earlier copy, which are taken instead of YouTube's",
    )
    add_arguments(parser)
    add_job_arguments(parser)
    args = parser.parse_args(argv)
    if args.from_folder:
        download = from_folder(args.from_folder, download)
    try:
        clips = read_clips(args.csv)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    return download_clips(
        clips,
        args.data_dir / "Landscape" / "download",
        JobOptions.of(args),
        **video_options(args),
        download=download,
    )


if __name__ == "__main__":
    run(main)
