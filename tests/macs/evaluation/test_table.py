import numpy as np
import pytest

from macs.evaluation.measures import Estimate
from macs.evaluation.paper import OWN_SPLITS
from macs.evaluation.table import figure, table


def estimate(value, spread=1.0, n=20):
    return Estimate(value, n, value + spread * np.linspace(-1, 1, 201))


PAPER = {"MACS": {"fid": 87.09, "ais": 0.0754}, "Other": {"fid": None, "ais": 0.1}}
RESULTS = {
    "mine": {"fid": estimate(90), "ais": estimate(0.08, 0.01)},
    "yours": {"fid": estimate(np.nan), "ais": estimate(0.02, 0.01)},
}


def test_figure_shows_every_number_and_its_interval():
    drawn = figure("LLP (test)", ["fid", "ais"], RESULTS, PAPER)
    fid, ais = drawn.axes
    assert [axes.get_title() for axes in (fid, ais)] == ["FID ↓", "AIS ↑"]
    assert [tick.get_text() for tick in fid.get_yticklabels()] == ["MACS (paper)", "Other (paper)", "mine", "yours"]

    def points(axes):
        return {line.get_ydata()[0]: line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"}

    def bars(axes):
        return {line.get_ydata()[0]: tuple(line.get_xdata()) for line in axes.lines if line.get_marker() != "o"}

    assert points(fid) == {0: 87.09, 2: 90} and points(ais) == {0: 0.0754, 1: 0.1, 2: 0.08, 3: 0.02}
    assert bars(fid) == {2: pytest.approx((89.05, 90.95))}  # 95% of an even spread over 89 to 91
    assert bars(ais)[3] == pytest.approx((0.0105, 0.0295))
    assert [text.get_text() for text in fid.texts] == ["undefined"] and fid.texts[0].get_position()[1] == 3
    low, high = fid.get_ylim()
    assert low > 3 and high < 0  # the first row on top, none cut off
    folds = figure("LLP (test)", ["fid"], {"mine": {"fid": Estimate(3.0, 9, np.array([2.0, 3.0, 4.0]))}}, {}, folds=3)
    assert bars(folds.axes[0]) == {0: (2.0, 4.0)}  # one deviation to either side


def test_table_shows_the_paper_the_models_and_what_was_left_out():
    difference = {"yours - mine": {"fid": estimate(np.nan), "ais": estimate(-0.06, 0.01)}}
    notes = [{"what": "files that could not be read", "names": {f"{k}.png": "empty" for k in range(7)}}]
    text = table("LLP", ["fid", "ais"], RESULTS, difference, PAPER, notes, resamples=201)
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["LLP", "FID", "↓", "AIS", "↑"]
    assert ["MACS", "(paper)", "87.09", "0.0754"] in rows and ["Other", "(paper)", "–", "0.1000"] in rows
    assert ["mine", "90.00", "0.0800"] in rows and ["yours", "–", "0.0200"] in rows
    assert ["[89.05,", "90.95]", "[0.0705,", "0.0895]"] in rows
    assert ["yours", "-", "mine", "–", "-0.0600"] in rows and ["[-0.0695,", "-0.0505]"] in rows
    assert "yours: FID is undefined: it needs two images and two frames at least" in text
    assert "files that could not be read: 7" in text and text.count("(empty)") == 5 and "results.json" in text
    folds = table("LLP", ["fid"], {"mine": {"fid": Estimate(3.0, 9, np.array([2.0, 3.0, 4.0]))}}, {}, {}, [], folds=3)
    assert "±1.00" in folds and "No rows of the paper are known for LLP" in folds


def test_rows_of_another_split_are_marked_as_such():
    for own_split, mark in ((False, "(paper)"), (True, "(paper, other split)")):
        text = table("Landscape", ["fid", "ais"], RESULTS, {}, PAPER, [], own_split=own_split)
        assert f"MACS {mark}  " in text and ("not like for like" in text) == own_split
        ticks = figure("Landscape", ["fid", "ais"], RESULTS, PAPER, own_split=own_split).axes[0].get_yticklabels()
        assert ticks[0].get_text() == f"MACS {mark}"
    assert OWN_SPLITS == {"AudioSet", "Landscape"}
