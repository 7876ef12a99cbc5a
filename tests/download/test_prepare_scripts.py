"""The prepare_*.sh scripts from their lists to a checked dataset, without a network: the videos are there before."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

import made_videos
from made_videos import frame_number, make_video

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def video(tmp_path, monkeypatch):
    monkeypatch.setattr(made_videos, "SIZE", (96, 72))  # check_dataset.py reports smaller ones
    return make_video(tmp_path / "video.mp4", 4)


@pytest.fixture
def run(tmp_path):
    """Runs a script with DATA_DIR and ASSET_DIR in tmp_path; nothing is missing, no server answers."""
    shim = tmp_path / "bin" / "python"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\n[ "$1" = scripts/satisfied.py ] && exit 0\nexec "{sys.executable}" "$@"\n')
    shim.chmod(0o755)
    (tmp_path / "asset").mkdir()

    def run(name, *arguments, **variables):
        variables |= {"DATA_DIR": str(tmp_path / "data"), "ASSET_DIR": str(tmp_path / "asset"), "TEST_FRACTION": "0"}
        variables |= {"PATH": f"{shim.parent}:{os.environ['PATH']}", "https_proxy": "http://127.0.0.1:9"}
        command = ["bash", str(ROOT / "download" / name), *map(str, arguments)]
        return subprocess.run(command, env=os.environ | variables, cwd=tmp_path, capture_output=True, text=True)

    return run


def downloaded(root, ids, video):
    """Puts clips where the download scripts leave them."""
    for kind in ("video", "audio"):
        (root / "download" / kind).mkdir(parents=True)
    for id in ids:
        (root / "download" / "video" / f"{id}.mp4").symlink_to(video)
        soundfile.write(root / "download" / "audio" / f"{id}.wav", np.full(16000, 0.1), 16000)


def frames(folder):
    """{name: number of the video's frame that it shows}"""
    return {path.stem: frame_number(Image.open(path)) for path in (folder / "image").iterdir()}


def assert_in_order(result, root):
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 things to put right" in (root / "report.txt").read_text() and (root / "report.png").is_file()


@pytest.mark.slow
def test_landscape(run, video, tmp_path):
    ids = ["CI0jX5TMs0Q#457#467", "-4btXeiiBek#4#14"]
    table = "".join(f"raining\t{id}\n" for id in ids)
    (tmp_path / "asset" / "Landscape.csv").write_text(f"event_labels\tfilename\n{table}")
    (tmp_path / "copy").mkdir()
    for id in ids:
        (tmp_path / "copy" / f"{id}.mp4").symlink_to(video)
    result = run("prepare_landscape.sh", "--from_folder", tmp_path / "copy", CHOOSE="all")
    root = tmp_path / "data" / "Landscape"
    assert_in_order(result, root)
    assert frames(root / "train") == {f"{id}_frame_{n}": 10 * n + 5 for id in ids for n in range(4)}
    assert {path.stem: soundfile.info(path).frames for path in (root / "train/audio").iterdir()} == dict.fromkeys(
        ids, 64000
    )


@pytest.mark.slow
def test_llp(run, video, tmp_path):
    root, ids = tmp_path / "data" / "LLP", {"train": "BjCEufrlXm4", "eval": "-_gaZzFfzDQ", "test": "--4gqARaEJE"}
    downloaded(root, ids.values(), video)
    # LLP-multi is without the clip of one label
    rows = [f"{id}_20_30\tSpeech,Dog\n" for id in ids.values()] + ["onelabel__1_20_30\tSpeech\n"]
    (tmp_path / "asset" / "LLP.csv").write_text("filename\tevent_labels\n" + "".join(rows))
    for best, (split, id) in enumerate(ids.items()):
        counts = [2 if second == best else 1 for second in range(10)]
        (tmp_path / "asset" / f"LLP_{split}.json").write_text(json.dumps({id: counts, "onelabel__1": [1] * 10}))
    assert_in_order(run("prepare_llp.sh"), root)
    for best, (split, id) in enumerate(ids.items()):
        assert frames(root / split) == {f"{id}_frame_{best}": 10 * best + 5}


@pytest.mark.slow
def test_audioset(run, video, tmp_path):
    root, id = tmp_path / "data" / "AudioSet", "s9d-2nhuJCQ"
    downloaded(root, [id], video)
    segments = f'# Segments\n# num\n# YTID, start_seconds, end_seconds, positive_labels\n{id}, 30.0, 40.0, "/m/09x0r"\n'
    (tmp_path / "asset" / "eval_segments.csv").write_text(segments + 'notstrong__, 0.0, 10.0, "/m/09x0r"\n')
    (tmp_path / "asset" / "AudioSet.csv").write_text(f"filename\tevent_labels\n{id}\tSpeech,Dog\n")
    events = [(0.0, 10.0, "/m/09x0r"), (2.1, 2.9, "/m/0bt9lr")]  # two at once in second 2 only
    rows = [f"{id}_30000\t{start}\t{end}\t{label}\n" for start, end, label in events]
    header = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
    (tmp_path / "asset" / "audioset_eval_strong.tsv").write_text(header + "".join(rows))
    assert_in_order(run("prepare_audioset.sh"), root)
    assert json.loads((tmp_path / "asset" / "audioset_eval_frames.json").read_text()) == {id: [2]}
    assert frames(root / "train") == {f"{id}_frame_2": 25}


@pytest.mark.slow
def test_fsd50k(run, tmp_path):
    folder = tmp_path / "data" / "FSD50K" / "archives"
    folder.mkdir(parents=True)
    soundfile.write(tmp_path / "clip.wav", np.sin(np.arange(22050)), 44100)
    wav = (tmp_path / "clip.wav").read_bytes()
    contents = {"dev_audio": {"1.wav": wav}, "eval_audio": {"2.wav": wav}, "metadata": {}}
    for part, number in (("dev", 1), ("eval", 2)):
        contents["metadata"][f"collection/collection_{part}.csv"] = f"fname,labels,mids\n{number},Dog,/m/1\n"
    for name, files in contents.items():
        with zipfile.ZipFile(folder / f"FSD50K.{name}.zip", "w") as archive:
            for path, content in files.items():
                archive.writestr(f"FSD50K.{name}/{path}", content)
    result = run("prepare_fsd50k.sh")
    assert "Is the network there?" in result.stdout
    assert_in_order(result, folder.parent)
    assert (folder.parent / "1.wav").read_bytes() == (folder.parent / "2.wav").read_bytes() == wav
