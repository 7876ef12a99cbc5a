"""Downloads what names the clips and their best frames into asset/: lists, labels, annotations, frame files.

From the repository of MACS (frame files, AudioSet.csv, Landscape.csv), of the AVVP task (LLP.csv and its annotations)
and from AudioSet (segments, strong labels).
"""

import argparse
from pathlib import Path

from download.jobs import Gone, JobOptions, TryLater, add_job_arguments, run_jobs
from download.web import RemoteFile, download_file, read_json
from macs.script import run

MACS = "https://api.github.com/repos/alxzzhou/MACS/contents/asset"
AVVP = "https://api.github.com/repos/YapengTian/AVVP-ECCV20/contents/data"
AUDIOSET = "https://storage.googleapis.com/us_audioset/youtube_corpus"
AUDIOSET_FILES = ("v1/csv/eval_segments.csv", "strong/audioset_eval_strong.tsv")
LOCAL_NAMES = {"AVVP_dataset_full.csv": "LLP.csv"}


def list_folder(url, output_dir):
    """The .json and .csv files of a folder on GitHub, by its contents API, which tells sizes and checksums."""
    return [
        RemoteFile(
            entry["name"],
            entry["download_url"],
            output_dir / LOCAL_NAMES.get(entry["name"], entry["name"]),
            entry["size"],
            f"git:{entry['sha']}",
        )
        for entry in read_json(url)
        if entry["name"].endswith((".json", ".csv"))
    ]


def main(argv=None, macs=MACS, avvp=AVVP, audioset=AUDIOSET):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default="asset", help="where the files go")
    add_job_arguments(parser, workers=2, interval=0.5)
    args = parser.parse_args(argv)

    files = [
        RemoteFile(Path(name).name, f"{audioset}/{name}", args.output_dir / Path(name).name) for name in AUDIOSET_FILES
    ]
    unlisted = False
    for url in (macs, avvp):
        try:
            files += list_folder(url, args.output_dir)
        except (Gone, TryLater) as error:
            print(f"The list of files could not be read: {error}. Is the network there? Run the command again later.")
            unlisted = True

    def complete(file, entry):  # a file of the same name may be the user's own: it is left alone
        return file.path.is_file()

    code = run_jobs(
        files,
        download_file,
        args.output_dir,
        complete,
        JobOptions.of(args),
        journal_name="downloads.jsonl",
        unit="file",
    )
    return 1 if unlisted else code


if __name__ == "__main__":
    run(main)
