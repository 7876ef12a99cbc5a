import hashlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from macs import files
from macs.files import fingerprint, publish, replace_folder, sha256, visible_files, write_beside, write_folder_beside


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "table.txt"
    with write_beside(path) as partial:
        partial.write_text("whole")
        assert partial.parent == path.parent and partial.suffix == ".txt" and partial.name.startswith(".")
        assert not path.exists()
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path, error):
    path, folder = tmp_path / "a.txt", tmp_path / "model"
    path.write_text("earlier")
    folder.mkdir()
    (folder / "config.json").write_text("earlier")
    with pytest.raises(type(error)), write_beside(path) as partial:
        partial.write_text("ha")
        raise error
    with pytest.raises(type(error)), write_folder_beside(folder) as partial:
        (partial / "config.json").write_text("ha")
        raise error
    assert sorted(tmp_path.iterdir()) == [path, folder]
    assert path.read_text() == (folder / "config.json").read_text() == "earlier"


def test_a_kill_leaves_the_earlier_file_and_no_visible_half(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("earlier")
    code = (
        "import os, signal, sys\nfrom macs.files import write_beside\n"
        "with write_beside(sys.argv[1]) as partial:\n"
        "    partial.write_text('ha'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == -signal.SIGKILL
    assert path.read_text() == "earlier" and visible_files(tmp_path, [".txt"]) == [path]


def test_content_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: calls.append("fsync") or fsync(number))
    monkeypatch.setattr(os, "replace", lambda *paths: calls.append("replace") or replace(*paths))
    with write_beside(tmp_path / "a") as partial:
        partial.write_text("a")
    (tmp_path / "b").write_text("b")
    publish(tmp_path / "b", tmp_path / "folder" / "b")
    with write_folder_beside(tmp_path / "c") as partial:
        for place in ("x", "parts/y"):
            (partial / place).parent.mkdir(exist_ok=True)
            (partial / place).write_text(place)
    assert calls == ["fsync", "replace"] * 2 + ["fsync", "fsync", "replace"]
    assert (tmp_path / "c" / "parts" / "y").read_text() == "parts/y"


def test_names_of_255_bytes_and_several_writers_of_one_path(tmp_path):
    path = tmp_path / ("ü" * 125 + "x.txt")
    assert len(os.fsencode(path.name)) == 255
    places = []

    def write(number):
        with write_beside(path) as partial:
            places.append(partial)
            partial.write_text(f"{number}" * 1000)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(8)))
    assert len(set(places)) == 8 and len(set(path.read_text())) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_the_earlier_one_and_of_nothing_else(tmp_path):
    (tmp_path / "model.old").mkdir()
    (tmp_path / "model.old" / "mine.txt").write_text("kept")
    for content in ("first", "second"):
        with write_folder_beside(tmp_path / "model") as partial:
            (partial / f"{content}.txt").write_text(content)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["second.txt"]
    assert (tmp_path / "model.old" / "mine.txt").read_text() == "kept" and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "missing", tmp_path / "model")
    assert (tmp_path / "model" / "second.txt").exists() and len(list(tmp_path.iterdir())) == 2


def test_fingerprint_is_of_settings_and_contents(tmp_path):
    for name, content in (("a", b"ab"), ("b", b"c" * 3_000_000), ("c", b"ab")):
        (tmp_path / name).write_bytes(content)
    settings = {"num_crops": 4, "backend": "cpu"}
    expected = hashlib.sha256(json.dumps(dict(sorted(settings.items()))).encode() + b"ab" + b"c" * 3_000_000)
    assert fingerprint(settings, [tmp_path / "a", tmp_path / "b"]) == expected.hexdigest()[:16]
    assert fingerprint(settings, [tmp_path / "c", tmp_path / "b"]) == expected.hexdigest()[:16]
    assert fingerprint(settings | {"num_crops": 5}, [tmp_path / "a", tmp_path / "b"]) != expected.hexdigest()[:16]
    assert sha256(tmp_path / "b") == hashlib.sha256(b"c" * 3_000_000).hexdigest()


def test_hidden_and_other_files_are_not_listed(tmp_path):
    for name in ("b.WAV", "a.wav", "._a.wav", ".partial-1.wav", "a.jpg", "wav"):
        (tmp_path / name).write_bytes(b"")
    assert visible_files(tmp_path, (".wav", ".mp3")) == [tmp_path / "a.wav", tmp_path / "b.WAV"]
    assert visible_files(tmp_path / "missing", (".wav",)) == []


def test_needs_the_standard_library_only():
    code = "import sys, macs.files; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert files.PARTIAL.startswith(".")
