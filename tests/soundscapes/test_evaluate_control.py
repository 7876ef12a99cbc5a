import json
import sys

import numpy as np
import torch

from soundscapes import evaluate_control
from soundscapes.evaluate_control import best_signals, best_sums, largest_there, occlusion, seen_in_halves, two_events
from soundscapes.judge import Judge
from soundscapes.scenes import CLASSES
from soundscapes.sound.recipes import EVENTS


def test_scenes_hold_two_events_and_depend_on_their_number():
    scenes = [two_events(number) for number in range(20)]
    assert all(len(set(scene.labels)) == 2 and set(scene.labels) <= set(EVENTS) for scene in scenes)
    assert [two_events(number).labels for number in range(20)] == [scene.labels for scene in scenes]
    assert len({tuple(scene.labels) for scene in scenes}) > 15


def test_signals_are_told_to_their_events():
    stems = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    sources = torch.stack([0.3 * stems[1], 0.2 * stems[0], 0 * stems[0], 0.7 * stems[1], 0.8 * stems[0]])
    sources += 0.001 * torch.randn(sources.shape, generator=torch.Generator().manual_seed(1))
    sums = best_sums(sources, stems)
    assert (sums[1], sums[4], sums[0], sums[3]) == (0, 0, 1, 1)
    assert [best in group for best, group in zip(best_signals(sources, stems), ([1, 4], [0, 3]), strict=True)] == [
        True
    ] * 2


class Redness:
    """Sees class 0 in pictures with something red, class 1 in those with something green."""

    def __call__(self, images):
        return images.amax((2, 3))[:, :2] - 0.5


def test_halves_are_judged_alone_and_events_found_by_occlusion():
    image = torch.zeros(3, 128, 128)
    image[0, 40:60, 10:30], image[1, 90:100, 100:110] = 1, 1
    judge = Redness()
    assert seen_in_halves(judge, image, [0, 1]) == [True, True]
    assert seen_in_halves(judge, image, [1, 0]) == [False, False]
    for (top, left), (y, x) in zip(occlusion(judge, image, [0, 1]), [(40, 10), (90, 100)], strict=True):
        assert top <= y and y + 10 <= top + 32 and left <= x and x + 10 <= left + 32
    maps = torch.zeros(3, 128, 128)
    maps[2, 30:70, :40], maps[1, 80:, 90:] = 0.5, 0.4
    assert largest_there(maps, (32, 8)) == 2 and largest_there(maps, (88, 96)) == 1


def test_it_measures_and_goes_on(tiny_dir, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    Judge(CLASSES, width=4).save_pretrained(tmp_path / "judge")

    def run(scenes):
        words = ["--model_dir", tiny_dir, "--judge", tmp_path / "judge", "--output_dir", tmp_path, "--steps", 1]
        monkeypatch.setattr(sys, "argv", ["evaluate_control.py", *map(str, words), "--scenes", str(scenes)])
        evaluate_control.main()
        return json.loads((tmp_path / "control.json").read_text())["scenes"]

    first = run(1)
    monkeypatch.setattr(evaluate_control, "measure", lambda *_: first[0])
    assert run(2) == first * 2
    printed = capsys.readouterr().out
    assert "| all |" in printed and np.isin(list(first[0]["halves"]), evaluate_control.ASSIGNMENTS).all()
