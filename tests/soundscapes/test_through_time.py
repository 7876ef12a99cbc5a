"""Minutes with known entries, and their measures against numbers made by hand."""

import numpy as np
import pytest
import torch

from soundscapes.sound.recipes import AMBIENCES
from soundscapes.sound.synthesis import SAMPLE_RATE
from soundscapes.through_time import Minute, flicker, make_minute, second_f1, steady_second


@pytest.mark.parametrize("index", [0, 3])
def test_sources_sound_when_they_are_said_to(index):
    minute = make_minute(index)
    assert minute.stems.shape == (4, 60 * SAMPLE_RATE) and np.abs(minute.mixture).max() < 1
    assert sum(label in AMBIENCES for label, _, _ in minute.parts) == 1
    for stem, (label, start, end) in zip(minute.stems, minute.parts, strict=True):
        loud = stem.reshape(60, SAMPLE_RATE).std(1)
        assert (loud[:start] == 0).all() and (loud[end:] == 0).all() and (loud[start:end] > 0).mean() > 0.8, label
        assert minute.sounding()[label].sum() == end - start
    assert np.array_equal(make_minute(index).stems, minute.stems)
    assert index or [label for label, _, _ in minute.parts] == ["rain", "dog", "bell", "train"]


def test_measures():
    minute = Minute([("rain", 0, 4), ("dog", 2, 4)], np.zeros((2, 4 * SAMPLE_RATE), np.float32))
    sounding = minute.sounding()
    seen = [["rain"], ["rain", "dog"], ["rain"], []]  # F1: 1, 2/3, 2/3, 0
    assert second_f1(seen, sounding, [0, 1, 2, 3]) == pytest.approx((1 + 2 / 3 + 2 / 3) / 4)
    features = torch.tensor([[0.0, 0], [3, 4], [100, 0], [100, 1]])
    assert flicker(features, sounding, [0, 1, 2, 3]) == pytest.approx((5 + 1) / 2)  # not where the dog comes in
    assert steady_second(minute.sounding()) == 0  # both parts last 2 s: the first
    assert steady_second({"rain": np.ones(60, bool), "dog": np.arange(60) >= 20}) == 39  # of 20-60: 39 to 41 s
