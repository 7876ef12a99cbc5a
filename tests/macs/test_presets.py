"""Presets of few steps: what is asked of the UNet is counted; options that are given override them."""

import numpy as np
import pytest
import soundfile
import torch
from diffusers import UNet2DConditionModel

import inference
from macs.presets import PRESETS, use_preset


@pytest.fixture
def calls(monkeypatch):
    """[(rows of the batch, timestep)] of every call of a UNet."""
    found, forward = [], UNet2DConditionModel.forward

    def counted(self, sample, timestep, *args, **kwargs):
        found.append((len(sample), int(timestep)))
        return forward(self, sample, timestep, *args, **kwargs)

    monkeypatch.setattr(UNet2DConditionModel, "forward", counted)
    return found


@pytest.fixture
def draw(tiny_dir, run_inference, tmp_path):
    """Draws three clips at a time with the given words."""
    for i in range(3):
        noise = 0.1 * np.random.default_rng(i).standard_normal(16000)
        soundfile.write(tmp_path / f"{i}.wav", noise, 16000)

    def draw(*words):
        clips = sorted(tmp_path.glob("*.wav"))
        out = ("--output_dir", tmp_path / "out", "--overwrite", "--size", 64)
        code, printed = run_inference("--sd_path", tiny_dir, "--audio", *clips, *out, *words)
        assert code == 0 and "3 images" in printed

    return draw


@pytest.mark.parametrize(
    "words, expected, first",
    [
        (["--preset", "lcm"], [3] * 4, 999),
        (["--preset", "hyper"], [3] * 4, 999),
        (["--preset", "turbo"], [3] * 4, 999),
        (["--preset", "lcm", "--steps", "2"], [3] * 2, 999),
        (["--steps", "2", "--preset", "lcm", "--guidance_scale", "1.5"], [6] * 2, 999),
        (["--preset", "turbo", "--steps", "1", "--scheduler", "DDIM"], [3], 999),  # DDIM alone would begin at 1
        (["--steps", "2"], [6] * 2, 999),
    ],
)
@pytest.mark.filterwarnings("ignore:--preset")
def test_four_steps_without_guidance_are_four_calls(draw, calls, words, expected, first):
    draw(*words)
    assert [rows for rows, _ in calls] == expected and calls[0][1] == first


def test_a_preset_without_its_lora_is_said(draw):
    with pytest.warns(UserWarning, match="lcm without --lora .* latent-consistency/lcm-lora-sdv1-5"):
        draw("--preset", "lcm")


def test_an_unknown_preset_is_refused(capsys):
    with pytest.raises(SystemExit):
        inference.parse_args(["--audio", "x.wav", "--preset", "warp"])
    assert "'lcm', 'hyper', 'turbo'" in capsys.readouterr().err


@pytest.mark.parametrize("name", PRESETS)
def test_in_python_a_batch_is_its_clips_one_by_one(name, tiny, generators):
    own, values = tiny.scheduler, torch.randn(3, 6, 256, generator=torch.Generator().manual_seed(0))
    embeds = torch.nn.functional.normalize(values, dim=-1)
    try:
        settings = use_preset(tiny, name) | {"height": 64, "width": 64, "output_type": "np"}
        assert type(tiny.scheduler).__name__ == PRESETS[name].scheduler
        together = tiny(source_embeds=embeds, generator=generators(3), **settings).images
        alone = tiny(source_embeds=embeds[1:2], generator=generators(1, first=1), **settings).images
    finally:
        tiny.scheduler = own
    assert np.abs(together[1] - alone[0]).max() < 1e-4 and np.abs(together[0] - alone[0]).max() > 0.01
