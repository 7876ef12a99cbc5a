import email.utils
import errno
import hashlib
import http.server
import io
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile
from made_videos import frame_number, make_video
from PIL import Image

from download import (
    download_assets,
    download_audioset,
    download_fsd50k,
    download_landscape,
    download_llp,
    jobs,
    web,
    youtube,
)
from download.ffmpeg import find_ffmpeg, run_ffmpeg
from download.jobs import Gone, TryLater
from download.journal import Journal, read_journal
from download.split_zip import open_split_zip

ROOT = Path(__file__).resolve().parents[1]
DATA = bytes(random.Random(0).randbytes(300_000))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(jobs, "BACKOFF", 0.01)


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` {path: bytes}; `faults` {path: [...]} are spent one with each request for that path."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.requests = {}, {}, []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def asked(self, path):
        """The Range headers (or None) with which a path has been asked for."""
        return [asked_range for asked, asked_range, _ in self.requests if asked == path]


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        server, path = self.server, self.path
        wanted = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        server.requests.append((path, wanted and wanted[0], time.monotonic()))
        fault = server.faults[path].pop(0) if server.faults.get(path) else None
        if isinstance(fault, int):
            self.send_response(fault)
            self.send_header("Retry-After", "1")
            self.end_headers()
            return
        if path not in server.files:
            self.send_error(404)
            return
        data = server.files[path]
        if fault == "truncated":  # a shorter file, sent as if it were whole
            data = data[: len(data) // 2]
        if fault == "garbled":
            data = bytes(len(data))
        first, last = 0, len(data)
        if wanted and fault != "no ranges":
            first, last = int(wanted[1]), int(wanted[2]) + 1 if wanted[2] else len(data)
            if first >= len(data):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", "video/mp4" if path.endswith(".mp4") else "application/octet-stream")
        self.send_header("Content-Length", str(last - first))
        self.end_headers()
        if fault == "drop":
            last = first + (last - first) // 3
        if body:
            self.wfile.write(data[first:last])


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


def args(**changes):
    return Namespace(
        **{
            "limit": None,
            "ids": None,
            "dry_run": False,
            "workers": 2,
            "interval": 0.0,
            "retries": 3,
            "retry_gone": False,
        }
        | changes
    )


def md5(data):
    return "md5:" + hashlib.md5(data).hexdigest()


# Files over HTTP


def fetch(server, folder, names, **changes):
    files = [web.RemoteFile(name, f"{server.url}/{name}", folder / name, len(DATA), md5(DATA)) for name in names]
    return jobs.run_jobs(
        files,
        web.download_file,
        folder,
        lambda file, entry: file.path.is_file(),
        args(**changes),
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
    refused = Namespace(url="http://127.0.0.1:9")  # the discard port: nobody listens
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
        args(**changes),
        journal_name="journal.jsonl",
        unit="job",
    )


def write_text(job, folder, stop):
    (folder / "new").write_text(job.id)
    jobs.publish(folder / "new", folder.parents[1] / f"{job.id}.txt")
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
    jobs.publish(tmp_path / "new", tmp_path / "folder" / "-a#1")
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

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Namespace(free=1000))
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


# Clips: something else in YouTube's place

LANDSCAPE = """event_labels\tfilename
explosion\tCI0jX5TMs0Q#457#467
explosion\tMZjZEVgQmno#21#31
raining\t-WrD5DwI6_4#8410#8420
thunder\t--4btXeiiBe#404#414
thunder\t-4btXeiiBek#4#14
wind_noise\t-4btXeiiBek#404#414
"""
LANDSCAPE_IDS = [line.split("\t")[1] for line in LANDSCAPE.splitlines()[1:]]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {"whole": make_video(folder / "whole.mp4", 4), "mute": make_video(folder / "mute.mp4", 4, sound=False)}


@pytest.fixture
def landscape(tmp_path):
    (tmp_path / "Landscape.csv").write_text(LANDSCAPE)
    return ["--data_dir", str(tmp_path), "--csv", str(tmp_path / "Landscape.csv"), "--interval", "0"]


def test_clips_come_once_and_bad_ones_stop_nobody(tmp_path, landscape, videos, capsys):
    asked = []

    def fake(clip, folder, ffmpeg, video, max_height, cookies):
        asked.append(clip.id)
        shutil.copy(videos["mute" if clip.id == "MZjZEVgQmno#21#31" else "whole"], folder / "segment.mp4")
        if clip.id == "CI0jX5TMs0Q#457#467":
            raise Gone("Video unavailable")
        if clip.id == "-WrD5DwI6_4#8410#8420" and asked.count(clip.id) < 3:
            raise TryLater("HTTP Error 503")
        if clip.id == "--4btXeiiBe#404#414" and asked.count(clip.id) < 8:
            raise TryLater("timed out")
        return folder / "segment.mp4"

    assert download_landscape.main([*landscape, "--retries", "2"], fake) == jobs.SOME_FAILED
    entries, _ = read_journal(tmp_path / "Landscape/download/downloads.jsonl")
    assert [(entries[id]["state"], entries[id]["reason"]) for id in LANDSCAPE_IDS] == [
        ("gone", "Video unavailable"),
        ("gone", "no sound in it"),
        ("done", ""),
        ("failed", "timed out"),
        ("done", ""),
        ("done", ""),
    ]
    assert "1 gone: Video unavailable" in capsys.readouterr().out
    assert [asked.count(id) for id in LANDSCAPE_IDS] == [1, 1, 3, 3, 1, 1]

    # only what failed is asked again; what is gone is not
    assert download_landscape.main([*landscape, "--retries", "9"], fake) == 0
    assert [asked.count(id) for id in LANDSCAPE_IDS] == [1, 1, 3, 8, 1, 1]
    folder = tmp_path / "Landscape/download"
    assert {path.stem for path in (folder / "audio").iterdir()} == set(LANDSCAPE_IDS[2:])
    assert {path.stem for path in (folder / "video").iterdir()} == set(LANDSCAPE_IDS[2:])
    assert not (folder / ".partial").exists()
    info = soundfile.info(folder / "audio/-4btXeiiBek#4#14.wav")
    assert (info.samplerate, info.channels, info.frames) == (16000, 1, 64000)


def test_sound_only_and_videos_of_an_earlier_copy(tmp_path, landscape, videos):
    copy = tmp_path / "copy" / "raining"
    copy.mkdir(parents=True)
    for id in LANDSCAPE_IDS:
        shutil.copy(videos["whole"], copy / f"{id}.mp4")

    def nobody(clip, folder, **options):
        raise AssertionError("YouTube asked")

    assert (
        download_landscape.main(
            [
                *landscape,
                "--from_folder",
                str(tmp_path / "copy"),
                "--no-keep_video",
                "--ids=-4btXeiiBek#404#414,--4btXeiiBe#404#414",
            ],
            nobody,
        )
        == 0
    )
    folder = tmp_path / "Landscape/download"
    assert {path.name for path in (folder / "audio").iterdir()} == {
        "-4btXeiiBek#404#414.wav",
        "--4btXeiiBe#404#414.wav",
    }
    assert not (folder / "video").exists() and len(list(copy.iterdir())) == len(LANDSCAPE_IDS)


SLOW = """
import shutil, signal, sys, time
sys.path.insert(0, {root!r})
from download import download_landscape

def slow(clip, folder, **options):
    with open({asked!r}, "a") as file:
        file.write(clip.id + "\\n")
    shutil.copy({video!r}, folder / "segment.mp4")
    time.sleep({seconds})
    return folder / "segment.mp4"

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it runs in the background
    sys.exit(download_landscape.main(sys.argv[1:], slow))
"""


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle_and_run_again(tmp_path, landscape, videos, blow):
    ids = [f"{'-' if number % 2 else ''}abcdefghi{number:02}"[:11] + f"#{number}#{number + 4}" for number in range(24)]
    (tmp_path / "Landscape.csv").write_text("event_labels\tfilename\n" + "".join(f"thunder\t{id}\n" for id in ids))
    journal = tmp_path / "Landscape/download/downloads.jsonl"
    script, asked = tmp_path / "slow.py", tmp_path / "asked"

    def start(seconds):
        script.write_text(SLOW.format(root=str(ROOT), asked=str(asked), video=str(videos["whole"]), seconds=seconds))
        return subprocess.Popen(
            [sys.executable, script, *landscape, "--workers", "3"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )

    process = start(0.3)  # seconds for a clip: time enough for the blow, however busy the machine is
    deadline = time.monotonic() + 60
    while len(read_journal(journal)[0]) < 5:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(blow)
    assert process.wait(30) == (jobs.INTERRUPTED if blow == signal.SIGINT else -signal.SIGKILL)
    done_before = set(read_journal(journal)[0])
    assert 5 <= len(done_before) < len(ids)
    if blow == signal.SIGKILL:
        with open(journal, "ab") as file:
            file.write(b'{"id": "abcdefg')  # as if killed within the line
    else:
        assert not (journal.parent / ".partial").exists()

    assert start(0).wait(60) == 0
    for kind, suffix in (("audio", ".wav"), ("video", ".mp4")):
        files = list((journal.parent / kind).iterdir())
        assert sorted(path.name for path in files) == sorted(id + suffix for id in ids)
    assert {soundfile.info(path).frames for path in (journal.parent / "audio").iterdir()} == {64000}
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert sorted(line["id"] for line in lines) == sorted(ids)  # each exactly once
    assert {line["state"] for line in lines} == {"done"}
    times_asked = {id: asked.read_text().splitlines().count(id) for id in ids}
    assert all(times_asked[id] == 1 for id in done_before)
    assert sum(times_asked.values()) <= len(ids) + 3  # only what was under way when the blow fell
    assert not (journal.parent / ".partial").exists()


# YouTube and ffmpeg


@dataclass(frozen=True)
class LocalClip(youtube.Clip):
    base: str = ""

    @property
    def url(self):
        return f"{self.base}/{self.youtube_id}"


def test_yt_dlp_cuts_the_segment_to_the_frame(server, tmp_path):
    server.files["/video.mp4"] = make_video(tmp_path / "source.mp4", 8).read_bytes()
    folder = tmp_path / "-odd #1 100%s"
    folder.mkdir()
    segment = youtube.download_segment(LocalClip("c", "video.mp4", 2.5, 5.5, server.url), folder, ffmpeg=find_ffmpeg())
    assert segment.suffix == ".mp4"
    run_ffmpeg(find_ffmpeg(), ["-i", segment.resolve(), "%d.png"], tmp_path)
    numbers = [frame_number(Image.open(tmp_path / f"{number}.png")) for number in range(1, 31)]
    assert numbers == list(range(25, 55)) and not (tmp_path / "31.png").exists()
    with pytest.raises(TryLater, match="404"):
        youtube.download_segment(LocalClip("d", "none.mp4", 0, 1, server.url), folder, ffmpeg=find_ffmpeg())


@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        ("ERROR: [youtube] -abcdefghij: Video unavailable", Gone),
        ("ERROR: [youtube] -abcdefghij: Private video. Sign in if you've been granted access to this video.", Gone),
        (
            "ERROR: [youtube] -abcdefghij: Video unavailable. This video is no longer available because the YouTube "
            "account associated with this video has been terminated.",
            Gone,
        ),
        ("ERROR: [youtube] -abcdefghij: Sign in to confirm your age. This video may be inappropriate.", Gone),
        ("ERROR: [youtube] -abcdefghij: Sign in to confirm you’re not a bot. Use --cookies", TryLater),
        ("ERROR: [youtube] -abcdefghij: Video unavailable. This content isn't available, try again later.", TryLater),
        ("ERROR: [youtube] -abcdefghij: Requested format is not available.", TryLater),
        ("ERROR: unable to download video data: HTTP Error 429: Too Many Requests", TryLater),
        ("ERROR: [youtube] -abcdefghij: Unable to download API page: timed out", TryLater),
    ],
)
def test_what_youtube_says_is_taken_for_gone_only_when_it_is(monkeypatch, tmp_path, message, outcome):
    def refuse(self, url):
        raise youtube.DownloadError(message)

    monkeypatch.setattr(youtube.YoutubeDL, "extract_info", refuse)
    clip = youtube.Clip("-abcdefghij", "-abcdefghij", 0, 10)
    with pytest.raises(outcome) as error:
        youtube.download_segment(clip, tmp_path, ffmpeg=find_ffmpeg())
    assert type(error.value) is outcome
    assert "-abcdefghij" not in str(error.value)  # so that equal reasons are counted together
    assert (getattr(error.value, "after", None) is not None) == any(
        word in message for word in ("429", "not a bot", "try again later")
    )


def test_a_segment_behind_the_end_of_the_video_is_gone(monkeypatch, tmp_path):
    def extract(self, url):
        self.params["match_filter"]({"duration": 30}, incomplete=False)

    monkeypatch.setattr(youtube.YoutubeDL, "extract_info", extract)
    with pytest.raises(Gone, match="ends before the segment begins"):
        youtube.download_segment(youtube.Clip("a", "a", 40, 50), tmp_path, ffmpeg=find_ffmpeg())


def test_no_ffmpeg_is_one_clear_line(monkeypatch, landscape):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/no/such/ffmpeg")
    with pytest.raises(SystemExit, match="No ffmpeg that runs"):
        download_landscape.main(landscape)


# The lists

LLP = """filename\tevent_labels
BjCEufrlXm4_20_30\tSpeech,Dog
AP0061o0Nvk_101.8_111.8\tCello
-9WBkdJq104_30_40\tAccordion,Frying_(food)
--a_b-c_d-1_5_15\tCar,Speech
"""
SEGMENTS = """# Segments csv created Sun Mar  5 10:54:25 2017
# num_ytids=20371, num_segs=20371, num_unique_labels=527, num_positive_labels=51804
# YTID, start_seconds, end_seconds, positive_labels
--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_,/m/0bt9lr,/m/0jbk"
-0RWZT-miFs, 420.000, 430.000, "/m/03v3yw"
"""


def test_lists_parse_with_ids_and_times_whole(tmp_path):
    path = tmp_path / "list"

    def parsed(read, text, **options):
        path.write_text(text)
        return [(clip.id, clip.youtube_id, clip.start, clip.end) for clip in read(path, **options)]

    assert parsed(download_llp.read_clips, LLP) == [
        ("BjCEufrlXm4", "BjCEufrlXm4", 20, 30),
        ("AP0061o0Nvk", "AP0061o0Nvk", 101.8, 111.8),
        ("-9WBkdJq104", "-9WBkdJq104", 30, 40),
        ("--a_b-c_d-1", "--a_b-c_d-1", 5, 15),
    ]
    assert [row[0] for row in parsed(download_llp.read_clips, LLP, min_labels=2)] == [
        "BjCEufrlXm4",
        "-9WBkdJq104",
        "--a_b-c_d-1",
    ]
    assert parsed(download_audioset.read_clips, SEGMENTS) == [
        ("--4gqARaEJE", "--4gqARaEJE", 0, 10),
        ("-0RWZT-miFs", "-0RWZT-miFs", 420, 430),
    ]
    assert parsed(download_landscape.read_clips, LANDSCAPE)[2] == ("-WrD5DwI6_4#8410#8420", "-WrD5DwI6_4", 8410, 8420)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (download_llp.read_clips, "id,start\na,1\n"),
        (download_llp.read_clips, "filename\tevent_labels\nBjCEufrlXm4\tSpeech\n"),
        (download_landscape.read_clips, "event_labels\tfilename\nthunder\tCI0jX5TMs0Q_1_2\n"),
        (download_audioset.read_clips, "a,b\n1,2\n3,4\n"),
        (download_audioset.read_clips, SEGMENTS + "short, 0.000\n"),
    ],
)
def test_wrong_columns_name_the_file_and_what_was_expected(tmp_path, read, text):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"list\.csv.*expected"):
        read(path)


def test_a_wrong_or_missing_list_is_one_line_of_the_command(tmp_path):
    path = tmp_path / "list.csv"
    for text in (None, "a,b\n1,2\n"):
        if text:
            path.write_text(text)
        for script in (download_llp, download_audioset, download_landscape):
            with pytest.raises(SystemExit, match=r"list\.csv"):
                script.main(["--data_dir", str(tmp_path), "--csv", str(path)])


# FSD50K and the assets


def split_zip(path, members, num_parts):
    """Writes `members` as a split archive (APPNOTE.TXT 8.5): a marker, then one archive cut into parts, whose entries
    count their offsets from the beginning of the part in which they begin. Returns the parts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        entries, directory = archive.infolist(), archive.start_dir
    data = bytearray(b"PK\7\x08" + buffer.getvalue())
    starts = [part * (directory // num_parts) for part in range(num_parts)]

    def place(offset):
        part = max(part for part in range(num_parts) if starts[part] <= offset)
        return part, offset - starts[part]

    position = 4 + directory
    for entry in entries:
        part, offset = place(4 + entry.header_offset)
        struct.pack_into("<H", data, position + 34, part)
        struct.pack_into("<L", data, position + 42, offset)
        position += 46 + len(entry.filename)
    part, offset = place(4 + directory)
    struct.pack_into(
        "<4H2L", data, position + 4, num_parts - 1, part, len(entries), len(entries), position - 4 - directory, offset
    )
    pieces = [bytes(data[a:b]) for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
    names = [path.with_suffix(f".z{number:02}") for number in range(1, num_parts)] + [path.with_suffix(".zip")]
    for name, piece in zip(names, pieces, strict=True):
        name.write_bytes(piece)
    return names


def wav_bytes(number):
    noise = random.Random(number).randbytes(20_000)
    return (
        b"RIFF"
        + struct.pack("<L", 20_036)
        + b"WAVEfmt "
        + struct.pack("<LHHLLHH", 16, 1, 1, 44100, 88200, 2, 16)
        + b"data"
        + struct.pack("<L", 20_000)
        + noise
    )


MEMBERS = {f"FSD50K.dev_audio/{number}.wav": wav_bytes(number) for number in range(12)}


@pytest.mark.parametrize("num_parts", [1, 2, 5])
def test_split_archives_are_read_in_place(tmp_path, num_parts):
    parts = split_zip(tmp_path / "a.zip", MEMBERS, num_parts)
    with open_split_zip(parts) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == MEMBERS
    if num_parts > 1:
        with pytest.raises(zipfile.BadZipFile):
            open_split_zip(parts[1:])


@pytest.mark.skipif(not shutil.which("zip"), reason="needs Info-ZIP's zip")
def test_archives_split_by_info_zip_are_read_in_place(tmp_path):
    for name, data in MEMBERS.items():
        (tmp_path / Path(name).name).write_bytes(data)
    names = [Path(name).name for name in MEMBERS]
    subprocess.run(["zip", "-q", "-s", "64k", "a.zip", *names], cwd=tmp_path, check=True)
    parts = sorted(tmp_path.glob("a.z*"), key=lambda path: (path.suffix == ".zip", path.suffix))
    assert len(parts) > 2
    with open_split_zip(parts) as archive:
        assert {f"FSD50K.dev_audio/{name}": archive.read(name) for name in archive.namelist()} == MEMBERS


def test_fsd50k_from_a_flaky_server_to_wavs(server, tmp_path, capsys):
    archives = [
        *split_zip(tmp_path / "FSD50K.dev_audio.zip", MEMBERS, 3),
        *split_zip(tmp_path / "FSD50K.eval_audio.zip", {"FSD50K.eval_audio/99.wav": wav_bytes(99)}, 2),
        *split_zip(
            tmp_path / "FSD50K.metadata.zip",
            {"FSD50K.metadata/collection/collection_dev.csv": b"fname,labels,mids\n"},
            1,
        ),
        *split_zip(tmp_path / "FSD50K.doc.zip", {"FSD50K.doc/README": b"not needed"}, 1),
    ]
    server.files = {f"/{path.name}": path.read_bytes() for path in archives}
    server.files["/record"] = json.dumps(
        {
            "files": [
                {
                    "key": path.name,
                    "size": path.stat().st_size,
                    "checksum": md5(path.read_bytes()),
                    "links": {"self": f"{server.url}/{path.name}"},
                }
                for path in archives
            ]
        }
    ).encode()
    server.faults = {
        "/FSD50K.dev_audio.z01": ["drop"],
        "/FSD50K.dev_audio.zip": ["garbled"],
        "/FSD50K.eval_audio.zip": [429, 503, 503],
    }
    arguments = ["--data_dir", str(tmp_path), "--interval", "0"]
    root = tmp_path / "FSD50K"

    # an archive that fails this time holds back its own part only
    assert download_fsd50k.main([*arguments, "--retries", "1"], f"{server.url}/record") != 0
    assert {path.stem for path in root.glob("*.wav")} == {str(number) for number in range(12)}
    assert "FSD50K.eval_audio: not all of its parts are in" in capsys.readouterr().out
    (root / "7.wav").write_bytes(b"half")  # as another unpacker may have left it

    assert download_fsd50k.main(arguments, f"{server.url}/record") == 0
    for name, data in (MEMBERS | {"FSD50K.eval_audio/99.wav": wav_bytes(99)}).items():
        assert (root / Path(name).name).read_bytes() == data
    assert (root / "collection_dev.csv").exists() and not (root / "README").exists()
    assert server.asked("/FSD50K.dev_audio.z01")[1].startswith("bytes=")
    assert len(server.asked("/FSD50K.dev_audio.z02")) == 1 and not server.asked("/FSD50K.doc.zip")
    assert not list(root.rglob("*.part"))


def test_fsd50k_leaves_out_what_is_damaged_and_says_so(tmp_path, capsys):
    [part] = split_zip(tmp_path / "FSD50K.dev_audio.zip", MEMBERS, 1)
    data = bytearray(part.read_bytes())
    with open_split_zip([part]) as archive:
        data[archive.getinfo("FSD50K.dev_audio/3.wav").header_offset + 5_000] ^= 255
    part.write_bytes(data)
    assert download_fsd50k.unpack([part], tmp_path) == 1
    assert {path.stem for path in tmp_path.glob("*.wav")} == {str(number) for number in range(12)} - {"3"}
    assert "3.wav" in capsys.readouterr().out


def test_fsd50k_without_a_network_unpacks_what_was_put_there_by_hand(tmp_path, capsys):
    folder = tmp_path / "FSD50K" / "archives"
    folder.mkdir(parents=True)
    split_zip(folder / "FSD50K.dev_audio.zip", MEMBERS, 3)
    assert download_fsd50k.main(["--data_dir", str(tmp_path)], "http://127.0.0.1:9/record") != 0
    assert len(list((tmp_path / "FSD50K").glob("*.wav"))) == 12
    out = capsys.readouterr().out
    assert "Is the network there?" in out and "zenodo.org/records/4060432" in out
    (folder / "FSD50K.dev_audio.z02").unlink()
    assert download_fsd50k.main(["--data_dir", str(tmp_path)], "http://127.0.0.1:9/record") != 0
    assert "expected the last of 3 parts, got 2" in capsys.readouterr().out


def test_assets_are_checked_and_leave_the_users_own_alone(server, tmp_path):
    def listing(folder, files):
        server.files |= {f"/{folder}/{name}": data for name, data in files.items()}
        server.files[f"/{folder}"] = json.dumps(
            [
                {
                    "name": name,
                    "size": len(data),
                    "download_url": f"{server.url}/{folder}/{name}",
                    "sha": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
                }
                for name, data in files.items()
            ]
        ).encode()

    listing("macs", {"LLP_test.json": b"{}", "AudioSet.csv": b"filename,event_labels\n", "logo.png": b"png"})
    listing("avvp", {"AVVP_dataset_full.csv": LLP.encode()})
    server.files |= {f"/audioset/{name}": b"text" for name in download_assets.AUDIOSET_FILES}
    server.faults["/macs/AudioSet.csv"] = ["garbled"]
    (tmp_path / "LLP_test.json").write_text('{"mine": [1, 2]}')
    urls = [f"{server.url}/{name}" for name in ("macs", "avvp", "audioset")]
    assert download_assets.main(["--output_dir", str(tmp_path), "--interval", "0"], *urls) == 0
    assert (tmp_path / "LLP.csv").read_text() == LLP
    assert (tmp_path / "AudioSet.csv").read_text() == "filename,event_labels\n"
    assert (tmp_path / "LLP_test.json").read_text() == '{"mine": [1, 2]}'
    assert (tmp_path / "eval_segments.csv").exists() and (tmp_path / "audioset_eval_strong.tsv").exists()
    assert not (tmp_path / "logo.png").exists()
