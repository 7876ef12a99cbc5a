"""img2img, inpainting and ControlNet with sound: a small random model of four latent channels, and one of eight."""

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from PIL import Image

from macs import MACSPipeline
from macs.pipelines import MACSControlNetPipeline, MACSImg2ImgPipeline, MACSInpaintPipeline
from stage_two import make_pipeline

FORMS = {
    "img2img": (MACSImg2ImgPipeline, StableDiffusionImg2ImgPipeline),
    "inpaint": (MACSInpaintPipeline, StableDiffusionInpaintPipeline),
    "controlnet": (MACSControlNetPipeline, StableDiffusionControlNetPipeline),
}
every_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A MACSPipeline of 64x64 pixels, four latent channels, M = 2, random weights."""
    folder = tmp_path_factory.mktemp("small")
    make_pipeline(folder)
    pipe = MACSPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def forms(small):
    """{name: our form, and diffusers' own pipeline}, all of the models of `small`."""
    torch.manual_seed(0)
    with small.adapter.detached(small.unet):
        controlnet = ControlNetModel.from_unet(small.unet)
    for parameter in controlnet.parameters():
        if not parameter.any():  # the layers that a new ControlNet begins with at zero
            torch.nn.init.normal_(parameter, std=0.3)
    made = {}
    for name, (ours, stock) in FORMS.items():
        extra = {"controlnet": controlnet} if name == "controlnet" else {}
        made[name] = (
            ours.from_pipe(small, **extra),
            stock.from_pipe(small, requires_safety_checker=False, **extra),
        )
        for pipe in made[name]:
            pipe.set_progress_bar_config(disable=True)
    return made


def embeddings(batch, num_sources=2, dim=32):
    values = torch.randn(batch, num_sources, dim, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.normalize(values, dim=-1)


def picture(seed, size=(64, 64)):
    """Smooth colours: (width, height)."""
    colours = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


def mask(box, size=(64, 64)):
    drawn = Image.new("L", size, 0)
    drawn.paste(255, box)
    return drawn


def arguments(form, clips, images_per_clip=1, first=0):
    """Pictures of `clips`, and a generator for every image, of which the first has the seed `first`."""
    images = len(clips) * images_per_clip
    given = {
        "image": [picture(clip) for clip in clips],
        "generator": [torch.Generator().manual_seed(first + i) for i in range(images)],
        "num_images_per_prompt": images_per_clip,
        "num_inference_steps": 2,
        "output_type": "latent",  # less work, and nothing is clamped
    }
    if form == "img2img":
        given["strength"] = 0.7
    if form == "inpaint":
        given |= {"strength": 0.7, "mask_image": [mask((0, 0, 32, 64 - 8 * clip)) for clip in clips]}
    return given


def change(drawn, other):
    """The largest difference of two calls' latents, relative to the largest of them."""
    return (drawn.images - other.images).abs().max() / other.images.abs().max()


@every_form
@pytest.mark.parametrize("guidance_scale", [7.5, 1.0])
def test_a_batch_is_its_clips_one_by_one(forms, form, guidance_scale):
    pipe, embeds = forms[form][0], embeddings(2)

    def draw(embeds, clips, first=0, **other):
        return pipe(source_embeds=embeds, guidance_scale=guidance_scale, **arguments(form, clips, 2, first) | other)

    together = draw(embeds, [0, 1]).images
    assert together.shape == (4, 4, 8, 8)
    for clip in range(2):
        alone = draw(embeds[clip : clip + 1], [clip], 2 * clip)
        of_the_batch = together[2 * clip : 2 * clip + 2]
        assert (alone.images - of_the_batch).abs().max() < 1e-5 * of_the_batch.abs().max()
    # another sound, or another picture, is another image
    first = draw(embeds[:1], [0])
    assert change(draw(embeds[1:2], [0]), first) > 1e-3
    assert change(draw(embeds[:1], [0], image=picture(5)), first) > 1e-4


@every_form
@pytest.mark.parametrize("images_per_clip, guidance_scale", [(1, 7.5), (2, 7.5), (2, 1.0)])
def test_diffusers_own_pipelines_of_the_same_models_draw_the_same(forms, form, images_per_clip, guidance_scale):
    (ours, stock), embeds = forms[form], embeddings(2)
    settings = arguments(form, [0, 1], images_per_clip) | {"guidance_scale": guidance_scale}
    expected = ours(source_embeds=embeds, **settings)
    again = arguments(form, [0, 1], images_per_clip)
    if form != "controlnet":  # diffusers repeats a ControlNet's pictures itself, the others in another order
        for name in {"image", "mask_image"} & again.keys():
            again[name] = [value for value in again[name] for _ in range(images_per_clip)]
    drawn = stock(
        prompt=["", ""], guidance_scale=guidance_scale,
        ip_adapter_image_embeds=ours.audio_condition(embeds, guidance_scale > 1), **again,
    )  # fmt: skip
    assert change(drawn, expected) < 1e-5
    with pytest.raises(ValueError, match="as many prompts as clips"):
        stock(prompt="", ip_adapter_image_embeds=ours.audio_condition(embeds), **arguments(form, [0]))


@every_form
def test_the_other_arguments_of_macs_pipeline(forms, form):
    pipe, embeds = forms[form][0], embeddings(1)

    def draw(**kwargs):
        return pipe(source_embeds=embeds, **arguments(form, [0]), **kwargs)

    heard = draw()
    assert change(draw(audio_scale=0.0), heard) > 1e-3
    assert change(draw(source_weights=[1, 0]), draw(top_sources=1)) < 1e-5
    assert change(draw(source_masks=torch.ones(2, 64, 64)), heard) < 1e-5
    maps = draw(output_maps=True).source_maps
    assert maps.shape == (1, 2, 64, 64) and (maps.sum(1) - 1).abs().max() < 1e-4
    influence = pipe.influence(source_embeds=embeds, source_weights=[1, 0], **arguments(form, [0]))
    assert influence.numbers[0, 1] < 1e-6 < 1e-4 < influence.numbers[0, 0]
    waveform = 0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    by_sound = pipe(waveform, **arguments(form, [0]))
    assert change(by_sound, pipe(source_embeds=pipe.encode_audio(waveform), **arguments(form, [0]))) == 0
    with pytest.raises(TypeError, match="takes no argument source_weight$"):
        draw(source_weight=[1, 0])


@every_form
def test_forms_of_a_picture_are_the_same_picture(forms, form):
    pipe, embeds = forms[form][0], embeddings(1)
    values = np.array(picture(0), dtype=np.float32) / 255
    expected = pipe(source_embeds=embeds, **arguments(form, [0]))
    for same in (picture(0), values, values[None], torch.from_numpy(values).permute(2, 0, 1)[None]):
        assert change(pipe(source_embeds=embeds, **arguments(form, [0]) | {"image": same}), expected) < 1e-5
    for wrong, words in [("a.png", "got str"), (None, "got NoneType"), ([picture(0)] * 2, "expected 1 picture")]:
        with pytest.raises(ValueError, match=f"image: expected.*{words}|{words}"):
            pipe(source_embeds=embeds, **arguments(form, [0]) | {"image": wrong})
    if form != "inpaint":  # which takes the model's size
        with pytest.raises(ValueError, match="one size"):
            settings = arguments(form, [0, 1]) | {"image": [picture(0), picture(1, (48, 64))]}
            pipe(source_embeds=embeddings(2), **settings)


def test_sizes_are_the_pictures_own_or_as_asked_for(forms):
    embeds = embeddings(1)
    for form in ("img2img", "controlnet"):
        settings = arguments(form, [0]) | {"image": picture(0, (51, 80)), "output_type": "np"}
        assert forms[form][0](source_embeds=embeds, **settings).images.shape == (1, 80, 48, 3)
        drawn = forms[form][0](source_embeds=embeds, height=32, width=40, output_maps=True, **settings)
        assert drawn.images.shape == (1, 32, 40, 3) and drawn.source_maps.shape == (1, 2, 32, 40)
    settings = arguments("inpaint", [0]) | {"image": picture(0, (51, 80)), "output_type": "np"}
    assert forms["inpaint"][0](source_embeds=embeds, **settings).images.shape == (1, 64, 64, 3)


def test_outside_of_the_mask_the_picture_stays(forms, tiny):
    eight = MACSInpaintPipeline.from_pipe(tiny)
    eight.set_progress_bar_config(disable=True)
    for pipe, dim in ((forms["inpaint"][0], 32), (eight, 256)):
        side = pipe.unet.config.sample_size * 8
        where, before = mask((0, 0, side // 2, side), (side, side)), picture(0, (side, side))
        drawn = pipe(
            source_embeds=embeddings(1, pipe.num_sources, dim), image=before, mask_image=where, num_inference_steps=2,
            generator=torch.Generator().manual_seed(0), strength=1.0,
        ).images[0]  # fmt: skip
        pasted = np.array(pipe.image_processor.apply_overlay(where, before, drawn), dtype=int)
        change = np.abs(pasted - np.array(before, dtype=int)).max(2)
        assert change[:, side // 2 :].max() <= 1 and change[:, : side // 2].mean() > 1
        assert pipe.unet.config.in_channels == pipe.vae.config.latent_channels


def test_a_crop_around_the_mask_is_for_one_picture(forms):
    pipe, settings = forms["inpaint"][0], arguments("inpaint", [0]) | {"output_type": "pil", "padding_mask_crop": 4}
    settings |= {"image": picture(0), "mask_image": mask((0, 0, 16, 16))}
    assert pipe(source_embeds=embeddings(1), **settings).images[0].size == (64, 64)
    with pytest.raises(ValueError, match="padding_mask_crop: expected one clip"):
        pipe(source_embeds=embeddings(2), **settings)


@every_form
def test_a_seeds_noise_is_the_same_in_every_dtype(forms, form, small, monkeypatch):
    pipe, drawn = forms[form][0], []

    def keep(pipe, step, timestep, values):
        drawn.append(values["latents"])
        return {}

    monkeypatch.setattr(type(small.scheduler), "step", lambda self, output, t, sample, **_: (sample,))
    settings = arguments(form, [0]) | {"num_inference_steps": 2, "callback_on_step_end": keep}
    pipe(source_embeds=embeddings(1), **settings | {"generator": [torch.Generator().manual_seed(0)]})
    try:
        pipe.to(torch.bfloat16)
        pipe(source_embeds=embeddings(1), **settings | {"generator": [torch.Generator().manual_seed(0)]})
    finally:
        pipe.to(torch.float32)
    single, half = drawn[0], drawn[-1]
    assert half.dtype == torch.bfloat16
    # up to bfloat16's rounding of the VAE's layers; another draw would differ by about 1
    assert (single - half.float()).abs().max() < 0.1 * single.abs().max() and (single - half.float()).std() < 0.05
