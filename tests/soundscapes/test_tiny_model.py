"""The embedded model as shipped: what sounds in the demo recordings is seen in their pictures.

The judge in tests/judge is soundscapes/train_judge.py's, trained on painted scenes only; it has never seen a generated
one.
"""

from pathlib import Path

import pytest
import torch
from torchvision.transforms.functional import to_tensor

from macs import MACSPipeline
from macs.losses import si_sdr_improvement
from soundscapes.judge import Judge
from soundscapes.make_demo import DEMOS
from soundscapes.scenes import make_scene

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shipped():
    pipe = MACSPipeline.from_pretrained(ROOT / "asset" / "macs-tiny")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def judge():
    return Judge.from_pretrained(ROOT / "tests" / "judge").float().eval()


def test_the_judge_knows_painted_scenes(judge):
    scenes = [make_scene("test", index) for index in range(50)]
    images = torch.stack([to_tensor(scene.image) * 2 - 1 for scene in scenes])
    seen = judge.recognise(images)
    assert sum(set(names) == set(scene.labels) for names, scene in zip(seen, scenes, strict=True)) >= 48


def test_clap_hears_the_same_under_autocast(shipped):
    clips = torch.stack([torch.from_numpy(make_scene("test", index, num_sources=1).mixture) for index in range(6)])
    with torch.no_grad():
        plain = shipped.clap.encode_audio(clips)
        with torch.autocast("cpu", torch.bfloat16):  # as in the training of CLAP and of the separator
            half = shipped.clap.encode_audio(clips)
    assert (plain * half).sum(-1).min() > 0.995  # was 0.95 when the resampling was in half precision too


@pytest.mark.slow
def test_separated_signals_are_closer_to_the_sources(shipped):
    for num_sources, expected in ((2, 7), (3, 5)):
        scenes = [make_scene("test", index, num_sources=num_sources) for index in range(8)]
        stems = torch.stack([torch.from_numpy(scene.stems) for scene in scenes])
        assert si_sdr_improvement(shipped.separate(stems.sum(1)), stems).mean() > expected  # dB


@pytest.mark.slow
def test_demo_sounds_are_seen_in_their_pictures(shipped, judge):
    clips = [ROOT / "asset" / "demo" / f"{'_'.join(labels)}.wav".replace(" ", "_") for labels in DEMOS]
    real = {"real_dog": {"dog"}, "real_rain": {"rain"}, "real_waves": {"sea"}, "real_dog_sea": {"dog", "sea"}}
    clips += [ROOT / "asset" / "demo" / f"{name}.ogg" for name in real]
    heard = [set(labels) for labels in [*DEMOS, *real.values()] for _ in range(2)]
    images = shipped(clips, num_images_per_prompt=2, generator=torch.manual_seed(0), output_type="pt").images
    seen = [set(names) for names in judge.recognise(images * 2 - 1)]  # two pictures of each clip, clip by clip

    def recall(heard):
        return sum(len(a & b) for a, b in zip(heard, seen, strict=True)) / sum(map(len, heard))

    found = list(zip(heard, seen, strict=True))
    assert recall(heard) >= 0.75, found
    assert sum(len(a & b) for a, b in found[-8:]) >= 6, found[-8:]  # of the real recordings, of 10
    assert sum(len(a & b) for a, b in found) >= 0.8 * sum(map(len, seen)), found
    assert recall(heard[2:] + heard[:2]) < 0.2  # of another clip's sounds
