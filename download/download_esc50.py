"""Downloads ESC-50 (Piczak, 2015), 2000 environmental recordings of 5 s, from GitHub to DATA_DIR/ESC-50.

By default only the 400 clips of ESC-10 (176 MB), which are CC BY; --all brings all 2000 (880 MB), whose licence,
CC BY-NC, allows no commercial use. Every file is checked against GitHub's checksum, and what broke off is continued.
"""

import argparse
import re
from pathlib import Path

from download.jobs import Gone, JobOptions, TryLater, add_job_arguments, run_jobs
from download.web import RemoteFile, download_file, read_json
from macs.script import run

LISTING = "https://api.github.com/repos/karolpiczak/ESC-50/git/trees/master?recursive=1"
FILES = "https://raw.githubusercontent.com/karolpiczak/ESC-50/master"
DESCRIPTION = ("meta/esc50.csv", "LICENSE", "README.md")  # the LICENSE credits every clip's author
# dog, rooster, rain, sea waves, crackling fire, crying baby, sneezing, clock tick, helicopter, chainsaw
ESC10 = {0, 1, 10, 11, 12, 20, 21, 38, 40, 41}
CLIP = re.compile(r"audio/\d-\d+-[A-Z]-(\d+)\.wav")  # fold, Freesound's number, take, class


def main(argv=None, listing=LISTING, files=FILES):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="DATA_DIR")
    parser.add_argument("--all", action="store_true", help="all of ESC-50 (CC BY-NC), not only ESC-10 (CC BY)")
    add_job_arguments(parser, workers=4, interval=0.2)
    args = parser.parse_args(argv)

    root = args.data_dir / "ESC-50"
    try:
        entries = read_json(listing)["tree"]
    except (Gone, TryLater, KeyError) as error:
        print(
            f"GitHub's list of files could not be read ({error}). Is the network there? For a machine without one, "
            f"unpack https://github.com/karolpiczak/ESC-50/archive/master.zip as {root}: {root}/meta/esc50.csv must be "
            "there."
        )
        return 1
    remote = []
    for entry in entries:
        clip = CLIP.fullmatch(entry["path"])
        if entry["path"] in DESCRIPTION or clip and (args.all or int(clip[1]) in ESC10):
            name = entry["path"]
            remote.append(RemoteFile(name, f"{files}/{name}", root / name, entry["size"], f"git:{entry['sha']}"))
    remote.sort(key=lambda file: file.id not in DESCRIPTION)  # these first

    def complete(file, entry):
        return file.path.is_file() and file.path.stat().st_size == file.size

    return run_jobs(
        remote, download_file, root, complete, JobOptions.of(args), journal_name="downloads.jsonl", unit="file"
    )


if __name__ == "__main__":
    run(main)
