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
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

from macs import MACSPipeline
from macs.attribution import AUDIOSET_LABELS, default_labels, read_names
from macs.audio import AudioError, fit_length


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


def test_quiet_clips_are_raised_where_the_weights_know_none(tiny, tmp_path, monkeypatch):
    loud = 0.1 * torch.randn(1, 50000, generator=torch.Generator().manual_seed(0))
    soundfile.write(tmp_path / "quiet.wav", 0.03 * loud[0].numpy(), 16000, subtype="FLOAT")
    monkeypatch.setattr(tiny.separator, "_internal_dict", tiny.separator._internal_dict)  # put back afterwards
    for says, heard in ((False, 0.03 * loud), (True, loud * (0.42 / loud.abs().max()))):
        tiny.separator.register_to_config(raise_quiet=says)
        assert torch.allclose(tiny.separate(0.03 * loud).sum(1), heard, atol=1e-5)
        embeds = tiny.clap.encode_audio(tiny.separator(fit_length(heard))[0])
        assert torch.allclose(tiny.encode_audio(tiny.prepare_audio(tmp_path / "quiet.wav"))[0], embeds, atol=1e-4)


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
    tiny.set_ip_adapter_scale(0.0)
    assert np.array_equal(image(), silent)
    tiny.set_ip_adapter_scale(1.0)
    # weights: ones change nothing, a source of weight 0 is not there
    assert np.array_equal(image(source_weights=[1.0] * 6), heard)
    assert np.abs(image(source_weights=[1, 1, 1, 0, 0, 0]) - image(top_sources=3)).max() < 1e-5
    # top sources: the others are not attended to
    changed = embeds.clone()
    changed[:, 3:] = embeddings(2)[1:, 3:]
    assert np.array_equal(image(top_sources=3), image(changed, top_sources=3))
    assert not np.array_equal(image(top_sources=3), heard)
    for wrong in ({"top_sources": 7}, {"source_weights": [1.0]}):
        with pytest.raises(ValueError, match="expected"):
            image(**wrong)


def test_source_maps_and_influence(tiny, generators):
    embeds = embeddings(2)
    settings = {"num_inference_steps": 2, "output_type": "np"}
    heard = tiny(source_embeds=embeds, generator=generators(4), num_images_per_prompt=2, **settings)
    mapped = tiny(source_embeds=embeds, generator=generators(4), num_images_per_prompt=2, output_maps=True, **settings)
    assert heard.source_maps is None and np.abs(mapped.images - heard.images).max() < 1e-4
    assert mapped.source_maps.shape == (4, 6, 128, 128) and mapped.source_maps.dtype == torch.float32
    assert (mapped.source_maps.sum(1) - 1).abs().max() < 1e-4
    alone = tiny(source_embeds=embeds[1:], generator=generators(1, 2), output_maps=True, **settings)
    assert (alone.source_maps[0] - mapped.source_maps[2]).abs().max() < 1e-4
    few = tiny(source_embeds=embeds, generator=generators(2), output_maps=True, top_sources=2, **settings).source_maps
    assert few.shape == (2, 6, 128, 128) and not few[:, 2:].any()
    # leaving a source out: one that has weight 0 changes nothing, the others do
    influence = tiny.influence(
        source_embeds=embeds[:1], generator=generators(1), source_weights=[1, 1, 0, 1, 1, 1], **settings
    )
    assert influence.maps.shape == (1, 6, 128, 128) and influence.numbers.shape == (1, 6)
    assert influence.numbers[0, 2] < 1e-6 and (influence.numbers[0, [0, 1, 3, 4, 5]] > 1e-4).all()
    assert not tiny.unet._forward_hooks
    again = tiny(source_embeds=embeds[:1], generator=generators(1), **settings).images
    assert np.abs(again - heard.images[:1]).max() < 1e-4


def test_masks_reach_the_picture(tiny, generators):
    settings = {"source_embeds": embeddings(1), "num_inference_steps": 2, "output_type": "np"}
    heard = tiny(generator=generators(1), **settings).images
    everywhere = tiny(generator=generators(1), source_masks=torch.ones(6, 128, 128), **settings).images
    assert np.abs(everywhere - heard).max() < 1e-4
    left = tiny(generator=generators(1), source_masks={0: (0, 0, 0.5, 1)}, output_maps=True, **settings)
    assert np.abs(left.images - heard).max() > 1e-3
    # up to the interpolation between the coarsest layer's places
    assert not left.source_maps[0, 0, :, 96:].any() and left.source_maps[0, 0, :, :32].min() > 0
    with pytest.raises(ValueError, match="source_masks: expected"):
        tiny(source_masks=torch.ones(6, 64, 64), **settings)


def test_what_would_silence_the_sound_is_refused_or_undone(tiny_dir, tiny, generators):
    pipe = MACSPipeline.from_pretrained(tiny_dir)
    pipe.set_progress_bar_config(disable=True)
    settings = {"source_embeds": embeddings(1), "num_inference_steps": 1, "output_type": "np"}
    heard = pipe(generator=generators(1), **settings).images
    pipe.unload_ip_adapter()
    with pytest.raises(RuntimeError, match=r"pipe\.adapter\.attach"):
        pipe(generator=generators(1), **settings)
    pipe.adapter.attach(pipe.unet)
    assert np.array_equal(pipe(generator=generators(1), **settings).images, heard)
    again = MACSPipeline.from_pipe(pipe)
    again.set_progress_bar_config(disable=True)
    assert np.array_equal(again(generator=generators(1), **settings).images, heard)
    pipe.enable_attention_slicing()
    assert np.abs(pipe(generator=generators(1), **settings).images - heard).max() < 1e-4
    pipe.disable_attention_slicing()
    assert np.abs(pipe(generator=generators(1), **settings).images - heard).max() < 1e-4
    with pytest.raises(ValueError, match="attention"):
        pipe.fuse_qkv_projections()
    with pytest.raises(ValueError, match="attn_processor"):
        pipe.unet.set_default_attn_processor()


def test_a_seeds_noise_is_the_same_in_every_dtype(tiny):
    draw = [
        tiny.prepare_latents(1, 4, 64, 64, dtype, "cpu", torch.Generator().manual_seed(0))
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert draw[1].dtype == torch.bfloat16 and torch.equal(draw[0].to(torch.bfloat16), draw[1])


def test_negative_prompt_beside_prompt_embeds(tiny, generators):
    settings = {"source_embeds": embeddings(2), "num_inference_steps": 1, "output_type": "np"}
    embeds = tiny.encode_prompt("rain", "cpu", 1, False)[0]
    texts = tiny(prompt="rain", negative_prompt="dog", generator=generators(2), **settings).images
    mixed = tiny(prompt_embeds=embeds, negative_prompt="dog", generator=generators(2), **settings).images
    assert np.abs(mixed - texts).max() < 1e-5


def test_sources_are_named(tiny, tmp_path):
    waveforms = 0.1 * torch.randn(2, 30000, generator=torch.Generator().manual_seed(0))
    (tmp_path / "names.txt").write_text("dog\nrain\n\nbell\n")
    names = tiny.name_sources(waveforms, tmp_path / "names.txt")
    assert names == tiny.name_sources(waveforms, ["dog", "rain", "bell"])
    assert len(names) == 2 and len(names[0]) == 6 and set(names[1][5]) == {"dog", "rain", "bell"}
    cosine = tiny.encode_audio(waveforms)[1, 5] @ tiny.clap.encode_text(["The sound of rain"], tiny.clap_tokenizer)[0]
    others = tiny.clap.encode_text(["The sound of dog", "The sound of bell"], tiny.clap_tokenizer)
    others = others @ tiny.encode_audio(waveforms)[1, 5]
    scale = tiny.clap.logit_scale_a.exp()
    expected = (scale * cosine).exp() / (scale * torch.cat([cosine[None], others])).exp().sum()
    assert abs(names[1][5]["rain"] - expected.item()) < 1e-4
    assert list(names[0][0].values()) == sorted(names[0][0].values(), reverse=True)
    for wrong in ([], tmp_path / "none.txt"):
        with pytest.raises(ValueError, match="expected"):
            tiny.name_sources(waveforms, wrong)


def test_names_by_default(tiny, tiny_dir, tmp_path, monkeypatch):
    names = read_names(AUDIOSET_LABELS)
    assert len(names) == 527 and {"Speech", "Domestic animals, pets", "Bee, wasp, etc."} <= set(names)
    assert default_labels(tiny) == tiny_dir / "labels.txt"  # the world's
    monkeypatch.setattr(type(tiny), "name_or_path", str(tmp_path))
    assert default_labels(tiny) == AUDIOSET_LABELS
    (tmp_path / "labels.txt").write_text("dog\nrain\n")
    assert set(tiny.name_sources(0.1 * torch.randn(1, 30000))[0][0]) == {"dog", "rain"}
    monkeypatch.setattr(tiny, "clap_tokenizer", None)  # as of the released weights

    def offline(name):
        raise OSError("no network")

    monkeypatch.setattr("macs.attribution.AutoTokenizer.from_pretrained", offline)
    with pytest.raises(ValueError, match="roberta-base cannot be had"):
        tiny.name_sources(0.1 * torch.randn(1, 30000))


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


def test_model_index_names_the_components(tiny_dir):
    index = json.loads((tiny_dir / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "MACSPipeline"] and (tiny_dir / "pipeline.py").is_file()
    assert index["separator"] == ["macs_separator", "Separator"] and index["unet"][0] == "diffusers"
    size = sum(file.stat().st_size for file in tiny_dir.rglob("*") if file.is_file())
    assert size < 48e6


@pytest.mark.slow
def test_opens_in_a_new_python_that_imported_the_pipeline_alone(tiny_dir):
    code = f"from macs import MACSPipeline; print(MACSPipeline.from_pretrained({str(tiny_dir)!r}).num_sources)"
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.strip() == "6", result.stderr
