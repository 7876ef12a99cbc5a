"""Files that are whole or not there at all, content hashes and folder listings; needs the standard library only."""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path

PARTIAL = ".partial-"  # what the names of unfinished files and folders begin with


@contextlib.contextmanager
def write_beside(path):
    """Yields a temporary path to write to; at the end it takes the place of `path`, which never shows half of it.

    The temporary file lies in the same folder (made if need be), is hidden, ends as `path` does, since the ending names
    the format to many writers, and has a name of its own, so that threads and processes on several machines may write
    the same path at a time. An error inside the `with` removes it and leaves what was at `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        yield partial
        publish(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


@contextlib.contextmanager
def write_folder_beside(folder):
    """Yields an empty temporary folder; at the end it takes the place of `folder`. As `write_beside` for files."""
    folder = Path(folder)
    partial = _partial(folder)
    partial.mkdir(parents=True)
    try:
        yield partial
        sync_folder(partial)
        replace_folder(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def check_output_dir(folder):
    """Makes the folder. Raises ValueError where no file can be written there."""
    probe = _partial(Path(folder) / "probe")
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"--output_dir {folder}: cannot be written ({error.strerror}); choose another folder"
        ) from error


def publish(source, target):
    """Moves a finished file to its place on the same disk: its content is on the disk before it has the name."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _sync(source)
    os.replace(source, target)


def sync_folder(folder):
    """Returns when the content of all files below a folder is on the disk."""
    for path in Path(folder).rglob("*"):
        if path.is_file():
            _sync(path)


def replace_folder(partial, target):
    """Renames a complete folder to `target`, in place of one that an earlier run left there."""
    target = Path(target)
    old = _partial(target)
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(partial, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _partial(path):
    return path.with_name(f"{PARTIAL}{uuid.uuid4().hex[:12]}{path.suffix}")  # short: `path`'s name may have 255 bytes


def _sync(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def read_text(path):
    """A text file's content, in UTF-8 with or without a byte order mark. Raises OSError, ValueError: another encoding.

    Every csv and label file of the project is read here.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected text in UTF-8, but byte {error.start} is none (UTF-16, Latin-1?); save it as «CSV UTF-8»"
        ) from None
    if "\0" in text:
        raise ValueError(f"{path}: expected text in UTF-8, but it holds zeros (UTF-16?); save it as «CSV UTF-8»")
    return text


def sha256(path):
    """The SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(settings, files):
    """Short name of what an output depends on: settings (a dictionary for JSON) and the contents of files."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in files:
        with open(path, "rb") as file:
            hashlib.file_digest(file, lambda: digest)  # goes on with the same digest
    return digest.hexdigest()[:16]


def visible_files(folder, suffixes):
    """The files directly in a folder that end in one of `suffixes` (".wav", in any case), sorted, without hidden ones.

    Hidden are those whose name begins with a dot: a system's notes about its neighbours, and unfinished ones. A folder
    that is not there has no files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.name[0] != ".")
