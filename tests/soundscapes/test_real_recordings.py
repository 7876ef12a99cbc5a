import csv

import numpy as np
import pytest
import soundfile
import torch

from soundscapes.judge import Judge
from soundscapes.real_recordings import interval, measure, pairs_of, scores, single_recordings
from soundscapes.report import real_rows, tables
from soundscapes.scenes import CLASSES
from soundscapes.sound.recordings import COLUMNS


@pytest.fixture
def folder(tmp_path):
    """Tones: three test recordings, one of a second and one of no class of the world, and one for training."""
    files = [("dog", 500, 1, 0.5, "test"), ("rain", 900, 8, 0.01, "test"), ("cat", 700, 8, 0.5, "test"),
             ("bell", 300, 8, 0.5, "train")]  # fmt: skip
    rows = []
    for name, frequency, seconds, amplitude, split in files:
        (tmp_path / name).mkdir()
        tone = amplitude * np.sin(2 * np.pi * frequency * np.arange(16000 * seconds) / 16000)
        soundfile.write(tmp_path / name / "a.wav", tone, 16000)
        rows.append((f"{name}/a.wav", name, name, "me", "CC0", split))
    with open(tmp_path / "recordings.csv", "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return tmp_path


def test_recordings_of_the_split_and_pairs_of_equal_loudness(folder):
    recordings = single_recordings(folder)
    assert [labels for labels, _ in recordings] == [["dog"], ["rain"], []]
    assert all(clip.shape == (128000,) for _, clip in recordings)
    pairs = pairs_of(recordings, 5)
    assert len(pairs) == 5 and all(sorted(labels) == ["dog", "rain"] for labels, _ in pairs)
    mixture = pairs[0][1]
    spectrum = torch.fft.rfft(mixture[:16000]).abs()  # the dog sounds in the first second only, the rain throughout
    assert spectrum[500].item() == pytest.approx(spectrum[900].item(), rel=0.01)
    assert mixture[16000:].std() == pytest.approx(0.06, rel=0.01)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(pairs, pairs_of(recordings, 5), strict=True))
    assert pairs_of(recordings[1:], 5) == []  # one class only


def test_scores_from_counts():
    dog, rain, sea = (CLASSES.index(name) for name in ("dog", "rain", "sea"))
    seen = torch.zeros(2, 2, len(CLASSES), dtype=torch.bool)  # two seeds of two pictures
    seen[0, 0, [dog, sea]] = True  # the dog is seen once of two times, with something else
    seen[0, 1, [rain, dog]] = seen[1, 1, rain] = True  # the pair: both, then the rain alone
    found, f1 = scores(seen, [["dog"], ["dog", "rain"]])
    assert found["things"] == pytest.approx(5 / 4)
    assert found["seen"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert found["by_class"] == pytest.approx((0.5 + 1) / 2)  # dog (0.5 + 0.5) / 2, rain 1
    assert found["both"] == pytest.approx(2 / 4)  # the dog once, the pair once
    assert f1.tolist() == pytest.approx([(2 / 3 + 0) / 2, (1 + 2 / 3) / 2])
    assert scores(seen, [[], []])[0] == {"things": 5 / 4}


def test_interval_holds_the_mean():
    mean, low, high = interval(np.r_[np.zeros(50), np.ones(50)])
    assert mean == 0.5 and low == pytest.approx(0.40, abs=0.02) and high == pytest.approx(0.60, abs=0.02)


def test_measures_a_folder(folder, tiny):
    judge = Judge(CLASSES, width=4).eval()
    sampling = {"num_seeds": 1, "num_steps": 1, "guidance_scale": 1.0, "batch_size": 3}
    results = measure(tiny, None, judge, folder, num_pairs=1, **sampling)
    assert {group: found["recordings"] for group, found in results["macs"].items()} == {"one": 2, "none": 1, "pairs": 1}
    rows = real_rows(results)
    assert rows[1][0] == "MACS, M = 6" and len(rows[1]) == len(rows[0]) and "mixture" not in results
    text, markdown = tables({"settings": {}, "variants": {}, "si_sdr_improvement": {}, "best_signal_improvement": {},
                             "real": results})  # fmt: skip
    assert "two at once: seen" in text and "| two at once: seen |" in markdown
