"""scripts/ablate.sh and what it measures with, scripts/ablation.py."""

import csv
import json
import sys
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from macs import AudioAdapter, Separator
from noted_commands import check_options_are_known, option, run_noting
from scripts import ablation
from soundscapes.judge import Judge
from soundscapes.scenes import CLASSES

ROWS = "full without_separation without_ranking without_contrastive M2 M4 M8".split()


@pytest.fixture
def ablate(tmp_path):
    """Runs ablate.sh with variables; returns its result and the commands, [[program, arguments ...]]."""
    return partial(run_noting, "scripts/ablate.sh", tmp_path)


def test_every_row_has_its_switch_and_shares_data_and_caches(ablate, tmp_path, monkeypatch):
    result, commands = ablate(SEED="7", SCENES="60", SD_PATH="model")
    assert result.returncode == 0, result.stderr
    check_options_are_known(commands, monkeypatch)
    one = {option(c, "output_dir").split("/")[-2]: c for c in commands if "train_separator.py" in c}
    two = {option(c, "output_dir").split("/")[-2]: c for c in commands if "train.py" in c}
    assert list(two) == ROWS and list(one) == [row for row in ROWS if row != "without_separation"]
    assert {row: option(c, "M") for row, c in one.items() if "--M" in c} == {"M2": "2", "M4": "4", "M8": "8"}
    losses = {row: c[c.index("--losses") + 1 :][:2] for row, c in one.items() if "--losses" in c}
    assert losses == {"without_ranking": ["mixit", "contrastive"], "without_contrastive": ["mixit", "ranking"]}
    for row in ROWS:
        if row == "without_separation":
            assert option(two[row], "M") == "1" and "--separator" not in two[row]
        else:
            assert option(two[row], "separator") == option(one[row], "output_dir") and "--M" not in two[row]
    # apart from its switch and its folder a row is trained as every other
    for commands_of_stage, switches in ((one, {"--M": 1, "--losses": 2}), (two, {"--M": 1, "--separator": 1})):
        shared = set()
        for command in commands_of_stage.values():
            for name, count in {**switches, "--output_dir": 1}.items():
                if name in command:
                    place = command.index(name)
                    command = command[:place] + command[place + 1 + count :]
            shared.add(tuple(command))
        assert len(shared) == 1
        (command,) = shared
        assert option(command, "seed") == "7" and option(command, "data_dir") == str(tmp_path / "work" / "data")
    assert commands[-1][1] == "scripts/ablation.py"
    assert commands[-1][commands[-1].index("--rows") + 1 :][: len(ROWS)] == ROWS
    assert [c for c in commands if option(c, "seed") != "7"] == []


def test_goes_on_where_it_was_and_takes_more_rows_later(ablate, tmp_path):
    result, commands = ablate(fail_at="train.py --dataset_name", ROWS="M2 full")
    assert result.returncode != 0 and [c[1].split("/")[-1] for c in commands] == [
        "make_soundscapes.py", "make_soundscapes.py", "train_separator.py", "train.py",
    ]  # fmt: skip
    result, commands = ablate(ROWS="M2 full")
    assert result.returncode == 0 and [c[1] for c in commands] == [
        "train.py", "train_separator.py", "train.py", "scripts/ablation.py",
    ]  # fmt: skip
    assert option(commands[0], "resume") == "latest" and not any("--resume" in c for c in commands[1:])
    result, commands = ablate(ROWS="M2 full without_separation")
    assert [c[1] for c in commands] == ["train.py", "scripts/ablation.py"]
    result, commands = ablate(ROWS="M2 full", SCENES="3")
    assert result.returncode == 1 and "the step 'scenes' made by another command" in result.stderr


def test_unknown_rows_are_refused_before_anything_is_done(ablate, tmp_path):
    for row in ("M0", "without_mixit", "m4"):
        result, commands = ablate(ROWS=f"full {row}")
        assert result.returncode == 2 and commands == [] and f"but got {row}" in result.stderr
        assert not (tmp_path / "work").exists()


def test_macro_f1_of_resampled_scenes_equals_sklearn_on_the_scenes_drawn():
    generator = torch.Generator().manual_seed(0)
    seen, labels = torch.rand(2, 30, 5, generator=generator) > 0.7
    labels[:, 3] = seen[:, 3] = False  # a class that is nowhere
    weights = ablation.resamples(30, seed=1)
    assert weights.shape == (1 + ablation.RESAMPLES, 30) and (weights[0] == 1).all() and (weights.sum(1) == 30).all()
    found = ablation.macro_f1(seen, labels, weights)
    for row in range(20):
        drawn = np.repeat(np.arange(30), weights[row].astype(int))
        expected = f1_score(labels[drawn], seen[drawn], average="macro", zero_division=np.nan)
        assert found[row] == pytest.approx(expected)


def made_up(right, improvement, scenes=12, classes=4):
    """What `measure` gives of scenes of which so many are drawn right, the others wrong."""
    labels = torch.eye(classes, dtype=torch.bool)[torch.arange(scenes) % classes]
    seen = labels.clone()
    seen[right:] = seen[right:].roll(1, dims=1)
    features = torch.zeros(scenes, 6)
    of_k = {"labels": labels, "seen": seen, "features": features, "frames": features + 1}
    of_k |= {"improvement": torch.full((scenes,), improvement), "single": torch.full((scenes,), improvement - 1)}
    return {k: of_k for k in ablation.COUNTS}


def test_the_table_shows_values_intervals_and_paired_differences(tmp_path):
    judge = Judge([*"abcd"], width=1)
    judge.head = torch.nn.Linear(6, 4)
    measured = {"full": made_up(12, 5.0), "M2": made_up(12, 5.0), "without_separation": made_up(0, torch.nan)}
    results = ablation.summarise(measured, judge, seed=0)
    assert results["full"]["f1"] == (1, 1, 1) and results["without_separation"]["f1_2"] == (0, 0, 0)
    assert results["M2"]["difference"] == (0, 0, 0)  # the same scenes in every resample
    assert results["without_separation"]["difference"] == (-1, -1, -1)
    assert results["full"]["sum"] == pytest.approx((5, 5, 5)) and results["full"]["single"] == pytest.approx((4, 4, 4))
    assert results["full"]["frechet_distance"] == pytest.approx(6)
    assert results["without_separation"]["sum"] is None and results["full"]["difference"] is None
    half = ablation.summarise({"full": made_up(6, 5.0)}, judge, seed=0)["full"]["f1"]
    assert half[1] < half[0] < half[2] and half[2] - half[1] > 0.1

    lines = ablation.markdown(results, "a note").splitlines()
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines[2:5]}
    assert cells["full (M = 6)"][3:] == ["1.00 [1.00, 1.00]", "–", "6", "5.0 [5.0, 5.0]", "4.0 [4.0, 4.0]"]
    assert cells["without separation"][4:] == ["-1.00 [-1.00, -1.00]", "6", "–", "–"] and "M = 2" in cells
    ablation.write_csv(tmp_path / "a.csv", results)
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [row["row"] for row in rows] == list(measured)
    assert float(rows[0]["f1_low"]) == 1 and rows[2]["sum"] == "" and float(rows[2]["difference"]) == -1

    own = torch.ones(3, 8, 8)
    pictures = {row: [torch.full((3, 8, 8), y / 4)] * 3 for y, row in enumerate(results)}
    drawn = ablation.draw_figure(results, pictures, [(["dog"], own), (["sea", "bell"], own), (["rain"], own)])
    f1, separation, *thumbnails = drawn.axes
    assert [tick.get_text() for tick in f1.get_yticklabels()] == ["full (M = 6)", "M = 2", "without separation"]
    points = [(line.get_xdata()[0], round(line.get_ydata()[0])) for line in f1.lines if line.get_marker() == "o"]
    assert points == [(1, 0)] * 3 + [(1, 1)] * 3 + [(0, 2)] * 3
    points = [line.get_xdata()[0] for line in separation.lines if line.get_marker() == "o"]
    assert points == pytest.approx([5, 4, 5, 4])
    assert [text.get_text().strip() for text in separation.texts] == ["no separation"]
    assert thumbnails[0].get_title() == "dog" and thumbnails[4].get_title() == "sea, bell"
    shown = [axes.images[0].get_array()[0, 0, 0] for axes in thumbnails[:4]]
    assert shown == pytest.approx([1, 0.5, 0.625, 0.75])


def test_measures_what_was_trained_once(tiny, tiny_dir, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    Judge(CLASSES, width=4).save_pretrained(tmp_path / "judge")
    for row, num_sources in (("M2", 2), ("without_separation", 1)):
        folder = tmp_path / row
        with tiny.adapter.detached(tiny.unet):
            AudioAdapter.from_unet(tiny.unet, num_sources, 256, 512).save_pretrained(folder / "stage_two" / "adapter")
        origin = {}
        if num_sources > 1:
            Separator(num_sources, 16).save_pretrained(folder / "stage_one" / "separator")
            origin = {"separator": str(folder / "stage_one")}
        (folder / "stage_two" / "adapter" / "trained_with.json").write_text(json.dumps(origin))
    command = ["ablation.py", "--rows", "M2", "without_separation", "--work_dir", tmp_path, "--sd_path", tiny_dir,
               "--judge", tmp_path / "judge", "--scenes", 2, "--steps", 1, "--num_workers", 0]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [*map(str, command)])
    ablation.main()
    first = json.loads((tmp_path / "ablation.json").read_text())["rows"]
    assert first["M2"]["sum"] == first["M2"]["single"] != [0, 0, 0]  # of two signals for two stems: one for each
    assert first["without_separation"]["sum"] is None and 0 <= first["without_separation"]["f1"][0] <= 1
    for name in ("ablation.md", "ablation.csv", "ablation.png"):
        assert (tmp_path / name).stat().st_size > 100
    monkeypatch.setattr(ablation, "load_pipeline", lambda *args, **kwargs: pytest.fail("computed again"))
    ablation.main()
    assert json.loads((tmp_path / "ablation.json").read_text())["rows"] == first
    # other weights are measured anew
    path = tmp_path / "M2" / "stage_two" / "adapter" / "config.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        ablation.main()
