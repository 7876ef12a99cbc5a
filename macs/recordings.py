"""Which files of a folder are recordings."""

import mimetypes
import os
from pathlib import Path

from macs.decoding import AudioError, decode

AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif", ".aifc", ".oga", ".m4a", ".m4b", ".aac", ".mp2", ".wma",
    ".au", ".snd", ".caf", ".w64", ".rf64", ".amr", ".weba", ".mka", ".ac3", ".wv", ".ape", ".tta",
)  # fmt: skip
UNFINISHED_SUFFIXES = (".part", ".crdownload", ".tmp")  # of downloads that broke off or are under way
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".3gp", ".3g2", ".avi", ".wmv", ".mpg", ".mpeg", ".flv")


def find_recordings(folder, recursive=False):
    """The recordings in a folder, sorted by path: ([paths], [problems]).

    A recording is what has a suffix of audio or video, or no suffix of another kind and sound inside. Hidden files and
    folders are skipped; `recursive` takes those in folders below it too. A folder that cannot be read, or that holds
    no recordings, is a problem, a line that names it.
    """
    folder = Path(folder)
    problems = []
    files = []
    for root, folders, names in os.walk(folder, onerror=lambda error: problems.append(
        f"{error.filename}: this folder cannot be read ({error.strerror}); check its permissions"
    )):  # fmt: skip
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        files += [Path(root, name) for name in names if not name.startswith(".")]
    paths = sorted(path for path in files if is_recording(path))
    if not paths and not problems:
        below = "" if recursive else " (folders below it are taken with --recursive)"
        problems.append(f"{folder}: no recordings in this folder{below}; expected audio or videos, such as "
                        f"{', '.join(AUDIO_SUFFIXES[:5])}")  # fmt: skip
    return paths, problems


def find_clips(paths, recursive=False):
    """The recordings that paths of files and folders name: ({name: path}, [problems]).

    Images are named as their recordings: of two with one name the second is a problem.
    """
    clips, problems = {}, []
    for path in map(Path, paths):
        if not path.exists():
            problems.append(f"{path}: no such file or folder")
            continue
        files, unreadable = find_recordings(path, recursive) if path.is_dir() else ([path], [])
        problems += unreadable
        for file in files:
            if clips.setdefault(file.stem, file) != file:
                problems.append(f"{file}: would overwrite the image of {clips[file.stem]}; rename one of them")
    return clips, problems


# The table of Python itself: that of the system differs from machine to machine
_KNOWN_TYPES = mimetypes.MimeTypes()


def is_recording(path):
    """Whether a file is a recording by its suffix or, if that tells nothing, by its content."""
    suffix = path.suffix.lower()
    if suffix in AUDIO_SUFFIXES + VIDEO_SUFFIXES:
        return True
    known = _KNOWN_TYPES.guess_type(f"a{suffix}")[0]
    if suffix in UNFINISHED_SUFFIXES or known and not known.startswith(("audio/", "video/")):
        return False
    try:
        decode(path, lambda decoder: next(decoder.blocks(0, 1), None))
        return True
    except AudioError:
        return False
