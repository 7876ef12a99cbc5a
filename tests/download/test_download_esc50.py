import hashlib
import json
import random

import pytest

from download import download_esc50

pytestmark = pytest.mark.usefixtures("no_waiting")

CLIPS = ["1-100032-A-0.wav", "5-9032-A-0.wav", "3-155642-B-11.wav", "2-50665-A-20.wav", "1-100038-A-14.wav"]
FREE = CLIPS[:4]  # the class of the last one, 14, is not in ESC-10


@pytest.fixture
def archive(server):
    """What GitHub would have, on the flaky server; the clips are random bytes."""
    contents = {f"audio/{name}": random.Random(name).randbytes(200_000) for name in CLIPS}
    contents |= {
        "meta/esc50.csv": b"filename,fold,target\n",
        "LICENSE": b"credits",
        "README.md": b"about",
        "esc50.gif": b"g",
    }
    server.files = {f"/raw/{name}": data for name, data in contents.items()}
    tree = [
        {"path": name, "size": len(data), "sha": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
        for name, data in contents.items()
    ]
    server.files["/tree"] = json.dumps({"tree": [{"path": "audio", "type": "tree", "sha": "0"}, *tree]}).encode()
    return contents


def download(server, folder, *options):
    arguments = ["--data_dir", str(folder), "--interval", "0", *options]
    return download_esc50.main(arguments, f"{server.url}/tree", f"{server.url}/raw")


def test_esc10_from_a_flaky_server_is_whole_and_complete(server, archive, tmp_path):
    server.faults = {
        f"/raw/audio/{CLIPS[0]}": ["drop"],
        f"/raw/audio/{CLIPS[1]}": ["garbled", "truncated"],
        f"/raw/audio/{CLIPS[2]}": [503],
        "/raw/LICENSE": [429],
    }
    assert download(server, tmp_path) == 0
    root = tmp_path / "ESC-50"
    there = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} - {"downloads.jsonl"}
    assert there == {"meta/esc50.csv", "LICENSE", "README.md"} | {f"audio/{name}" for name in FREE}
    assert all((root / name).read_bytes() == archive[name] for name in there)
    assert server.asked(f"/raw/audio/{CLIPS[0]}")[1].startswith("bytes=")  # continued, not fetched anew

    asked = len(server.requests)
    assert download(server, tmp_path) == 0
    assert len(server.requests) == asked + 1  # the listing
    assert download(server, tmp_path, "--all") == 0
    assert (root / "audio" / CLIPS[4]).read_bytes() == archive[f"audio/{CLIPS[4]}"]


def test_esc50_goes_on_after_failures_and_says_what_is_gone(server, archive, tmp_path, capsys):
    del server.files[f"/raw/audio/{CLIPS[3]}"]
    server.faults[f"/raw/audio/{CLIPS[0]}"] = [503, 503]
    assert download(server, tmp_path, "--retries", "1") == 3
    out = capsys.readouterr().out
    assert "404" in out and "Run the same command again" in out
    assert (tmp_path / "ESC-50" / "audio" / CLIPS[1]).is_file()
    assert download(server, tmp_path) == 0
    assert (tmp_path / "ESC-50" / "audio" / CLIPS[0]).read_bytes() == archive[f"audio/{CLIPS[0]}"]


def test_esc50_without_a_network_says_what_to_do_by_hand(tmp_path, capsys):
    assert download_esc50.main(["--data_dir", str(tmp_path)], "http://127.0.0.1:9/tree") == 1
    out = capsys.readouterr().out
    assert "Is the network there?" in out and "archive/master.zip" in out and not list(tmp_path.iterdir())


def test_esc50_dry_run_fetches_nothing(server, archive, tmp_path, capsys):
    assert download(server, tmp_path, "--dry_run") == 0
    assert "7 files, 7 to do" in capsys.readouterr().out and not list(tmp_path.rglob("*.wav"))
