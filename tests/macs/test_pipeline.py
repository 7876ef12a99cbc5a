import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image

from macs import MACSPipeline
from macs.audio import AudioError


def embeddings(batch, dim=256):
    values = torch.randn(batch, 6, dim, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.normalize(values, dim=-1)


def test_final_latents_equal_the_reference(tiny, adapted, generator_reference):
    unet, adapter = adapted
    # Stable Diffusion 1.4's scheduler config
    config = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    ).config
    pipe = MACSPipeline(
        tiny.vae,
        tiny.text_encoder,
        tiny.tokenizer,
        unet,
        DPMSolverMultistepScheduler.from_config(config),
        tiny.separator,
        tiny.clap,
        adapter,
    )
    pipe.set_progress_bar_config(disable=True)
    latents = pipe(
        source_embeds=generator_reference["embeddings"],
        prompt_embeds=generator_reference["text"],
        negative_prompt_embeds=generator_reference["negative_text"],
        latents=generator_reference["latents"],
        guidance_scale=float(generator_reference["guidance_scale"]),
        output_type="latent",
    ).images
    assert pipe.scheduler.timesteps.tolist() == generator_reference["sampler_timesteps"].tolist()
    error = (latents - generator_reference["final_latents"]).abs().max() / generator_reference[
        "final_latents"
    ].abs().max()
    assert error < 1e-4


@pytest.mark.parametrize("guidance_scale, num_images", [(7.5, 1), (1.0, 2)])
def test_clips_of_a_batch_do_not_mix(tiny, generators, guidance_scale, num_images):
    embeds = embeddings(4)
    settings = {
        "num_inference_steps": 3,
        "guidance_scale": guidance_scale,
        "num_images_per_prompt": num_images,
        "output_type": "np",
    }
    together = tiny(source_embeds=embeds, generator=generators(4 * num_images), **settings).images
    assert len(together) == 4 * num_images
    for i in range(4):
        alone = tiny(
            source_embeds=embeds[i : i + 1], generator=generators(num_images, i * num_images), **settings
        ).images
        assert np.abs(alone - together[i * num_images : (i + 1) * num_images]).max() < 1e-4
    # the same noise with another clip's sound is another image
    other = tiny(source_embeds=embeds[1:2], generator=generators(num_images), **settings).images
    assert np.abs(other - together[:num_images]).max() > 1e-3


def test_round_trip(tiny, tiny_dir, tmp_path, generators):
    settings = {"source_embeds": embeddings(1), "num_inference_steps": 2, "output_type": "np"}
    before = tiny(generator=generators(1), **settings).images
    tiny.save_pretrained(tmp_path)
    again = MACSPipeline.from_pretrained(tmp_path)
    assert np.array_equal(again(generator=generators(1), **settings).images, before)
    assert np.array_equal(tiny(generator=generators(1), **settings).images, before)  # saving leaves the pipeline whole
    # what lies in unet/ is a stock UNet, every entry used; safetensors everywhere
    unet, info = UNet2DConditionModel.from_pretrained(tmp_path / "unet", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and unet.config.encoder_hid_dim_type is None
    assert not list(tmp_path.rglob("*.bin")) and len(list(tmp_path.rglob("*.safetensors"))) == 6


def test_half_precision_leaves_the_audio_part_in_float32(tiny_dir):
    pipe = MACSPipeline.from_pretrained(tiny_dir, dtype=torch.bfloat16)
    assert pipe.unet.dtype == pipe.vae.dtype == torch.bfloat16
    assert pipe.separator.dtype == pipe.clap.dtype == torch.float32
    assert pipe.to(torch.float16).separator.dtype == torch.float32


def test_sources_sum_to_the_mixture_and_embeddings_have_unit_norm(tiny):
    mixtures = 0.1 * torch.randn(2, 50000, generator=torch.Generator().manual_seed(0))
    sources = tiny.separate(mixtures)
    assert sources.shape == (2, 6, 50000)
    assert (sources.sum(1) - mixtures).abs().max() < 1e-5
    embeds = tiny.encode_audio(mixtures)
    assert embeds.shape == (2, 6, 256) and torch.allclose(embeds.norm(dim=-1), torch.ones(2, 6), atol=1e-5)
    assert torch.allclose(tiny.encode_audio(mixtures[1:])[0], embeds[1], atol=1e-5)


def test_paths_arrays_and_tensors_are_the_same_clip(tiny, tmp_path):
    waveform = 0.1 * torch.randn(30000, generator=torch.Generator().manual_seed(0))
    soundfile.write(tmp_path / "-a.wav", waveform.numpy(), 16000, subtype="FLOAT")
    batch = tiny.prepare_audio([tmp_path / "-a.wav", str(tmp_path / "-a.wav"), waveform.numpy(), waveform])
    assert batch.shape == (4, 128000) and all(torch.equal(clip, batch[0]) for clip in batch)
    assert torch.equal(tiny.prepare_audio(waveform[None])[0], batch[0])
    with pytest.raises(ValueError, match="128000"):
        tiny.prepare_audio(torch.zeros(200000))
    with pytest.raises(AudioError, match="missing.wav"):
        tiny.prepare_audio(tmp_path / "missing.wav")


def test_audio_scale_weights_and_top_sources(tiny, generators):
    embeds = embeddings(1)

    def image(source_embeds=embeds, **kwargs):
        return tiny(
            source_embeds=source_embeds, num_inference_steps=2, generator=generators(1), output_type="np", **kwargs
        ).images

    heard = image()
    # scale 0: Stable Diffusion without sound
    with tiny.adapter.detached(tiny.unet):
        stock = StableDiffusionPipeline(
            tiny.vae, tiny.text_encoder, tiny.tokenizer, tiny.unet, tiny.scheduler, None, None,
            requires_safety_checker=False,
        )  # fmt: skip
        silent = stock("", num_inference_steps=2, generator=generators(1), output_type="np").images
    assert np.array_equal(image(audio_scale=0.0), silent) and np.abs(heard - silent).max() > 1e-3
    assert np.array_equal(image(), heard)  # the scale of one call does not outlive it
    # weights: ones change nothing, zeros are the embedding of no sound
    assert np.array_equal(image(source_weights=[1.0] * 6), heard)
    weighted = embeds.clone()
    weighted[:, 2:] = 0
    assert np.array_equal(image(source_weights=[1, 1, 0, 0, 0, 0]), image(weighted))
    # top sources: the others are not attended to
    changed = embeds.clone()
    changed[:, 3:] = embeddings(2)[1:, 3:]
    assert np.array_equal(image(top_sources=3), image(changed, top_sources=3))
    assert not np.array_equal(image(top_sources=3), heard)
    for wrong in ({"top_sources": 7}, {"source_weights": [1.0]}):
        with pytest.raises(ValueError, match="expected"):
            image(**wrong)


def test_prompts_are_encoded_once_and_shared(tiny, monkeypatch, generators):
    calls = []
    encode = tiny.text_encoder.forward
    monkeypatch.setattr(tiny.text_encoder, "forward", lambda ids, **kw: calls.append(len(ids)) or encode(ids, **kw))
    images = tiny(prompt="rain", source_embeds=embeddings(3), negative_prompt="dog",
                  num_inference_steps=1, generator=generators(3), output_type="np").images  # fmt: skip
    assert calls == [1, 1]  # the prompt and the negative prompt, for three clips
    listed = tiny(source_embeds=embeddings(3), prompt=["rain"] * 3, negative_prompt="dog",
                  num_inference_steps=1, generator=generators(3), output_type="np").images  # fmt: skip
    assert np.abs(images - listed).max() < 1e-5
    with pytest.raises(ValueError, match="one per clip"):
        tiny(source_embeds=embeddings(3), prompt=["rain", "wind"])


def test_other_pipelines_hear_too(tiny, generators):
    other = StableDiffusionImg2ImgPipeline.from_pipe(tiny, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    start = Image.new("RGB", (128, 128), "gray")

    def paint(embeds):
        return other(
            "", start, strength=1.0, num_inference_steps=2, generator=generators(1), output_type="np",
            ip_adapter_image_embeds=tiny.audio_condition(embeds),
        ).images  # fmt: skip

    first, second = embeddings(2).split(1)
    assert np.abs(paint(first) - paint(second)).max() > 1e-3


def test_model_index_names_the_components(tiny_dir):
    index = json.loads((tiny_dir / "model_index.json").read_text())
    assert index["_class_name"] == "MACSPipeline"
    assert index["separator"] == ["macs.separator", "Separator"] and index["unet"][0] == "diffusers"
    size = sum(file.stat().st_size for file in tiny_dir.rglob("*") if file.is_file())
    assert size < 48e6


@pytest.mark.slow
def test_opens_in_a_new_python_that_imported_the_pipeline_alone(tiny_dir):
    code = f"from macs import MACSPipeline; print(MACSPipeline.from_pretrained({str(tiny_dir)!r}).num_sources)"
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.strip() == "6", result.stderr
