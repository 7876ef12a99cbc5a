"""Stable Diffusion 1.5, 2.1 (velocities) and XL, of their shapes but narrow: trained, saved, opened, heard."""

import json
import shutil

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

import train
from macs import AudioAdapter, MACSPipeline, MACSXLPipeline
from macs.adapter import cross_attention_sizes
from macs.data.pairs import Draws
from macs.loading import load_pipeline
from macs.released import CheckpointError
from macs.training.denoiser import Denoiser, denoising_losses
from macs.training.frozen_features import FrozenModels
from macs.training.xl import added_conditions
from stage_two import UNETS, arguments, make_version, write_pair

SCALES = {"1.5": 0.18215, "2.1": 0.18215, "xl": 0.13025}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("versions")


@pytest.fixture(scope="module")
def made(folder):
    """(version) -> the folder of its untrained pipeline."""

    def make(version):
        if not (folder / version).exists():
            make_version(folder / version, version)
        return folder / version

    return make


@pytest.fixture(scope="module")
def trained(folder, made):
    """(version) -> the folder of an adapter that train.py trained for it in 20 steps of two pairs."""

    def make(version):
        out = folder / f"{version}-trained"
        if not out.exists():
            if not (folder / "data").exists():
                for i in range(40):
                    write_pair(folder / "data" / "Mine" / "train", f"clip{i}", seconds=1, seed=i % 4)
            settings = {"gradient_accumulation_steps": 1, "lr": 1e-2, "cache_dir": folder / f"{version}-cache"}
            if version == "xl":  # whose pictures on the way are drawn by another pipeline
                settings |= {"validation_steps": 20, "validation_clips": 1}
            train.train(train.parse_args(arguments(made(version), folder / "data", out, **settings)))
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
        return out / "adapter"

    return make


def frozen_models(path):
    paths = (path / "separator", path / "clap")
    device = torch.device("cpu")
    options = {"data_dir": "", "cache_dir": "", "num_crops": 1, "num_workers": 0}
    return FrozenModels(path, paths, 2, [(64, 64)], device, **options)


def embeddings(count, seed=0):
    values = torch.randn(count, 2, 32, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


def draw(pipe, embeds, generators, **options):
    settings = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "latent"}
    return pipe(source_embeds=embeds, generator=generators, **settings | options).images


def quietly(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.slow
@pytest.mark.parametrize("version", UNETS)
def test_an_adapter_is_trained_saved_opened_and_hears(version, made, trained, folder, generators):
    model, adapter_path = made(version), trained(version)
    assert (adapter_path.parent / "figures" / "step_000020.png").exists() == (version == "xl")
    config = json.loads((adapter_path / "config.json").read_text())
    assert config["prediction_type"] == ("v_prediction" if version == "2.1" else "epsilon")
    assert config["cross_attention_dim"] == {"1.5": 768, "2.1": 1024, "xl": 2048}[version]

    # the loss, over the same draws before and after
    frozen = frozen_models(model)
    texts = frozen.prompt_embeds()
    batch = [Draws(1)(0, i, (8, 8)) for i in range(64)]
    batch = {name: torch.stack([torch.as_tensor(drawn[name]) for drawn in batch]) for name in batch[0]}
    batch["moments"] = torch.cat([torch.randn(64, 4, 8, 8), torch.zeros(64, 4, 8, 8)], dim=1)
    batch["source_embeds"] = embeddings(64)
    conditions = None
    if version == "xl":
        conditions = lambda latents: added_conditions(latents, texts["pooled_prompt_embeds"])  # noqa: E731
    losses = []
    for path in (model / "adapter", adapter_path):
        unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
        adapter = AudioAdapter.from_pretrained(path)
        denoiser = Denoiser(unet, adapter, conditions=conditions)
        adapter.eval()
        schedule = DDPMScheduler.from_pretrained(model, subfolder="scheduler")
        with torch.no_grad():
            each = denoising_losses(denoiser, schedule, batch, texts["prompt_embeds"], SCALES[version])
        losses.append(each.mean().item())
    assert losses[1] < 0.97 * losses[0], losses

    pipe = quietly(load_pipeline(model, adapter_path))
    assert type(pipe) is (MACSXLPipeline if version == "xl" else MACSPipeline)
    together = draw(pipe, embeddings(3), generators(3))
    for i in range(3):
        alone = draw(pipe, embeddings(3)[i : i + 1], generators(1, first=i))
        assert (together[i] - alone[0]).abs().max() < 1e-4
    assert (together[:1] - draw(pipe, embeddings(3)[1:2], generators(1))).abs().max() > 1e-3  # it hears
    pipe.save_pretrained(folder / "again")
    again = quietly(type(pipe).from_pretrained(folder / "again"))
    assert (draw(again, embeddings(3), generators(3)) - together).abs().max() < 1e-5
    shutil.rmtree(folder / "again")


def test_sdxl_is_told_in_training_what_its_pipeline_tells_it(made, generators):
    pipe, told = quietly(MACSXLPipeline.from_pretrained(made("xl"))), []
    hook = pipe.unet.register_forward_pre_hook(lambda unet, args, kwargs: told.append(kwargs), with_kwargs=True)
    draw(pipe, embeddings(1), generators(1), guidance_scale=1.0, height=64, width=96, num_inference_steps=1)
    hook.remove()
    texts = frozen_models(made("xl")).prompt_embeds()
    ours = added_conditions(torch.zeros(1, 4, 8, 12), texts["pooled_prompt_embeds"])
    theirs = told[0]["added_cond_kwargs"]
    assert ours["time_ids"].tolist() == theirs["time_ids"].tolist() == [[64, 96, 0, 0, 64, 96]]
    assert (ours["text_embeds"] - theirs["text_embeds"]).abs().max() < 1e-6
    assert (texts["prompt_embeds"] - told[0]["encoder_hidden_states"]).abs().max() < 1e-6


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_without_sound_sdxl_is_diffusers_own(guidance_scale, made, generators):
    pipe = quietly(MACSXLPipeline.from_pretrained(made("xl")))
    settings = {"guidance_scale": guidance_scale, "prompt": "rain", "negative_prompt": "a dog"}
    ours = draw(pipe, embeddings(2), generators(2), audio_scale=0, **settings)
    mixed = draw(pipe, embeddings(2), generators(2), audio_scale=0, **settings | pipe.encode_texts("rain"))
    with pipe.adapter.detached(pipe.unet):
        names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "scheduler")
        parts = {name: pipe.components[name] for name in names}
        stock = quietly(StableDiffusionXLPipeline(**parts, add_watermarker=False))
        call = {"num_inference_steps": 2, "output_type": "latent", "generator": generators(2)}
        settings |= {name: [settings[name]] * 2 for name in ("prompt", "negative_prompt")}
        theirs = stock(**settings, **call).images
    assert max((ours - theirs).abs().max(), (mixed - theirs).abs().max()) < 1e-5 * theirs.abs().max()
    heard = draw(pipe, embeddings(2), generators(2), **settings)
    assert (heard - theirs).abs().max() > 1e-3 * theirs.abs().max()


def test_diffusers_own_sdxl_hears_each_clip_of_a_batch(made, generators):
    pipe = quietly(MACSXLPipeline.from_pretrained(made("xl")))
    ours = draw(pipe, embeddings(2), generators(2))
    names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "scheduler")
    stock = StableDiffusionXLPipeline(**{name: pipe.components[name] for name in names}, add_watermarker=False)
    theirs = quietly(stock)(
        prompt=["", ""], negative_prompt=["", ""], ip_adapter_image_embeds=pipe.audio_condition(embeddings(2)),
        num_inference_steps=2, guidance_scale=3.0, output_type="latent", generator=generators(2),
    ).images  # fmt: skip
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon", "sample"])
def test_influence_is_measured_in_the_predicted_noise(kind, made, generators):
    pipe = quietly(MACSPipeline.from_pretrained(made("2.1")))
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=kind)
    calls = []
    pipe.unet.register_forward_hook(lambda unet, args, output: calls.append((args[0], args[1], output[0])))
    found = pipe.influence(
        source_embeds=embeddings(1), guidance_scale=1.0, num_inference_steps=3, generator=generators(1)
    )
    changes = []
    for i in range(0, len(calls), 3):  # all sources, then without the first, without the second
        latents, timestep, _ = calls[i]
        alpha, sigma = (
            pipe.scheduler.alphas_cumprod[timestep] ** 0.5,
            (1 - pipe.scheduler.alphas_cumprod[timestep]) ** 0.5,
        )
        noise = {
            "epsilon": lambda output: output,
            "v_prediction": lambda v: sigma * latents + alpha * v,  # noqa: B023
            "sample": lambda picture: (latents - alpha * picture) / sigma,  # noqa: B023
        }[kind]
        heard, *left_out = (noise(output) for _, _, output in calls[i : i + 3])
        changes.append([(heard - other).square().mean().item() for other in left_out])
    assert found.numbers[0].tolist() == pytest.approx(np.mean(changes, axis=0) ** 0.5, rel=1e-3)


def test_sdxl_says_which_source_drew_what(made, generators):
    pipe = quietly(MACSXLPipeline.from_pretrained(made("xl")))
    found = pipe.influence(source_embeds=embeddings(2), num_inference_steps=1, generator=generators(2))
    assert found.maps.shape == (2, 2, 64, 64) and (found.numbers > 0).all()
    drawn = pipe(source_embeds=embeddings(1), num_inference_steps=1, output_maps=True, source_weights=[1, 0.5])
    assert (drawn.source_maps.sum(1) - 1).abs().max() < 1e-4 and drawn.nsfw_content_detected is None


def test_real_versions_are_named():
    """The UNets at full size, on the device that holds no numbers."""
    configs = {
        "Stable Diffusion 1.x": {"cross_attention_dim": 768},
        "Stable Diffusion 2.x": {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20]},
        "Stable Diffusion XL": UNETS["xl"]
        | {"block_out_channels": [320, 640, 1280], "transformer_layers_per_block": [1, 2, 10]}
        | {"attention_head_dim": [5, 10, 20]},
    }
    with torch.device("meta"):
        unets = {name: UNet2DConditionModel(sample_size=64, **config) for name, config in configs.items()}
        adapters = {
            name: AudioAdapter(
                layers=[list(layer) for layer in cross_attention_sizes(unet).items()],
                cross_attention_dim=unet.config.cross_attention_dim,
            )
            for name, unet in unets.items()
        }
    for made_for, adapter in adapters.items():
        for name, unet in unets.items():
            if name == made_for:
                adapter.check_unet(unet)
                continue
            with pytest.raises(ValueError, match=f"made for {made_for}.*but the UNet is of {name}"):
                adapter.check_unet(unet)


def test_an_adapter_for_another_version_is_refused(made, folder, monkeypatch):
    opened = []
    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", lambda *args, **kwargs: opened.append(args))
    other = made("1.5") / "adapter"
    with pytest.raises(CheckpointError, match="adapter with .*made for Stable Diffusion 1.x.*but the UNet is of .*2.x"):
        load_pipeline(made("2.1"), other)
    with pytest.raises(CheckpointError, match="made for Stable Diffusion 1.x"):
        train.train(train.parse_args(arguments(made("2.1"), folder / "data", folder / "refused", adapter=other)))
    assert not opened and not (folder / "refused" / "checkpoints").exists()


def test_an_adapter_for_another_prediction_is_refused(made):
    pipe = MACSPipeline.from_pretrained(made("2.1"))
    parts = pipe.components | {"scheduler": DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="epsilon")}
    with pytest.raises(ValueError, match="prediction_type v_prediction, but the scheduler's is epsilon"):
        MACSPipeline(**parts)
