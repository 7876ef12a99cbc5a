import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile
from PIL import Image

from download import download_audioset, download_landscape, download_llp, jobs, youtube
from download.ffmpeg import find_ffmpeg, run_ffmpeg
from download.jobs import Gone, Refused, Restricted, TryLater
from download.journal import read_journal
from made_videos import frame_number, make_video

pytestmark = pytest.mark.usefixtures("no_waiting")
ROOT = Path(__file__).resolve().parents[2]

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
        ("ERROR: [youtube] -abcdefghij: Video unavailable", Refused),
        ("ERROR: [youtube] -abcdefghij: This video is not available", Refused),
        ("ERROR: [youtube] -abcdefghij: Video unavailable. This video is unavailable", Refused),
        ("ERROR: [youtube] -abcdefghij: Video unavailable. This video has been removed by the uploader", Gone),
        ("ERROR: [youtube] -abcdefghij: This video has been removed for violating YouTube's Terms of Service", Gone),
        (
            "ERROR: [youtube] -abcdefghij: Video unavailable. The uploader has not made this video available in your "
            "country",
            Restricted,
        ),
        ("ERROR: [youtube] -abcdefghij: Join this channel to get access to members-only content", Restricted),
        ("ERROR: Unable to download webpage: Tunnel connection failed: 503 the upstream is offline", TryLater),
        ("ERROR: [youtube] -abcdefghij: Private video. Sign in if you've been granted access to this video.", Gone),
        (
            "ERROR: [youtube] -abcdefghij: Video unavailable. This video is no longer available because the YouTube "
            "account associated with this video has been terminated.",
            Gone,
        ),
        ("ERROR: [youtube] -abcdefghij: Sign in to confirm your age. This video may be inappropriate.", Restricted),
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


def refusing(refusals, videos):
    """A download that raises what refusals {number of the clip: error} say."""

    def download(clip, folder, **options):
        if error := refusals.get(int(clip.id[9:11])):
            raise error
        shutil.copy(videos["whole"], folder / "segment.mp4")
        return folder / "segment.mp4"

    return download


def many(tmp_path, number):
    ids = [f"abcdefghi{n:02}#{n}#{n + 4}" for n in range(number)]
    (tmp_path / "Landscape.csv").write_text("event_labels\tfilename\n" + "".join(f"thunder\t{id}\n" for id in ids))
    return lambda: [
        read_journal(tmp_path / "Landscape/download/downloads.jsonl")[0].get(id, {}).get("state") for id in ids
    ]


def test_a_client_that_youtube_refuses_gives_no_clip_up(tmp_path, landscape, videos, capsys):
    states = many(tmp_path, 40)
    unavailable = Refused("This video is not available")
    arguments = [*landscape, "--workers", "1"]
    assert download_landscape.main(arguments, refusing(dict.fromkeys(range(40), unavailable), videos)) == jobs.STOPPED
    assert states()[:10] == ["failed"] * 10 and not any(states()[13:])
    found = re.search(r"(\d+) failures in a row", capsys.readouterr().out)
    assert found and 10 <= int(found[1]) < 20  # those that were under way when the tenth failed may still end
    # nor one that gets a third of what it asks for
    some = {n: unavailable for n in range(40) if n % 3}
    assert download_landscape.main(arguments, refusing(some, videos)) == jobs.STOPPED
    assert "it is this client that is refused" in capsys.readouterr().out
    assert "gone" not in states() and states().count("done") >= 10


def test_what_is_refused_between_clips_that_come_is_gone(tmp_path, landscape, videos):
    states = many(tmp_path, 12)
    unavailable, old = Refused("Video unavailable"), Restricted("Sign in to confirm your age")
    refusals = {2: unavailable, 5: unavailable, 7: old, 11: unavailable}
    arguments = [*landscape, "--workers", "1"]
    assert download_landscape.main(arguments, refusing(refusals, videos)) == jobs.SOME_FAILED
    assert [states()[n] for n in (2, 5, 7, 11)] == ["gone", "gone", "failed", "failed"]
    # so that cookies help those that ask for an age
    assert download_landscape.main([*arguments, "--cookies", "c.txt"], refusing({11: unavailable}, videos)) == 3
    assert [states()[n] for n in (2, 5, 7, 11)] == ["gone", "gone", "done", "failed"]
    # asked once more, what was gone stays so
    refusals = {2: unavailable, 5: unavailable, 11: unavailable}
    assert download_landscape.main([*arguments, "--retry_gone"], refusing(refusals, videos)) == jobs.SOME_FAILED
    assert [states()[n] for n in (2, 5, 7, 11)] == ["gone", "gone", "done", "failed"]


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
    for text in (None, b"a,b\n1,2\n", "ä,b\n1,2\n".encode("latin-1"), LLP.encode("utf-16")):
        if text:
            path.write_bytes(text)
        for script in (download_llp, download_audioset, download_landscape):
            with pytest.raises(SystemExit, match=r"list\.csv"):
                script.main(["--data_dir", str(tmp_path), "--csv", str(path)])
