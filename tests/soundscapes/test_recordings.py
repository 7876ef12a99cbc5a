import csv

import numpy as np
import pytest
import soundfile

from macs.audio import AudioError
from soundscapes import prepare_recordings
from soundscapes.scenes import CLASSES, make_scene, write_soundscapes
from soundscapes.sound.recordings import COLUMNS, NOISE, Recordings, fill, read_table, trimmed
from soundscapes.train_clap import captioned_clip

RATE = 16000
# index of a training scene: labels, sum of its 16-bit samples' magnitudes, and of their squares, before there were
# recordings
REFERENCE = {
    0: (["sea", "frog", "train"], 136754029, 284358548181),
    1: (["frog", "rain"], 190471352, 552062283768),
    2: (["helicopter", "dog", "frog"], 101456459, 233614636483),
    5: (["bird", "car horn", "crickets"], 222296007, 980124007457),
}


def write_tone(path, frequency, seconds=0.5, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate), rate)


def pitch(clip):
    return np.abs(np.fft.rfft(clip)).argmax() / 8  # bins of 1/8 Hz


def write_table(folder, rows):
    with open(folder / "recordings.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


@pytest.fixture
def folder(tmp_path):
    """Recordings that their pitch tells apart."""
    sounds = [
        ("dog/a.wav", "dog", "one", "train", 500, 0.5),
        ("dog/b.flac", "dog", "two", "test", 700, 0.5),
        ("rain/a.ogg", "rain", "three", "train", 900, 30),  # long: read in parts
        ("baby/a.wav", "baby", "four", "train", 1100, 3),
        ("saw/a.wav", "saw", "five", "train", 1300, 9),
    ]
    for name, *_, frequency, seconds in sounds:
        write_tone(tmp_path / name, frequency, seconds, 44100 if name == "saw/a.wav" else RATE)
    write_table(tmp_path, [(name, kind, source, "N. N.", "CC0", split) for name, kind, source, split, *_ in sounds])
    return tmp_path


def test_excerpts_are_of_their_class_and_split(folder):
    recordings, held_out = Recordings(folder), Recordings(folder, "test")
    assert recordings.labels == ["rain", "dog", NOISE] and held_out.labels == ["dog"]
    for label, pitches in (("dog", {500}), ("rain", {900}), (NOISE, {1100, 1300})):
        clips = [recordings.excerpt(label, np.random.default_rng(seed)) for seed in range(12)]
        assert all(clip.shape == (128000,) and clip.dtype == np.float32 for clip in clips)
        assert {round(pitch(clip) / 100) * 100 for clip in clips} == pitches
        assert np.array_equal(clips[3], recordings.excerpt(label, np.random.default_rng(3)))
        loud = [np.sort(np.mean(clip.reshape(-1, 1600) ** 2, axis=1))[-3:].mean() ** 0.5 for clip in clips]
        assert 0.7 < min(loud) and max(loud) < 1.6  # as loud as the recipes' clips, however short
    assert round(pitch(held_out.excerpt("dog", np.random.default_rng(0)))) == pytest.approx(700, abs=5)


def test_short_recordings_are_padded_placed_or_repeated():
    event = np.ones(RATE, np.float32)
    seen = set()
    for seed in range(40):
        clip = fill(event, np.random.default_rng(seed), gaps=True)
        starts = np.flatnonzero(np.diff(np.concatenate([[0], clip])) > 0)
        seen.add("repeated" if clip.sum() > RATE else "before silence" if starts[0] == 0 else "in silence")
        assert clip.shape == (128000,) and clip.max() == 1
        lasting = fill(event, np.random.default_rng(seed), gaps=False)
        assert lasting.sum() in (RATE, 8 * RATE)
    assert seen == {"repeated", "before silence", "in silence"}


def test_silence_around_a_recording_is_cut_off():
    samples = np.concatenate([np.zeros(4000), np.full(3200, 0.5), np.zeros(8000)]).astype(np.float32)
    short = trimmed(samples)
    assert len(short) == 3200 and np.all(short[80:-80] == 0.5) and short[0] == short[-1] == 0
    assert len(trimmed(np.zeros(100, np.float32))) <= 160


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("dog/a.wav", "dog", "one", "", "CC0", "val")], "line 2: expected the split train or test, not 'val'"),
        ([("dog/c.wav", "dog", "one", "", "CC0", "train")], "line 2: 'dog/c.wav' is no audio file"),
        (
            [("dog/a.wav", "dog", "one", "", "CC0", "train"), ("dog/b.flac", "dog", "one", "", "CC0", "test")],
            "line 3: 'one' is in both splits",
        ),
        ([("dog/a.wav", "dog", "one", "", "CC0", "test")], "no recording of the split 'train'"),
    ],
)
def test_wrong_tables_are_refused_and_named(folder, rows, message):
    write_table(folder, rows)
    with pytest.raises(AudioError, match=message):
        Recordings(folder)


def test_missing_tables_and_columns_are_named(folder):
    (folder / "recordings.csv").write_text("filename,class\ndog/a.wav,dog\n")
    with pytest.raises(AudioError, match="the column 'source' is missing"):
        read_table(folder)
    (folder / "recordings.csv").unlink()
    with pytest.raises(AudioError, match="prepare_recordings.py"):
        read_table(folder)


def test_scenes_without_recordings_are_what_they_were():
    for index, (labels, total, power) in REFERENCE.items():
        scene = make_scene("train", index)
        integers = np.round(scene.mixture * 32768).astype(np.int64)
        assert scene.labels == labels and np.abs(integers).sum() == pytest.approx(total, rel=1e-5)
        assert (integers**2).sum() == pytest.approx(power, rel=1e-5)


def test_scenes_take_recordings_in_place_of_recipes(folder):
    recordings = Recordings(folder, share=5.0)  # of a single one a fifth of that: always
    plain, real = (make_scene("train", 3, labels=["bell", "dog"], recordings=given) for given in (None, recordings))
    assert real.labels == plain.labels and real.caption == plain.caption
    assert real.image.tobytes() == plain.image.tobytes()
    assert round(pitch(real.stems[1])) == pytest.approx(500, abs=5)
    bells = real.stems[0] / real.stems[0].std(), plain.stems[0] / plain.stems[0].std()
    assert np.allclose(*bells, atol=0.02)  # no recording of bells: the same but for its level
    assert np.array_equal(real.mixture, real.stems.sum(0)) and np.abs(real.mixture).max() < 0.96
    half = Recordings(folder, share=2.5)
    found = [round(pitch(make_scene("train", i, labels=["dog"], recordings=half).stems[0])) == 500 for i in range(40)]
    assert 8 < sum(found) < 32


def test_written_scenes_hold_recordings(folder, tmp_path):
    recordings = {"train": Recordings(folder, share=5.0)}
    write_soundscapes(tmp_path, {"train": 4}, stems=True, num_workers=0, recordings=recordings)
    for index in range(4):
        scene = make_scene("train", index, recordings=Recordings(folder, share=5.0))
        path = tmp_path / "Soundscapes" / "train" / "audio" / f"{scene.id}.wav"
        assert np.array_equal(soundfile.read(path, dtype="float32")[0], scene.mixture)


def test_clap_hears_recordings_and_none_of_these(folder):
    clips = [captioned_clip(0, index, recordings=str(folder)) for index in range(0, 135, 3)]
    again = captioned_clip(0, 132, recordings=str(folder))
    assert np.array_equal(again[0], clips[44][0]) and again[1:] == clips[44][1:]
    pitches = np.array([round(pitch(clip.numpy()) / 10) * 10 for clip, _, _ in clips])
    noise = np.array([text == "Noise" for _, text, _ in clips])
    dogs = np.array([classes == 1 << CLASSES.index("dog") for _, _, classes in clips])
    unknown = np.isin(pitches, [1100, 1300])
    assert noise.any() and dogs.any() and not (noise & dogs).any()
    assert (noise & unknown).any() and ((pitches == 500) & dogs).any()
    assert all(classes == 0 for (_, _, classes), flag in zip(clips, noise, strict=True) if flag)


def esc10_and_esc50(root):
    """Both layouts, with the same two clips and one that may not be passed on."""
    lines = {
        "1-100032-A": ("rose_bark.wav", "nfrae", "CC0", "001_dog_bark", 0),
        "5-9032-A": ("Dog (close) bark2.wav", "Mister [T] Tood", "CC-BY", "001_dog_bark", 0),
        "2-96460-B": ("roosters.mp3", "123a", "CC-Sampling+", "009_rooster", 1),
    }
    first, second = root / "esc10", root / "ESC-50"
    (second / "meta").mkdir(parents=True)
    markdown, plain = [], ["101 - Dog:"]
    rows = [
        ("filename", "fold", "target", "category", "esc10", "src_file", "take"),
        ("1-1-A-3.wav", 1, 3, "cow", "False"),
    ]
    for clip, (title, author, licence, directory, target) in lines.items():
        write_tone(first / directory / f"{clip.lower()}.ogg", 500)
        write_tone(second / "audio" / f"{clip}-{target}.wav", 500)
        url = f"http://www.freesound.org/people/x/sounds/{clip.split('-')[1]}/"
        markdown.append(
            f"- **[{clip}.ogg](https://github.com/raw/{clip}.ogg)**:   clip derived from [{title}]({url}) by "
            f"*{author}* ([{licence}](http://creativecommons.org/))"
        )
        plain.append(f"- [{clip}.ogg]: clip derived from {title} ({url}) by {author} [{licence}]")
        rows.append((f"{clip}-{target}.wav", clip[0], target, directory, "True", clip.split("-")[1], "A"))
    (first / "LICENSES.md").write_text("\n".join(markdown))
    (second / "LICENSE").write_text("\n".join(plain))
    with open(second / "meta" / "esc50.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return first, second


@pytest.mark.parametrize("archive", [0, 1])
def test_esc10_and_esc50_are_prepared_with_their_credits(tmp_path, capsys, archive):
    source = esc10_and_esc50(tmp_path)[archive]
    prepare_recordings.main([str(source), "--output_dir", str(tmp_path / "out")])
    rows = {row["source"].split(" http")[0]: row for row in read_table(tmp_path / "out")}
    assert set(rows) == {"rose_bark.wav", "Dog (close) bark2.wav"}
    free, kept = rows["rose_bark.wav"], rows["Dog (close) bark2.wav"]
    assert (free["class"], free["author"], free["licence"], free["split"]) == ("dog", "nfrae", "CC0", "train")
    assert (kept["author"], kept["licence"], kept["split"]) == ("Mister [T] Tood", "CC-BY", "test")
    assert kept["source"].endswith("http://www.freesound.org/people/x/sounds/9032/")
    out = capsys.readouterr().out
    assert "left out, its licence is CC-Sampling+" in out and "2 recordings, 1 of them for testing" in out
    prepare_recordings.main([str(source), "--output_dir", str(tmp_path / "out")])  # again: nothing twice
    assert len(read_table(tmp_path / "out")) == 2


def test_files_with_a_csv_are_prepared_and_unknown_folders_refused(tmp_path):
    write_tone(tmp_path / "fx" / "moo.wav", 500)
    (tmp_path / "fx" / "fx.csv").write_text(
        "file,class,source,licence,original name or credit\nmoo.wav,cow,lib,MIT,Moo\n"
    )
    with pytest.raises(SystemExit, match="--test fold5: the packages are lib"):
        prepare_recordings.main([str(tmp_path / "fx"), "--output_dir", str(tmp_path / "out")])
    prepare_recordings.main([str(tmp_path / "fx"), "--output_dir", str(tmp_path / "out"), "--test"])
    [row] = read_table(tmp_path / "out")
    assert (row["class"], row["source"], row["licence"], row["split"]) == ("cow", "lib: Moo", "MIT", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="expected ESC-50"):
        prepare_recordings.main([str(tmp_path / "empty"), "--output_dir", str(tmp_path / "out"), "--test"])
