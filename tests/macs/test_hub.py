"""What save_pretrained and push_to_hub write opens in a Python that imports diffusers alone."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

from local_hub import LocalHub
from macs import MACSPipeline
from macs.pipelines import MACSImg2ImgPipeline
from stage_two import make_pipeline

CALL = {"num_inference_steps": 1, "output_type": "np"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a small MACSPipeline."""
    folder = tmp_path_factory.mktemp("saved") / "small"
    make_pipeline(folder)
    return folder


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))  # of the processes started here
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


def draw(pipe):
    pipe.set_progress_bar_config(disable=True)
    embeds = torch.nn.functional.normalize(torch.randn(1, 2, 32, generator=torch.Generator().manual_seed(1)), dim=-1)
    return pipe(source_embeds=embeds, generator=torch.Generator().manual_seed(0), **CALL).images


def in_a_new_process(name, **variables):
    """The picture that a Python draws which imports diffusers, not macs."""
    code = f"""
import sys, torch
from diffusers import DiffusionPipeline
assert "macs" not in sys.modules
pipe = DiffusionPipeline.from_pretrained({str(name)!r}, trust_remote_code=True)
embeds = torch.nn.functional.normalize(torch.randn(1, 2, 32, generator=torch.Generator().manual_seed(1)), dim=-1)
image = pipe(source_embeds=embeds, generator=torch.Generator().manual_seed(0), **{CALL!r}).images
print(type(pipe).__name__, image.tolist())
"""
    result = subprocess.run([sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    class_name, values = result.stdout.strip().splitlines()[-1].split(" ", 1)
    return class_name, np.array(json.loads(values))


@pytest.mark.slow
def test_what_push_to_hub_uploads_opens_by_diffusers_alone(saved, tmp_path, monkeypatch):
    hub = LocalHub()
    try:
        pipe = MACSPipeline.from_pretrained(saved)
        push = f"""
from macs import MACSPipeline
MACSPipeline.from_pretrained({str(saved)!r}).push_to_hub("someone/small", token="hf_none")
print(MACSPipeline.from_pretrained("someone/small").num_sources)  # and without trust in what lies there
"""
        variables = {"HF_ENDPOINT": hub.address}
        env = os.environ | variables
        done = subprocess.run([sys.executable, "-c", push], env=env, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.split()[-1] == "2", done.stderr
        names = set(hub.files["someone/small"])
        assert {"pipeline.py", "model_index.json", "unet/diffusion_pytorch_model.safetensors"} <= names
        class_name, image = in_a_new_process("someone/small", **variables)
        assert class_name == "MACSPipeline" and np.abs(image - draw(pipe)).max() < 1e-6
    finally:
        hub.shutdown()
        hub.server_close()


@pytest.mark.slow
def test_a_folder_opens_by_diffusers_alone(saved):
    class_name, image = in_a_new_process(saved, HF_HUB_OFFLINE="1")
    assert class_name == "MACSPipeline"
    assert np.abs(image - draw(MACSPipeline.from_pretrained(saved))).max() < 1e-6


def test_diffusers_asks_for_trust_and_macs_runs_nothing_of_the_folder(saved, tmp_path):
    folder = tmp_path / "foreign"
    shutil.copytree(saved, folder)
    for file in folder.rglob("*.py"):
        file.write_text("raise RuntimeError('run')")
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(folder)
    assert np.array_equal(draw(MACSPipeline.from_pretrained(folder)), draw(MACSPipeline.from_pretrained(saved)))


def test_folders_saved_before_open_too(saved, tmp_path):
    folder = tmp_path / "earlier"
    shutil.copytree(saved, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "MACSPipeline"
    for component in ("adapter", "clap", "separator"):
        index[component][0] = f"macs.{component}"
    (folder / "model_index.json").write_text(json.dumps(index))
    for file in folder.rglob("*.py"):
        file.unlink()
    assert np.array_equal(draw(MACSPipeline.from_pretrained(folder)), draw(MACSPipeline.from_pretrained(saved)))


def test_an_img2img_pipeline_is_saved_as_one(saved, tmp_path):
    MACSImg2ImgPipeline.from_pipe(MACSPipeline.from_pretrained(saved)).save_pretrained(tmp_path / "edit")
    again = DiffusionPipeline.from_pretrained(tmp_path / "edit", trust_remote_code=True)
    assert type(again) is MACSImg2ImgPipeline
    plain = MACSPipeline.from_pretrained(tmp_path / "edit")
    assert np.array_equal(draw(plain), draw(MACSPipeline.from_pretrained(saved)))


def test_without_the_package_the_reason_is_said(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "macs.pipeline", None)
    with pytest.raises(ImportError, match="needs the Python package macs: pip install"):
        DiffusionPipeline.from_pretrained(saved, trust_remote_code=True)


def test_the_unet_saved_by_itself_opens_as_the_stock_one(saved, tmp_path):
    pipe = MACSPipeline.from_pretrained(saved)
    pipe.unet.save_pretrained(tmp_path / "unet")
    again, info = UNet2DConditionModel.from_pretrained(tmp_path / "unet", output_loading_info=True)
    stock = UNet2DConditionModel.from_pretrained(saved / "unet")
    assert again.config.encoder_hid_dim_type is None and not info["missing_keys"]
    assert all("_ip." in name or name.startswith("encoder_hid_proj.") for name in info["unexpected_keys"])
    assert all(torch.equal(value, stock.state_dict()[name]) for name, value in again.state_dict().items())
    pipe.adapter.attach(again)
    pipe.unet = again
    assert np.array_equal(draw(pipe), draw(MACSPipeline.from_pretrained(saved)))
