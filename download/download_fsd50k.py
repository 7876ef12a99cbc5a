"""Downloads FSD50K (Fonseca et al., 2022) from Zenodo and unpacks it to DATA_DIR/FSD50K/<fname>.wav.

About 25 GB of archives, 32 GB unpacked; Zenodo's checksums are verified, and what broke off is continued. The archives
stay in DATA_DIR/FSD50K/archives, which may be deleted afterwards.
"""

import argparse
import shutil
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from download.jobs import INTERRUPTED, STOPPED, Gone, JobOptions, TryLater, add_job_arguments, run_jobs
from download.split_zip import open_split_zip
from download.web import RemoteFile, download_file, read_json
from macs.files import write_beside
from macs.script import run

RECORD = "https://zenodo.org/api/records/4060432"
ARCHIVES = ("FSD50K.dev_audio", "FSD50K.eval_audio", "FSD50K.metadata")


def main(argv=None, record=RECORD):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="DATA_DIR")
    add_job_arguments(parser, workers=2, interval=1.0, retries=10)
    args = parser.parse_args(argv)

    # Download: the record names the parts of the archives, with sizes and checksums
    root = args.data_dir / "FSD50K"
    folder = root / "archives"
    try:
        listing = read_json(record)["files"]
    except (Gone, TryLater) as error:
        print(
            f"Zenodo's list of files could not be read ({error}). Is the network there? For a machine without one, "
            f"put the files of https://zenodo.org/records/4060432 into {folder} by hand; they are unpacked below."
        )
        listing = []
    files = [
        RemoteFile(entry["key"], entry["links"]["self"], folder / entry["key"], entry["size"], entry["checksum"])
        for entry in listing
        if Path(entry["key"]).stem in ARCHIVES
    ]

    def complete(file, entry):
        return file.path.is_file() and file.path.stat().st_size == file.size

    code = run_jobs(
        files, download_file, root, complete, JobOptions.of(args), journal_name="downloads.jsonl", unit="archive"
    )
    if args.dry_run or code in (STOPPED, INTERRUPTED):
        return code

    # Unpack what is whole: .z01 to .z05, then .zip
    for name in ARCHIVES:
        parts = sorted(folder.glob(f"{name}.z*"), key=lambda path: (path.suffix == ".zip", path.suffix))
        parts = [path for path in parts if path.suffix != ".part"]
        if parts and all(file.path.is_file() for file in files if file.path.stem == name):
            code = unpack(parts, root) or code
            if code == INTERRUPTED:
                return code
        else:
            print(f"{name}: not all of its parts are in {folder}, so it is not unpacked yet.")
            code = 1
    return code


def unpack(parts, root):
    """Unpacks the wavs and the collection_*.csv files of an archive into root, leaving out those that are there.

    Returns an exit code: 0, 1 if something in it could not be read, INTERRUPTED.
    """
    try:
        archive = open_split_zip(parts)
    except zipfile.BadZipFile as error:
        print(f"{parts[-1]}: {error}. Delete the parts and run the command again.")
        return 1
    failures = 0
    try:
        for entry in tqdm(archive.infolist(), unit="file", desc=parts[-1].stem):
            name = PurePosixPath(entry.filename).name
            target = root / name
            if not (name.endswith(".wav") or name.startswith("collection_")):
                continue
            if target.is_file() and target.stat().st_size == entry.file_size:
                continue
            try:
                with archive.open(entry) as source, write_beside(target) as partial, open(partial, "wb") as output:
                    shutil.copyfileobj(source, output, 2**20)  # compares the checksum in the archive at its end
            except (zipfile.BadZipFile, EOFError, zlib.error) as error:
                tqdm.write(f"{parts[-1].stem}: {entry.filename}: {error}")
                failures += 1
    except OSError as error:
        print(f"{root}: {error}. Free some space and run the same command again to continue.")
        return 1
    except KeyboardInterrupt:
        print("Stopped: interrupted. Run the same command again to continue.")
        return INTERRUPTED
    finally:
        archive.close()
    return int(failures > 0)


if __name__ == "__main__":
    run(main)
