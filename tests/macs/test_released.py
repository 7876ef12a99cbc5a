"""The released files at full size, built by the formula of the reference numbers; and the numbers themselves."""

import json
import sys

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from conftest import REFERENCE
from macs import MACSPipeline
from macs.loading import load_pipeline
from macs.released import CheckpointError, open_generator, open_separator
from reference_fill import filled, wave
from scripts import convert_released

SD14_UNET = {"sample_size": 64, "cross_attention_dim": 768}


def keys(name):
    """{entry: shape} of a released file."""
    return {key: shape for key, (shape, _) in json.loads((REFERENCE / name).read_text()).items()}


@pytest.fixture(scope="session")
def separator_file(tmp_path_factory):
    """separator_FSD50K_full.pt: all 1125 entries; CLAP is stored once though it is named twice."""
    entries = json.loads((REFERENCE / "released_separator.keys.json").read_text())
    shapes = keys("released_separator.keys.json")
    separator = {k.removeprefix("model."): v for k, v in shapes.items() if k.startswith("model.") and ".clap." not in k}
    values = {f"model.{k}": v for k, v in filled(separator).items()}
    laion = filled(json.loads((REFERENCE / "laion_clap_keys.json").read_text()))
    values |= {f"{prefix}{k}": v for prefix in ("clap.model.", "model.clap.model.") for k, v in laion.items()}
    for key, (shape, dtype) in entries.items():  # what the formula leaves out
        values.setdefault(key, torch.zeros(shape, dtype=getattr(torch, dtype)))
    path = tmp_path_factory.mktemp("released") / "separator_FSD50K_full.pt"
    torch.save(values, path)
    return path


@pytest.fixture(scope="session")
def audio_models(separator_file):
    return open_separator(separator_file)


@pytest.mark.slow
@torch.no_grad()
def test_separator_equals_the_reference(audio_models):
    separator, _ = audio_models
    mixtures = torch.stack([wave(128000, seed, 16000) for seed in (4, 5)])
    sources = separator(mixtures)
    expected = torch.from_numpy(np.load(REFERENCE / "separator.npz")["separated"])
    assert (sources[..., ::4] - expected).abs().max() < 1e-5
    assert (sources.sum(1) - mixtures).abs().max() < 1e-5
    assert round(sum(p.numel() for p in separator.parameters()) / 1e6, 1) == 58.1


@pytest.mark.slow
@torch.no_grad()
def test_clap_equals_the_reference(audio_models):
    _, clap = audio_models
    expected = {
        name: torch.from_numpy(value) for name, value in np.load(REFERENCE / "clap.npz").items() if name != "kept_keys"
    }
    waves = torch.stack([wave(384000, seed, 48000) for seed in (1, 2)])
    for name, waveforms in [
        ("embed_8s", waves),
        ("embed_2s", waves[:, :96000]),
        ("embed_10s", wave(480000, 3, 48000)[None]),
    ]:
        assert (clap.encode_audio(waveforms, 48000) - expected[name]).abs().max() < 1e-5
    ids = expected["text_input_ids"]
    text = clap.get_text_features(ids, (ids != 1).long()).pooler_output
    assert (text - expected["text_embed"]).abs().max() < 1e-4


@pytest.mark.slow
@torch.no_grad()
def test_audio_path_equals_the_reference(audio_models):
    separator, clap = audio_models
    sources = separator(torch.stack([wave(128000, seed, 16000) for seed in (4, 5)]))
    embeddings = clap.encode_audio(sources.flatten(0, 1)).unflatten(0, (2, 6))
    expected = torch.from_numpy(np.load(REFERENCE / "audio_path.npz")["embeddings"])
    assert (embeddings - expected).abs().max() < 1e-5


def save_generator(folder, unet_shapes, dataset_name="LLP", shared=False):
    """<dataset>_mlp.pt and <dataset>_unet.pt; shared: the UNet's entries are one storage, for a small file."""
    torch.save(filled(keys("released_mlp.keys.json")), folder / f"{dataset_name}_mlp.pt")
    storage = torch.randn(max(int(np.prod(shape)) for shape in unet_shapes.values()))
    entries = {name: storage[: int(np.prod(shape))].view(shape) for name, shape in unet_shapes.items()}
    if not shared:
        entries = {name: value.clone() for name, value in entries.items()}
    torch.save(entries, folder / f"{dataset_name}_unet.pt")
    return entries


@pytest.mark.slow
def test_generator_files_at_full_size(tmp_path):
    entries = save_generator(tmp_path, keys("released_unet.keys.json"), shared=True)
    unet, adapter = open_generator(SD14_UNET, tmp_path / "LLP_mlp.pt", tmp_path / "LLP_unet.pt")
    assert len(entries) == 718 and len(adapter.to_k_ip) == 16
    for name, value in unet.state_dict().items():
        assert torch.equal(value, entries[name])
    for i, (name, _) in enumerate(adapter.config.layers):
        assert torch.equal(adapter.to_k_ip[i].weight, entries[f"{name}.processor.to_k_ip.weight"])
        assert torch.equal(adapter.to_v_ip[i].weight, entries[f"{name}.processor.to_v_ip.weight"])
    mlp = filled(keys("released_mlp.keys.json"))
    assert torch.equal(adapter.projector.pe, mlp["pe"])


# A Stable Diffusion in small, and released files that fit it, for what does not need the full size


@pytest.fixture(scope="session")
def small_sd(tmp_path_factory):
    """A saved StableDiffusionPipeline: the published layout, small parts, conditioning of width 768."""
    folder = tmp_path_factory.mktemp("stable-diffusion")
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer().train_new_from_iterator(["the sound of rain and a dog"], 600, show_progress=False)
    tokenizer.model_max_length = 77
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=768, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[8] * 4, norm_num_groups=4,
    )  # fmt: skip
    unet = UNet2DConditionModel(**json.loads((REFERENCE / "small_unet_config.json").read_text()))
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    StableDiffusionPipeline(
        vae, CLIPTextModel(text), tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def unet_shapes(small_sd):
    unet = UNet2DConditionModel.from_pretrained(small_sd / "unet")
    shapes = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    for name in [n for n in shapes if n.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]:
        layer, part, _ = name.rsplit(".", 2)
        shapes[f"{layer}.processor.{part}_ip.weight"] = shapes[name]
    return shapes


@pytest.fixture
def released(tmp_path, separator_file, unet_shapes):
    (tmp_path / "separator_FSD50K_full.pt").symlink_to(separator_file)
    save_generator(tmp_path, unet_shapes)
    return tmp_path


@pytest.mark.slow
def test_from_released_and_back(small_sd, released, tmp_path_factory, monkeypatch):
    pipe = MACSPipeline.from_released(small_sd, released, "LLP")
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"
    waveform = wave(64000, 1, 16000)
    settings = {"num_inference_steps": 2, "output_type": "np"}
    image = pipe(waveform, generator=torch.Generator().manual_seed(0), **settings).images
    assert image.shape == (1, 128, 128, 3) and np.isfinite(image).all()
    # converted to our own folder, it is the same pipeline
    folder = tmp_path_factory.mktemp("converted")
    command = ["convert_released.py", "--sd_path", small_sd, "--pt_path", released, "--output_dir", folder]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    convert_released.main()
    with pytest.raises(SystemExit, match="something in it already"):
        convert_released.main()
    again = load_pipeline(folder)
    again.set_progress_bar_config(disable=True)
    difference = again(waveform, generator=torch.Generator().manual_seed(0), **settings).images - image
    assert np.abs(difference).max() < 1e-3  # not 0: memory-mapped weights are aligned otherwise than loaded ones


class Pickled:
    def __reduce__(self):
        return (print, ("pickled code ran",))


def damage(folder, name, change):
    state_dict = torch.load(folder / name)
    change(state_dict)
    torch.save(state_dict, folder / name)


def truncate(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    "name, spoil, words",
    [
        ("LLP_mlp.pt", lambda f, n: (f / n).unlink(), "no such file; the folder holds LLP_unet.pt"),
        ("LLP_mlp.pt", truncate, "truncated"),
        ("LLP_mlp.pt", lambda f, n: (f / n).write_text("not found"), "PyTorch file"),
        ("LLP_mlp.pt", lambda f, n: torch.save(Pickled(), f / n), "pickled code"),
        ("LLP_mlp.pt", lambda f, n: torch.save([1, 2], f / n), "dictionary of tensors, but got list"),
        ("LLP_mlp.pt", lambda f, n: damage(f, n, lambda s: s.pop("adapter.4.bias")), "adapter.4.bias is missing"),
        ("LLP_mlp.pt", lambda f, n: damage(f, n, lambda s: s.update(new=torch.ones(3))), "unexpected entry new"),
        (
            "LLP_mlp.pt",
            lambda f, n: damage(f, n, lambda s: s.update(pe=torch.ones(6, 500))),
            r"entry pe has shape \(6, 500\), expected \(6, 512\); the file is for another M",
        ),
        ("LLP_unet.pt", truncate, "truncated"),
        (
            "LLP_unet.pt",
            lambda f, n: damage(f, n, lambda s: s.pop(next(k for k in s if "to_k_ip" in k))),
            "attn2.processor.to_k_ip.weight is missing",
        ),
        ("LLP_unet.pt", lambda f, n: damage(f, n, lambda s: s.pop("conv_in.bias")), "conv_in.bias is missing"),
    ],
)
def test_spoilt_generator_files(tmp_path, small_sd, unet_shapes, name, spoil, words, capfd):
    from macs.released import find_released

    save_generator(tmp_path, unet_shapes)
    spoil(tmp_path, name)
    config = UNet2DConditionModel.load_config(small_sd, subfolder="unet")
    with pytest.raises(CheckpointError, match=words) as error:
        open_generator(config, find_released(tmp_path, "LLP_mlp.pt"), find_released(tmp_path, "LLP_unet.pt"))
    assert name in str(error.value)
    assert "pickled code ran" not in capfd.readouterr().out


@pytest.mark.slow
def test_files_of_another_m_than_each_other(released, small_sd):
    mlp = torch.load(released / "LLP_mlp.pt", weights_only=True)
    torch.save(mlp | {"pe": mlp["pe"][:4].clone()}, released / "LLP_mlp.pt")
    with pytest.raises(CheckpointError, match=r"separates into M = 6 signals, .*LLP_mlp.pt expects 4"):
        MACSPipeline.from_released(small_sd, released, "LLP")


def test_what_the_paths_may_be(tiny_dir, small_sd, tmp_path):
    with pytest.raises(CheckpointError, match="give the released weights"):
        load_pipeline(small_sd)
    with pytest.raises(CheckpointError, match="model_index.json"):
        load_pipeline(tmp_path)
    with pytest.raises(CheckpointError, match="adapter folder"):
        load_pipeline(tiny_dir, tmp_path)
    with pytest.raises(CheckpointError, match="made for M = 6 sources, but --M is 4"):
        load_pipeline(tiny_dir, num_sources=4)


@pytest.mark.slow
def test_no_stable_diffusion_there(released):
    with pytest.raises(CheckpointError, match="nothing: no Stable Diffusion there"):
        MACSPipeline.from_released(released / "nothing", released, "LLP")
    with pytest.raises(CheckpointError, match="Mine_mlp.pt: no such file; the folder holds LLP_mlp.pt"):
        MACSPipeline.from_released(released / "nothing", released, "Mine")
