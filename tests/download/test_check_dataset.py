import json

import numpy as np
import pytest
import soundfile
from matplotlib.figure import Figure
from PIL import Image

from download import check_dataset


def write_wav(path, seconds=10.0, rate=16000, amplitude=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, amplitude * np.random.default_rng(0).standard_normal(round(seconds * rate)), rate)


def write_image(path, size=(320, 240)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)).save(path)


LABELS = {
    "-aaaaaaaaaa": "Speech,Dog",
    "--bbbbbbbbb": "Car,Speech",
    "ccccccccccc": "Cello,Speech",
    "ddddddddddd": "Dog,Cat,Car",
}


@pytest.fixture
def llp(tmp_path):
    """A small dataset that is in order: three clips to train on, one for testing, four frames and one more."""
    root = tmp_path / "LLP"
    for split, id in (
        ("train", "-aaaaaaaaaa"),
        ("train", "--bbbbbbbbb"),
        ("train", "ccccccccccc"),
        ("test", "ddddddddddd"),
    ):
        write_wav(root / split / "audio" / f"{id}.wav")
        write_image(root / split / "image" / f"{id}_frame_3.jpg")
    write_image(root / "train/image/-aaaaaaaaaa_frame_7.jpg", (240, 320))
    (tmp_path / "LLP.csv").write_text(
        "filename\tevent_labels\n" + "".join(f"{id}_20_30\t{names}\n" for id, names in LABELS.items())
    )
    (root / "download").mkdir()
    states = [
        ("-aaaaaaaaaa", "done", ""),
        ("x", "gone", "Video unavailable"),
        ("y", "gone", "Video unavailable"),
        ("z", "failed", "timed out"),
    ]
    (root / "download/downloads.jsonl").write_text(
        "".join(json.dumps({"id": id, "state": state, "reason": reason}) + "\n" for id, state, reason in states)
    )
    return root


def check(root, *arguments):
    return check_dataset.main(["--data_dir", str(root.parent), "--dataset_name", root.name, *arguments])


def test_a_dataset_in_order(llp, capsys):
    assert check(llp, "--labels_csv", str(llp.parent / "LLP.csv")) == 0
    report = (llp / "report.txt").read_text()
    assert report.strip() in capsys.readouterr().out
    for line in (
        "downloads: 4 asked for, 1 got, 2 gone, 1 failed",
        "2 gone: Video unavailable",
        "1 failed: timed out",
        "train: 3 clips, 4 frames",
        "test: 1 clips, 1 frames",
        "each 10.00 to 10.00 s",
        "16000 Hz (3)",
        "320x240 (3), 240x320 (1)",
        "labels per clip: 2 (3), 3 (1)",
        "0 things to put right.",
    ):
        assert line in report, line
    with Image.open(llp / "report.png") as figure:
        figure.load()


def test_recordings_of_any_format_are_read_to_their_end(llp):
    audio = llp / "train/audio"
    sound, rate = soundfile.read(audio / "-aaaaaaaaaa.wav")
    soundfile.write(audio / "-aaaaaaaaaa.flac", sound, rate)
    (audio / "-aaaaaaaaaa.wav").unlink()
    part = (audio / "-aaaaaaaaaa.flac").read_bytes()
    (audio / "-aaaaaaaaaa.flac").write_bytes(part + part)  # its header knows of the first part only
    assert check(llp) == 0
    assert "each 10.00 to 20.00 s" in (llp / "report.txt").read_text()


def test_the_figure_shows_the_numbers(llp, monkeypatch):
    drawn = []
    draw = check_dataset.draw_report
    monkeypatch.setattr(check_dataset, "draw_report", lambda *found: drawn.append(draw(*found)) or drawn[0])
    assert check(llp, "--labels_csv", str(llp.parent / "LLP.csv")) == 0
    outcomes, reasons, counts, durations, sizes, labels = drawn[0].axes
    assert "LLP: 4 clips, 5 frames" in drawn[0].get_suptitle() and "nothing to put right" in drawn[0].get_suptitle()
    assert [bar.get_width() for bar in outcomes.patches] == [1, 2, 1]  # done, gone, failed
    assert [text.get_text() for text in reasons.texts] == ["2  Video unavailable", "1  timed out"]
    assert [bar.get_height() for bar in counts.patches] == [3, 1, 4, 1]  # clips, then frames of the two splits
    assert sum(bar.get_height() for bar in durations.patches) == 4
    assert sizes.collections[0].get_offsets().tolist() == [[320, 240], [240, 320]]
    assert {round(bar.get_x() + 0.4): bar.get_height() for bar in labels.patches} == {2: 3, 3: 1}
    assert "3  Speech" in labels.texts[-1].get_text()


@pytest.mark.parametrize(
    ("spoil", "kind", "what"),
    [
        (lambda root: (root / "train/audio/ccccccccccc.wav").unlink(), "pictures without a sound", "ccccccccccc.wav"),
        (lambda root: (root / "test/image/ddddddddddd_frame_3.jpg").unlink(), "sound without a picture", "ddddddddddd"),
        (
            lambda root: write_wav(root / "train/audio/-aaaaaaaaaa.wav", amplitude=0),
            "sound that cannot be used",
            "silent",
        ),
        (lambda root: write_wav(root / "train/audio/-aaaaaaaaaa.wav", 0.5), "sound that cannot be used", "only 0.50 s"),
        (
            lambda root: (root / "train/audio/-aaaaaaaaaa.wav").write_bytes(b"RIFF"),
            "sound that cannot be used",
            "-aaaa",
        ),
        (
            lambda root: soundfile.write(root / "train/audio/-aaaaaaaaaa.wav", np.full(16000, np.nan), 16000, "FLOAT"),
            "sound that cannot be used",
            "NaN",
        ),
        (lambda root: cut(root / "train/image/--bbbbbbbbb_frame_3.jpg"), "pictures that cannot be used", "truncated"),
        (
            lambda root: (root / "train/image/--bbbbbbbbb_frame_3.jpg").write_text("no"),
            "pictures that cannot be used",
            "cannot identify",
        ),
        (
            lambda root: write_image(root / "train/image/--bbbbbbbbb_frame_3.jpg", (320, 20)),
            "pictures that cannot be used",
            "320x20",
        ),
        (lambda root: write_image(root / "train/image/--bbbbbbbbb.jpg"), "names", "expected <id>_frame_<second>.jpg"),
        (lambda root: (root / "train/audio/ccccccccccc.wav.part").write_text(""), "left over", "ccccccccccc.wav.part"),
        (lambda root: (root / "download/.partial").mkdir(), "left over", ".partial"),
        (lambda root: (root / "train/image/.partial-0a.jpg").write_bytes(b"ha"), "left over", ".partial-0a.jpg"),
        (lambda root: copy(root, "train", "test", "ccccccccccc"), "videos in several splits", "test and train"),
        (lambda root: copy(root, "test", "test", "ddddddddddd", "eeeeeeeeeee"), "clips without labels", "eeeeeeeeeee"),
    ],
)
def test_what_training_would_stumble_over_is_listed(llp, spoil, kind, what, monkeypatch):
    monkeypatch.setattr(check_dataset, "draw_report", lambda *_: Figure())
    spoil(llp)
    assert check(llp, "--labels_csv", str(llp.parent / "LLP.csv")) == 1
    report = (llp / "report.txt").read_text()
    assert kind in report and what in report.split(kind)[1]
    assert "1 things to put right" in report  # and nothing else is taken for wrong


def cut(path):
    path.write_bytes(path.read_bytes()[:-2000])


def copy(root, source, target, id, new_id=None):
    for kind, name in (("audio", "{}.wav"), ("image", "{}_frame_3.jpg")):
        data = (root / source / kind / name.format(id)).read_bytes()
        (root / target / kind / name.format(new_id or id)).write_bytes(data)


def test_fsd50k_is_compared_with_its_lists(tmp_path):
    root = tmp_path / "FSD50K"
    for name in ("64760", "16399", "37199"):
        write_wav(root / f"{name}.wav", 0.4, 44100)
    (root / "collection_dev.csv").write_text('fname,labels,mids\n64760,"Dog,Bark","/m/1,/m/2"\n16399,,\n77,Dog,/m/1\n')
    (root / "collection_eval.csv").write_text("fname,labels,mids\n37199,Rain,/m/3\n")
    assert check(root) == 1
    report = (root / "report.txt").read_text()
    assert "all: 3 clips" in report and "44100 Hz (3)" in report and "labels per clip: 0 (1), 1 (1), 2 (1)" in report
    assert "clips that are missing (1):\n  77:" in report and "1 things to put right" in report


def test_a_missing_or_empty_folder(tmp_path, capsys):
    with pytest.raises(SystemExit, match="prepare_llp.sh"):
        check(tmp_path / "LLP")
    (tmp_path / "LLP").mkdir()
    assert check(tmp_path / "LLP") == 1
    assert "neither train/ nor test/" in capsys.readouterr().out
