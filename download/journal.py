"""The journal of a long job: one JSON line for each clip that came to an end, `{"id", "state", "reason", ...}`.

States: "done" (it is there), "gone" (it will never come: not asked again), "failed" (next run tries again). The last
line of an id counts. Lines are only ever appended, so a kill can at most tear the last one; that one is cut off.
"""

import fcntl
import json
import os
from pathlib import Path


def read_journal(path):
    """Returns {id: entry} of a journal, and how many bytes of the file are whole lines; a missing file is empty."""
    path = Path(path)
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    entries = {}
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            entry = json.loads(line)
            entries[entry["id"]] = entry
        except (ValueError, KeyError, TypeError):
            print(f"{path}, line {number}: not a journal entry, left out (its clip is looked at again).")
    return entries, len(whole)


class Journal:
    """An open journal. Only one process can hold it; `entries` is {id: entry}."""

    def __init__(self, path):
        """Opens or makes the file and repairs its end. Raises SystemExit if another process is writing to it."""
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "ab", buffering=0)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.close()
            raise SystemExit(f"{self.path}: another run is writing to this folder. Wait for it, or stop it.") from None
        self.entries, self.size = read_journal(self.path)
        self.file.truncate(self.size)

    def add(self, id, state, reason="", **facts):
        """Appends one entry; on the disk when this returns. A line that could not be written whole is taken back."""
        entry = {"id": id, "state": state, "reason": reason, **facts}
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        try:
            if self.file.write(line) != len(line):
                raise OSError(28, "No space left on device", str(self.path))
            os.fsync(self.file.fileno())
        except OSError:
            self.file.truncate(self.size)
            raise
        self.size += len(line)
        self.entries[id] = entry

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
