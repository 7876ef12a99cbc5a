import csv
import re

import librosa
import numpy as np
import pytest
import soundfile
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from soundscapes.scenes import CLASSES, make_scene, write_soundscapes
from soundscapes.sound.recipes import AMBIENCES, synthesise


def test_scene_has_what_training_needs():
    scene = make_scene("train", 4, num_sources=3)
    assert len(scene.labels) == len(set(scene.labels)) == 3 and set(scene.labels) <= set(CLASSES)
    assert scene.stems.shape == (3, 128000) and scene.mixture.shape == (128000,) and scene.sample_rate == 16000
    assert scene.stems.dtype == scene.mixture.dtype == np.float32
    assert np.array_equal(scene.stems[0] + scene.stems[1] + scene.stems[2], scene.mixture)
    assert scene.image.size == (128, 128) and scene.image.mode == "RGB"


def test_scene_depends_on_split_index_and_seed_only():
    scene, again = make_scene("train", 7, seed=3), make_scene("train", 7, seed=3)
    again.image  # noqa: B018  the picture first: sound and picture must not share a random generator
    np.random.seed(1)
    assert scene.labels == again.labels and scene.caption == again.caption
    assert np.array_equal(scene.mixture, again.mixture) and scene.image.tobytes() == again.image.tobytes()
    for other in (("test", 7, 3), ("train", 8, 3), ("train", 7, 4)):
        other = make_scene(*other, labels=scene.labels)
        assert not np.array_equal(other.mixture, scene.mixture) and other.image.tobytes() != scene.image.tobytes()


def test_sound_and_picture_are_made_separately(monkeypatch):
    monkeypatch.setattr("soundscapes.scenes.synthesise", lambda *_: pytest.fail("the picture needs no sound"))
    assert make_scene("train", 0).image.size == (128, 128)
    monkeypatch.undo()
    monkeypatch.setattr("soundscapes.scenes.paint", lambda *_: pytest.fail("the sound needs no picture"))
    assert make_scene("train", 0).mixture.any()


def test_draw_is_balanced():
    scenes = [make_scene("train", index) for index in range(3000)]
    assert all(sum(name in AMBIENCES for name in scene.labels) <= 1 for scene in scenes)
    sources = np.bincount([len(scene.labels) for scene in scenes])[1:]
    assert len(sources) == 3 and sources.min() > 900
    single = [scene.labels[0] for scene in scenes if len(scene.labels) == 1]
    assert set(single) == set(CLASSES) and max(single.count(name) for name in CLASSES) < 0.1 * len(single)
    for name, words in {"fire": "fire", "sea": "waves|sea", "car horn": "car horn", "crickets": "crickets"}.items():
        assert all(re.search(words, scene.caption, re.I) for scene in scenes if name in scene.labels)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_sounds_and_looks_different_each_time(name):
    first, second = (make_scene("train", index, labels=[name]) for index in (0, 1))
    for scene in (first, second):
        assert np.abs(scene.mixture).max() < 0.951 and 0.01 < scene.mixture.std() < 0.1
        assert np.array(scene.image).std() > 15
    assert np.corrcoef(first.mixture, second.mixture)[0, 1] < 0.5
    assert np.abs(np.array(first.image, float) - np.array(second.image, float)).mean() > 5


def test_painting_shows_each_event():
    # Replacing one event by another repaints a good part of the picture, whatever else there is.
    for name in (name for name in CLASSES if name not in AMBIENCES):
        other = "frog" if name != "frog" else "drum"
        shown, without = (np.array(make_scene("test", 0, labels=["sea", kind]).image, float) for kind in (name, other))
        assert (np.abs(shown - without).max(axis=2) > 30).mean() > 0.05, name


def test_classes_are_told_apart_by_timbre_and_rhythm_but_not_by_one_frequency():
    features, peaks, classes = [], [], []
    for number, name in enumerate(CLASSES):
        for index in range(13):
            clip = synthesise(name, np.random.default_rng([number, index]))
            mel = librosa.power_to_db(librosa.feature.melspectrogram(y=clip, sr=16000, hop_length=256, n_mels=40))
            features.append(np.concatenate([mel.mean(1), mel.std(1), np.diff(mel).std(1)]))
            peaks.append([np.abs(np.fft.rfft(clip)).argmax()])
            classes.append(number)
    features, peaks, classes = StandardScaler().fit_transform(features), np.array(peaks), np.array(classes)
    held_out = np.arange(len(classes)) % 13 >= 9
    judge = LogisticRegression(max_iter=300).fit(features[~held_out], classes[~held_out])
    assert judge.score(features[held_out], classes[held_out]) > 0.95
    one_bin = KNeighborsClassifier(3).fit(peaks[~held_out], classes[~held_out])
    assert one_bin.score(peaks[held_out], classes[held_out]) < 0.4


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"split": "training"}, "no split 'training'"),
        ({"num_sources": 4}, "1, 2 or 3"),
        ({"labels": ["rain", "violin"]}, "violin"),
        ({"labels": []}, "Unknown labels"),
        ({"labels": ["rain", "sea"]}, "one ambience"),
    ],
)
def test_wrong_requests_are_refused(request_, message):
    with pytest.raises(ValueError, match=message):
        make_scene(**{"split": "train", "index": 0} | request_)


def test_written_files_are_complete_and_resumable(tmp_path):
    write_soundscapes(tmp_path, {"train": 5, "test": 3}, seed=2, stems=True, num_workers=2)
    root = tmp_path / "Soundscapes"
    with open(root / "Soundscapes.csv", newline="") as file:
        labels = {row["filename"]: row["event_labels"].split(",") for row in csv.DictReader(file)}
    assert len(labels) == 8 and not list(root.rglob(".partial*"))
    for split, count in (("train", 5), ("test", 3)):
        for index in range(count):
            scene = make_scene(split, index, seed=2)
            assert labels[scene.id] == scene.labels
            mixture, rate = soundfile.read(root / split / "audio" / f"{scene.id}.wav", dtype="float32")
            assert rate == 16000 and np.array_equal(mixture, scene.mixture)
            stems = [soundfile.read(path, dtype="float32")[0] for path in root.glob(f"{split}/stems/{scene.id}_*.wav")]
            assert len(stems) == len(scene.labels) and np.array_equal(sum(stems), mixture)
            with Image.open(root / split / "image" / f"{scene.id}_frame_0.jpg") as image:
                assert np.abs(np.array(image, float) - np.array(scene.image, float)).mean() < 4

    kept, lost = root / "train" / "audio" / "train-2-000001.wav", root / "train" / "audio" / "train-2-000003.wav"
    content, times = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    write_soundscapes(tmp_path, {"train": 6, "test": 3}, seed=2)
    assert lost.read_bytes() == content and kept.stat().st_mtime_ns == times
    assert (root / "train" / "image" / "train-2-000005_frame_0.jpg").exists()


def test_scenes_with_so_many_sources_in_turn(tmp_path):
    write_soundscapes(tmp_path, {"test": 4}, dataset_name="Clips", max_sources=2, num_workers=0)
    with open(tmp_path / "Clips" / "Clips.csv", newline="") as file:
        rows = {row["filename"]: row["event_labels"].split(",") for row in csv.DictReader(file)}
    assert [len(labels) for labels in rows.values()] == [1, 2, 1, 2]
    written, rate = soundfile.read(tmp_path / "Clips" / "test" / "audio" / "test-0-000003.wav", dtype="float32")
    assert np.array_equal(written, make_scene("test", 3, num_sources=2).mixture)


def test_a_taught_sound_is_in_every_other_scene_and_painted_as_what_the_model_knows(tmp_path):
    write_soundscapes(tmp_path, {"test": 4}, dataset_name="Cuckoo", taught="cuckoo", num_workers=0)
    with open(tmp_path / "Cuckoo" / "Cuckoo.csv", newline="") as file:
        rows = [row["event_labels"].split(",") for row in csv.DictReader(file)]
    assert ["cuckoo" in labels for labels in rows] == [True, False, True, False] and "cuckoo" not in CLASSES
    assert rows[0][1:] == [name for name in make_scene("test", 0).labels if name in AMBIENCES]
    cuckoo, bird = (make_scene("test", 3, labels=[name, "rain"]) for name in ("cuckoo", "bird"))
    assert np.array_equal(cuckoo.pixels, bird.pixels) and "cuckoo" in cuckoo.caption
    # two notes in turn: the strongest frequencies of the calls lie a third apart
    spectrum = np.abs(np.fft.rfft(make_scene("test", 3, labels=["cuckoo"]).mixture))[: 8 * 1000]
    notes = np.flatnonzero(spectrum > 0.3 * spectrum.max()) / 8
    assert 1.15 < notes.max() / notes.min() < 1.4 and 450 < notes.min() < notes.max() < 800
