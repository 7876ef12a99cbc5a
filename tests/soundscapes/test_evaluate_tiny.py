import json
import shutil
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image

from macs import AudioAdapter, MACSPipeline, Separator
from soundscapes import evaluate_tiny, make_tiny
from soundscapes.evaluate_tiny import condition, draw, held_out, measured, scores
from soundscapes.judge import Judge
from soundscapes.report import NAMES, tables
from soundscapes.scenes import CLASSES


@pytest.fixture(scope="module")
def work_dir(tiny, tmp_path_factory):
    """What build_tiny.sh leaves for the evaluation, untrained: a judge, the identity and an adapter for it."""
    folder = tmp_path_factory.mktemp("work")
    torch.manual_seed(0)
    Judge(CLASSES, width=4).save_pretrained(folder / "judge")
    Separator(num_sources=1, channels=16).save_pretrained(folder / "identity")
    with tiny.adapter.detached(tiny.unet):
        adapter = AudioAdapter.from_unet(tiny.unet, 1, embedding_dim=256, hidden_dim=512)
    adapter.save_pretrained(folder / "baseline" / "adapter")
    origin = {"pt_path": "", "separator": str(folder / "identity")}
    (folder / "baseline" / "adapter" / "trained_with.json").write_text(json.dumps(origin))
    return folder


@pytest.fixture
def run(tiny_dir, work_dir, monkeypatch):
    def run(output_dir, *arguments):
        words = ["evaluate_tiny.py", "--model_dir", tiny_dir, "--work_dir", work_dir, "--output_dir", output_dir]
        words += ["--steps", 2, "--seeds", 1, "--num_workers", 0, *arguments]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        evaluate_tiny.main()

    return run


@pytest.mark.slow
def test_measures_all_variants_and_goes_on_where_it_was(run, tiny, tiny_dir, tmp_path, monkeypatch):
    run(tmp_path, "--scenes", 2, "--batch_size", 2)
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["variants"]) == list(NAMES)
    for counts in results["variants"].values():
        for found in counts.values():
            assert len(found["f1"]) == 1 and all(0 <= value <= 1 for value in found["f1"])
            assert all(value >= 0 for value in found["frechet_distance"])
    for name in ("si_sdr_improvement", "best_signal_improvement"):
        assert np.isfinite([*results[name]["2"], *results[name]["3"]]).all()
    assert all(name in (tmp_path / "results.md").read_text() for name in NAMES.values())
    assert Image.open(tmp_path / "results.png").width > 1000 and (tmp_path / "examples.png").exists()

    # One measurement is lost: it alone is made again, and the same comes out, whatever the batch size
    lost = next((tmp_path / "measured").glob("macs-0-3-*"))
    lost.unlink()
    drawn = []
    draw_all = evaluate_tiny.draw_all
    monkeypatch.setattr(evaluate_tiny, "draw_all", lambda *a: drawn.append(a[2]) or draw_all(*a))
    run(tmp_path, "--scenes", 2, "--batch_size", 1)
    again = json.loads((tmp_path / "results.json").read_text())
    assert drawn == ["macs"]
    old, new = (r["variants"]["macs"]["3"] for r in (results, again))
    np.testing.assert_allclose(new["frechet_distance"], old["frechet_distance"], rtol=0.01)
    run(tmp_path, "--scenes", 2, "--variants", "top1", "--guidance_scale", 3)  # other settings: nothing is taken over
    assert drawn == ["macs"] + ["top1"] * 3

    # Another adapter: new pictures of what was heard before, but those of the prompt
    other = shutil.copytree(tiny_dir, tmp_path / "other")
    with tiny.adapter.detached(tiny.unet):
        AudioAdapter.from_unet(tiny.unet, 6, embedding_dim=256, hidden_dim=512).save_pretrained(other / "adapter")
    heard = set((tmp_path / "measured").glob("hearing-*"))
    run(tmp_path, "--scenes", 2, "--variants", "top1", "--guidance_scale", 3, "--model_dir", other)
    run(tmp_path, "--scenes", 2, "--variants", "text", "--model_dir", other)
    assert drawn == ["macs"] + ["top1"] * 6
    assert len(heard) == 3 and set((tmp_path / "measured").glob("hearing-*")) == heard


def test_interpolation_begins_and_ends_with_the_clips_own_pictures(run, tiny, tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(evaluate_tiny, "interpolation_figure", lambda path, names, way, rows, *_: shown.update(r=rows))
    clips = ["asset/demo/rain_dog.wav", "asset/demo/sea_bird.wav"]
    run(tmp_path, "--interpolate", *clips)
    (images,) = shown["r"]
    alone = tiny(clips[1], num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt").images
    assert len(images) == 9 and (images[-1] - (alone[0] * 2 - 1)).abs().max() < 0.05
    assert (images[0] - images[-1]).abs().mean() > 0.001


def test_the_baseline_hears_the_mixture_as_it_is():
    torch.manual_seed(3)
    mixture = held_out(0, 3, 0)["mixture"][None]
    identity = Separator(num_sources=1, channels=16).eval()
    torch.testing.assert_close(identity(mixture)[:, 0], mixture, atol=1e-6, rtol=0)


def test_text_is_drawn_without_sound(tiny):
    args = Namespace(steps=2, guidance_scale=7.5)
    heard = {"mixture": torch.randn(2, 1, 256), "macs": torch.randn(2, 6, 256)}
    rows = slice(0, 2)
    text = condition("text", heard, ["A dog barking", "A bell ringing"], rows)
    images = draw(tiny, [0, 0], args, **text)
    text["source_embeds"] = torch.randn(2, 1, 256)
    assert torch.equal(draw(tiny, [0, 0], args, **text), images)
    assert not torch.equal(images[0], images[1])
    assert condition("top2", heard, [], rows)["top_sources"] == 2


def test_held_out_scenes_have_the_number_of_sources_and_are_all_different():
    scenes = [held_out(seed, count, number) for seed in (0, 1) for count in (1, 2, 3) for number in (0, 1)]
    assert [len(scene["stems"]) for scene in scenes] == [1, 1, 2, 2, 3, 3] * 2
    assert all(scene["labels"].sum() == len(scene["stems"]) for scene in scenes)
    assert len({scene["mixture"].numpy().tobytes() for scene in scenes}) == len(scenes)
    assert all((scene["frame"] != scene["other"]).any() for scene in scenes)


def test_scores_of_right_and_wrong_pictures():
    judge = Judge(CLASSES, width=2).eval()
    torch.nn.init.zeros_(judge.head.bias)
    judge.head.weight.data = torch.eye(len(CLASSES), judge.head.in_features)
    labels = torch.eye(len(CLASSES), dtype=torch.bool).repeat(3, 1)
    right = torch.zeros(len(labels), judge.head.in_features)
    right[:, : len(CLASSES)] = labels * 2.0 - 1
    found = scores(judge, right, right, labels)
    assert found["f1"] == 1 and found["frechet_distance"] == pytest.approx(0, abs=1e-6)
    shifted = right.roll(1, dims=0)  # every picture shows another scene: the set is the same, each one is wrong
    assert scores(judge, shifted, right, labels) == {"f1": 0, "frechet_distance": pytest.approx(0, abs=1e-6)}
    moved = scores(judge, right + 0.5, right, labels)
    assert moved["frechet_distance"] == pytest.approx(0.25 * judge.head.in_features)
    few = labels.clone()
    few[:, 0] = False  # a class that is nowhere does not count
    assert scores(judge, right - 3 * (torch.arange(right.shape[1]) == 0), right, few)["f1"] == 1


def test_interrupted_measurement_leaves_no_half_file(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path / "a.safetensors", interrupted)
    assert torch.equal(measured(tmp_path / "a.safetensors", lambda: {"x": torch.ones(2)})["x"], torch.ones(2))
    assert torch.equal(measured(tmp_path / "a.safetensors", interrupted)["x"], torch.ones(2))


def test_table_shows_means_spread_and_leads():
    def variant(*values):
        return {k: {"f1": [v - 0.1, v, v + 0.1], "frechet_distance": [1.0] * 3} for k, v in enumerate(values, 1)}

    results = {
        "settings": {"seeds": 3},
        "variants": {"macs": variant(0.9, 0.8, 0.7), "top3": variant(0.9, 0.8, 0.7), "mixture": variant(0.9, 0.6, 0.5)},
        "si_sdr_improvement": {2: [6.0, 7.0, 8.0], 3: [5.0, 5.0, 5.0]},
        "best_signal_improvement": {2: [4.0, 5.0, 6.0], 3: [3.0, 3.0, 3.0]},
    }
    text, markdown = tables(results)
    lines = [[cell.strip() for cell in line.split("|")] for line in markdown.split("\n")[:9]]
    rows = {name: cells for _, name, *cells in lines if name}
    assert rows["MACS, M = 6"][:4] == ["0.900 ± 0.100", "0.800 ± 0.100", "0.700 ± 0.100", "1.0 ± 0.0"]
    assert rows["lead of MACS over no separation"][:3] == ["0.000 ± 0.000", "0.200 ± 0.000", "0.200 ± 0.000"]
    assert rows["share of it that the first 3 keep"][:3] == ["1.000 ± 0.000"] * 3
    assert rows["SI-SDR improvement of the separation, dB"][:3] == ["–", "7.0 ± 1.0", "5.0 ± 0.0"]
    assert rows["that of the best single signals, dB"][:3] == ["–", "5.0 ± 1.0", "3.0 ± 0.0"]
    assert "0.800 ± 0.100" in text


def test_assembled_model_has_the_trained_separator_and_adapter(tiny, tiny_dir, tmp_path, monkeypatch, capsys):
    torch.manual_seed(5)
    separator = Separator(channels=16)
    separator.save_pretrained(tmp_path / "separator")
    with tiny.adapter.detached(tiny.unet):
        adapter = AudioAdapter.from_unet(tiny.unet, 6, embedding_dim=256, hidden_dim=512)
    adapter.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "trained_with.json").write_text(json.dumps({"separator": str(tmp_path / "separator")}))
    command = ["make_tiny.py", "--model_dir", tiny_dir, "--adapter", tmp_path / "adapter", "--output_dir"]
    monkeypatch.setattr(sys, "argv", [*map(str, command), str(tmp_path / "whole")])
    make_tiny.main()
    whole = MACSPipeline.from_pretrained(tmp_path / "whole")
    for part, trained in ((whole.separator, separator), (whole.adapter, adapter)):
        state = trained.state_dict()
        expected = {name: value.half().float() for name, value in state.items() if value.is_floating_point()}
        found = part.state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert torch.equal(whole.vae.encoder.conv_in.weight, tiny.vae.encoder.conv_in.weight)
    assert sum(file.stat().st_size for file in (tmp_path / "whole").rglob("*") if file.is_file()) < 48e6
    assert not any("_name_or_path" in file.read_text() for file in (tmp_path / "whole").rglob("*config.json"))

    keep = tmp_path / "mine" / "thesis.txt"  # a folder that is no pipeline is not replaced
    keep.parent.mkdir()
    keep.write_text("precious")
    monkeypatch.setattr(sys, "argv", ["make_tiny.py", "--output_dir", str(keep.parent)])
    with pytest.raises(SystemExit):
        make_tiny.main()
    assert keep.read_text() == "precious" and "is no pipeline" in capsys.readouterr().err
