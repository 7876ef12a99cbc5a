import email.utils
import errno
import os
import random
import shutil
import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from download import jobs, web
from download.jobs import TryLater
from download.journal import Journal, read_journal
from flaky_server import md5
from macs.files import publish

pytestmark = pytest.mark.usefixtures("no_waiting")
DATA = bytes(random.Random(0).randbytes(300_000))


def options(**changes):
    return jobs.JobOptions(**{"workers": 2, "interval": 0.0, "retries": 3} | changes)


# Files over HTTP


def fetch(server, folder, names, **changes):
    files = [web.RemoteFile(name, f"{server.url}/{name}", folder / name, len(DATA), md5(DATA)) for name in names]
    return jobs.run_jobs(
        files,
        web.download_file,
        folder,
        lambda file, entry: file.path.is_file(),
        options(**changes),
        journal_name="downloads.jsonl",
        unit="file",
    )


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        ([], [None]),
        (["drop"], [None, "bytes=100000-"]),
        # three drops with progress in between are no failure, whatever --retries says
        (["drop", "drop", "drop"], [None, "bytes=100000-", "bytes=166666-", "bytes=211110-"]),
        (["drop", "no ranges"], [None, "bytes=100000-"]),
        (["truncated"], [None, None]),
        (["garbled"], [None, None]),
        ([503], [None, None]),
    ],
)
def test_a_file_arrives_whole_whatever_the_server_does(server, tmp_path, faults, ranges):
    server.files["/a"], server.faults["/a"] = DATA, list(faults)
    assert fetch(server, tmp_path, ["a"], retries=1) == 0
    assert (tmp_path / "a").read_bytes() == DATA
    assert server.asked("/a") == ranges
    assert {path.name for path in tmp_path.iterdir()} == {"a", "downloads.jsonl"}


def test_a_later_run_continues_where_an_earlier_one_was_killed(server, tmp_path):
    server.files["/a"] = DATA
    (tmp_path / "a.part").write_bytes(DATA[:123_456])
    assert fetch(server, tmp_path, ["a"]) == 0
    assert (tmp_path / "a").read_bytes() == DATA
    assert server.asked("/a") == ["bytes=123456-"]


def test_a_file_that_never_fits_its_checksum_is_not_put_in_place(server, tmp_path, capsys):
    server.files["/a"] = DATA
    server.faults["/a"] = ["garbled"] * 9
    assert fetch(server, tmp_path, ["a"], retries=2) == jobs.SOME_FAILED
    assert len(server.asked("/a")) == 3
    assert not (tmp_path / "a").exists()
    assert "is not what was announced" in capsys.readouterr().out


def test_missing_files_are_asked_for_once_and_the_rest_goes_on(server, tmp_path):
    server.files |= {f"/{name}": DATA for name in "bcd"}
    assert fetch(server, tmp_path, "abcd") == 0
    assert fetch(server, tmp_path, "abcd") == 0
    assert [len(server.asked(f"/{name}")) for name in "abcd"] == [1, 1, 1, 1]
    assert read_journal(tmp_path / "downloads.jsonl")[0]["a"]["state"] == "gone"
    assert fetch(server, tmp_path, "abcd", retry_gone=True) == 0
    assert [len(server.asked(f"/{name}")) for name in "abcd"] == [2, 1, 1, 1]


def test_retry_after_holds_all_workers_back(server, tmp_path):
    server.files |= {f"/{name}": DATA for name in "abcdefgh"}
    server.faults["/a"] = [429]
    assert fetch(server, tmp_path, "abcdefgh", interval=0.05) == 0
    asked = {path: when for path, _, when in server.requests}  # the last time each was asked
    first_refused = next(when for path, _, when in server.requests if path == "/a")
    later = sorted(when - first_refused for when in asked.values() if when > first_refused)
    # one request may have been on its way already; everything else waits for the second that the server asked for
    assert sum(delay < 0.95 for delay in later) <= 1
    assert len(later) >= 6


def test_retry_after_as_a_date():
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert 98 < web.retry_after({"Retry-After": date}) <= 100
    assert web.retry_after({"Retry-After": "7"}) == 7
    assert web.retry_after({"Retry-After": "soon"}) is None


def test_no_network_stops_the_run_and_gives_nothing_up(tmp_path, capsys):
    refused = SimpleNamespace(url="http://127.0.0.1:9")  # the discard port: nobody listens
    names = [f"f{number}" for number in range(100)]
    assert fetch(refused, tmp_path, names, retries=0) == jobs.STOPPED
    states = [entry["state"] for entry in read_journal(tmp_path / "downloads.jsonl")[0].values()]
    assert 10 <= len(states) <= 14 and set(states) == {"failed"}
    assert "failures in a row" in capsys.readouterr().out


def test_requests_keep_their_distance():
    pace = jobs.Pace(0.05, threading.Event())
    times = []

    def ask():
        for _ in range(3):
            pace.wait()
            times.append(time.monotonic())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    times.sort()
    assert min(b - a for a, b in zip(times, times[1:], strict=False)) > 0.04


# The journal and the jobs


@dataclass(frozen=True)
class Job:
    id: str


def run(root, names, work, **changes):
    return jobs.run_jobs(
        [Job(name) for name in names],
        work,
        root,
        lambda job, entry: (root / f"{job.id}.txt").is_file(),
        options(**changes),
        journal_name="journal.jsonl",
        unit="job",
    )


def write_text(job, folder, stop):
    (folder / "new").write_text(job.id)
    publish(folder / "new", folder.parents[1] / f"{job.id}.txt")
    return {"length": len(job.id)}


def test_journal_survives_a_torn_last_line_and_garbage(tmp_path, capsys):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.add("-a", "done", seconds=1.5)
        journal.add("b#1#2", "gone", "Video unavailable")
        journal.add("-a", "failed", "«torn»")
    whole = path.read_bytes()
    path.write_bytes(whole + b"garbage\n" + b'{"id": "c", "state": "do')
    with Journal(path) as journal:
        assert {id: entry["state"] for id, entry in journal.entries.items()} == {"-a": "failed", "b#1#2": "gone"}
        assert "line 4" in capsys.readouterr().out
        journal.add("c", "done")
    assert path.read_bytes() == whole + b"garbage\n" + b'{"id": "c", "state": "done", "reason": ""}\n'


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    with Journal(tmp_path / "journal.jsonl"), pytest.raises(SystemExit, match="another run"):
        Journal(tmp_path / "journal.jsonl")


def test_results_found_without_an_entry_enter_the_journal_unasked(tmp_path):
    (tmp_path / "a.txt").write_text("killed between renaming and journal")
    asked = []

    def work(job, folder, stop):
        asked.append(job.id)
        return write_text(job, folder, stop)

    assert run(tmp_path, ["a", "b"], work) == 0
    assert asked == ["b"]
    entries, _ = read_journal(tmp_path / "journal.jsonl")
    assert {id: entry["state"] for id, entry in entries.items()} == {"a": "done", "b": "done"}
    (tmp_path / "b.txt").unlink()  # lost by the user: fetched again, whatever the journal says
    assert run(tmp_path, ["a", "b"], work) == 0
    assert asked == ["b", "b"]


def test_results_are_renamed_into_place_not_copied(tmp_path):
    (tmp_path / "new").write_text("whole")
    inode = (tmp_path / "new").stat().st_ino
    publish(tmp_path / "new", tmp_path / "folder" / "-a#1")
    assert (tmp_path / "folder" / "-a#1").stat().st_ino == inode and not (tmp_path / "new").exists()


def test_a_full_disk_stops_the_run_with_one_line(tmp_path, capsys):
    def work(job, folder, stop):
        if job.id == "3":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x")
        return write_text(job, folder, stop)

    assert run(tmp_path, map(str, range(100)), work, workers=1) == jobs.STOPPED
    out = capsys.readouterr().out
    assert "is full" in out and "100 jobs: " in out
    assert len(read_journal(tmp_path / "journal.jsonl")[0]) < 20
    assert run(tmp_path, map(str, range(100)), write_text) == 0
    assert len(list(tmp_path.glob("*.txt"))) == 100


def test_any_failure_on_a_nearly_full_disk_counts_as_a_full_disk(tmp_path, monkeypatch):
    def work(job, folder, stop):
        raise TryLater("yt-dlp: ffmpeg exited with code 1")

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert run(tmp_path, "abc", work) == jobs.STOPPED
    assert not read_journal(tmp_path / "journal.jsonl")[0]


def test_an_unexpected_error_is_one_clips_failure(tmp_path, capsys):
    def work(job, folder, stop):
        if job.id == "b":
            raise KeyError("duration")
        return write_text(job, folder, stop)

    assert run(tmp_path, "abc", work) == jobs.SOME_FAILED
    assert "b: failed: KeyError: 'duration'" in capsys.readouterr().out
    assert {path.stem for path in tmp_path.glob("*.txt")} == {"a", "c"}


def test_limit_ids_and_dry_run(tmp_path, capsys):
    ids = ["-a", "--b", "c#1#2", "d"]
    assert run(tmp_path, ids, write_text, dry_run=True) == 0
    assert "4 to do" in capsys.readouterr().out and not list(tmp_path.iterdir())
    assert run(tmp_path, ids, write_text, limit=1) == 0
    assert run(tmp_path, ids, write_text, ids=["--b", "c#1#2"]) == 0
    assert {path.stem for path in tmp_path.glob("*.txt")} == {"-a", "--b", "c#1#2"}
    with pytest.raises(SystemExit, match="nowhere not in the list of 4"):
        run(tmp_path, ids, write_text, ids=["nowhere"])
