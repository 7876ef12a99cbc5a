"""What users of diffusers combine with Stable Diffusion 1.x, tried with sound: the table in docs/diffusers.md."""

import copy
import re
from pathlib import Path

import accelerate
import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
)
from diffusers.models.attention_processor import AttnProcessor2_0
from PIL import Image

from macs import MACSPipeline
from macs.editing import SCHEDULERS
from macs.pipelines import MACSControlNetPipeline, MACSImg2ImgPipeline, MACSInpaintPipeline
from stage_two import make_pipeline

PAGE = Path(__file__).parents[2] / "docs/diffusers.md"
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
MASK = Image.new("L", (64, 64), 255)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small") / "small"
    make_pipeline(folder)
    return MACSPipeline.from_pretrained(folder)


@pytest.fixture
def pipe(original):
    """A pipeline of its own for every case, four latent channels, M = 2."""
    made = MACSPipeline(**copy.deepcopy(original.components))
    made.set_progress_bar_config(disable=True)
    return made


def embeddings(seed):
    values = torch.randn(1, 2, 32, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


def draw(pipe, seed=0, **kwargs):
    """Latents by a pipeline that hears, or by one of diffusers' own with the sound as its IP-Adapter's condition."""
    if isinstance(pipe, MACSPipeline | MACSImg2ImgPipeline | MACSInpaintPipeline | MACSControlNetPipeline):
        sound = {"source_embeds": embeddings(seed)}
    else:
        embeds = embeddings(seed)[:, None]
        sound = {"prompt": "", "ip_adapter_image_embeds": [torch.cat([torch.zeros_like(embeds), embeds])]}
    call = {"num_inference_steps": 2, "output_type": "latent", "generator": torch.Generator().manual_seed(0)}
    return pipe(**sound | call | kwargs).images


def change(latents, others):
    return ((latents - others).abs().max() / others.abs().max()).item()


def form(pipeline_class, **kwargs):
    """(pipe) -> that pipeline of the same models, and the arguments of a call."""

    def make(pipe):
        extra = {}
        if "ControlNet" in pipeline_class.__name__:
            with pipe.adapter.detached(pipe.unet):
                extra["controlnet"] = ControlNetModel.from_unet(pipe.unet)
        if not pipeline_class.__name__.startswith("MACS"):
            extra["requires_safety_checker"] = False
        if "PAG" in pipeline_class.__name__:
            extra["pag_applied_layers"] = ["mid"]
        made = pipeline_class.from_pipe(pipe, **extra)
        made.set_progress_bar_config(disable=True)
        return made, kwargs

    return make


def call(**kwargs):
    return lambda pipe: (pipe, kwargs)


def after(*actions):
    """The pipeline after calls of its methods, each "name" or ("part.name", arguments)."""

    def make(pipe):
        for action in actions:
            action(pipe)
        return pipe, {}

    return make


def other_scheduler(name):
    import diffusers

    def make(pipe):
        pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(pipe.scheduler.config)
        return pipe, {"num_inference_steps": 4}  # fewer are too few for PNDM

    return make


def textual_inversion(pipe):
    pipe.load_textual_inversion({"<rain>": torch.ones(32)}, token="<rain>")
    return pipe, {"prompt": "<rain>"}


def lora(pipe):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["to_k", "to_v"], init_lora_weights=False)
    torch.manual_seed(0)
    pipe.unet.add_adapter(config, "style")
    return pipe, {}


def ddim_with_eta(pipe):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    return pipe, {"eta": 1.0, "num_inference_steps": 3}


def prompt_embeds(pipe):
    embeds, negative = pipe.encode_prompt("", CPU, 1, True)
    return pipe, {"prompt_embeds": embeds, "negative_prompt_embeds": negative}


def given_latents(pipe):
    return pipe, {"latents": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), "generator": None}


def in_bfloat16(pipe):
    return pipe.to(torch.bfloat16), {}


def sequential_offload(pipe):
    """As on a GPU: the weights are on no device but while their layer is called."""
    offload = accelerate.cpu_offload
    with pytest.MonkeyPatch.context() as patch:  # diffusers says cpu:0, which accelerate cannot move to
        patch.setattr(accelerate, "cpu_offload", lambda model, device, **kwargs: offload(model, CPU, **kwargs))
        pipe.enable_sequential_cpu_offload(device="cpu")
    return pipe, {}


# the calls as users write them
SAME = {
    "enable_attention_slicing()": after(lambda p: p.enable_attention_slicing()),
    "disable_attention_slicing()": after(
        lambda p: p.enable_attention_slicing(), lambda p: p.disable_attention_slicing()
    ),
    "vae.enable_slicing()": after(lambda p: p.vae.enable_slicing()),
    "vae.enable_tiling()": after(lambda p: p.vae.enable_tiling()),
    "unet.set_attention_backend(...)": after(lambda p: p.unet.set_attention_backend("native")),
    "unet.enable_gradient_checkpointing()": after(lambda p: p.unet.enable_gradient_checkpointing()),
    "unet.to(memory_format=torch.channels_last)": after(lambda p: p.unet.to(memory_format=torch.channels_last)),
    "unet.compile()": after(lambda p: p.unet.compile(backend="eager")),
    "fuse_qkv_projections(unet=False)": after(lambda p: p.fuse_qkv_projections(unet=False)),
    "enable_model_cpu_offload()": after(lambda p: p.enable_model_cpu_offload(device="cpu")),
    "enable_sequential_cpu_offload()": sequential_offload,
    "enable_group_offload(...)": after(lambda p: p.enable_group_offload(CPU, offload_type="leaf_level")),
    "disable_freeu()": after(lambda p: p.enable_freeu(0.9, 0.2, 1.5, 1.6), lambda p: p.disable_freeu()),
    "MACSPipeline.from_pipe(pipe)": form(MACSPipeline),
    "StableDiffusionPipeline.from_pipe(pipe)": form(StableDiffusionPipeline),
    "prompt_embeds=": prompt_embeds,
    "latents=": given_latents,
    "callback_on_step_end=": call(callback_on_step_end=lambda pipe, step, timestep, values: {}),
}
DIFFERENT = {
    "prompt=": call(prompt="a dog in the rain"),
    "negative_prompt=": call(negative_prompt="a dog in the rain"),
    "guidance_scale=": call(guidance_scale=1.0),
    "guidance_rescale=": call(guidance_rescale=0.7),
    "timesteps=": call(timesteps=[900, 500, 100]),
    "eta=": ddim_with_eta,
    "height=, width=": call(height=64, width=72),
    "callback_on_step_end= that changes latents": call(
        callback_on_step_end=lambda pipe, step, timestep, values: {"latents": values["latents"] * 0.5}
    ),
    "set_ip_adapter_scale(...)": after(lambda p: p.set_ip_adapter_scale(0.5)),
    "enable_freeu(...)": after(lambda p: p.enable_freeu(0.9, 0.2, 1.5, 1.6)),
    "to(torch.bfloat16)": in_bfloat16,
    "unet.enable_layerwise_casting(...)": after(
        lambda p: p.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    ),
    "load_lora_weights(...)": lora,
    "load_textual_inversion(...)": textual_inversion,
    "MACSImg2ImgPipeline": form(MACSImg2ImgPipeline, image=PICTURE),
    "MACSInpaintPipeline": form(MACSInpaintPipeline, image=PICTURE, mask_image=MASK),
    "MACSControlNetPipeline": form(MACSControlNetPipeline, image=PICTURE, num_inference_steps=3),
    "StableDiffusionImg2ImgPipeline.from_pipe(pipe)": form(StableDiffusionImg2ImgPipeline, image=PICTURE),
    "StableDiffusionInpaintPipeline.from_pipe(pipe)": form(
        StableDiffusionInpaintPipeline, image=PICTURE, mask_image=MASK, height=64, width=64
    ),
    "StableDiffusionControlNetPipeline.from_pipe(pipe, ...)": form(
        StableDiffusionControlNetPipeline, image=PICTURE, num_inference_steps=3
    ),
    "StableDiffusionControlNetImg2ImgPipeline.from_pipe(pipe, ...)": form(
        StableDiffusionControlNetImg2ImgPipeline, image=PICTURE, control_image=PICTURE
    ),
    "StableDiffusionPAGPipeline.from_pipe(pipe)": form(StableDiffusionPAGPipeline),
}
DIFFERENT |= {f"{name}Scheduler": other_scheduler(name) for name in SCHEDULERS if name != "DPMSolverMultistep"}
REFUSED = {
    "fuse_qkv_projections()": (after(lambda p: p.fuse_qkv_projections()), ValueError, "unet=False"),
    "unload_ip_adapter()": (after(lambda p: p.unload_ip_adapter()), RuntimeError, "pipe.adapter.attach"),
    "unet.set_attn_processor(...)": (
        after(lambda p: p.unet.set_attn_processor(AttnProcessor2_0())),
        RuntimeError,
        "pipe.adapter.attach",
    ),
    "unet.set_default_attn_processor()": (
        after(lambda p: p.unet.set_default_attn_processor()),
        ValueError,
        "set_default_attn_processor",
    ),
    "ip_adapter_image=": (call(ip_adapter_image=PICTURE), ValueError, "either `ip_adapter_image` or"),
    # diffusers 0.42 looks for a part of the text encoder that transformers 5 has no longer
    "clip_skip=": (call(clip_skip=1), AttributeError, "text_model"),
    "an argument that is none": (call(audio_scal=0.5), TypeError, "takes no argument audio_scal"),
    "AutoPipelineForImage2Image.from_pipe(pipe)": (
        lambda p: (AutoPipelineForImage2Image.from_pipe(p), {}),
        ValueError,
        "MACSPipeline",
    ),
    "ControlNetModel.from_unet(pipe.unet)": (
        lambda p: (ControlNetModel.from_unet(p.unet), {}),
        ValueError,
        "encoder_hid_dim_type",
    ),
    "StableDiffusionPipeline.from_pipe(pipe) without the sound": (
        form(StableDiffusionPipeline, ip_adapter_image_embeds=None),
        (ValueError, TypeError),
        "image_embeds|NoneType",
    ),
}


@pytest.fixture(scope="module")
def baseline(original):
    made = MACSPipeline(**original.components)
    made.set_progress_bar_config(disable=True)
    return draw(made)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if "compile" in name else name for name in SAME]
)
def test_draws_the_same(pipe, baseline, name):
    pipe, kwargs = SAME[name](pipe)
    assert change(draw(pipe, **kwargs), baseline) < 1e-4
    assert change(draw(pipe, **kwargs), baseline) < 1e-4  # and a second time


@pytest.mark.parametrize("name", [name for name in SAME if "offload" in name])
def test_offloaded_models_hear_a_recording(pipe, original, name):
    waveform = 0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    embeds = original.encode_audio(waveform)
    pipe, _ = SAME[name](pipe)
    if "sequential" in name:
        assert pipe.unet.conv_in.weight.is_meta and pipe.adapter.to_k_ip[0].weight.is_meta
    assert (pipe.encode_audio(pipe.prepare_audio(waveform)) - embeds).abs().max() < 1e-5
    drawn = pipe(waveform, num_inference_steps=1, output_type="np").images
    assert np.isfinite(drawn).all() and drawn.shape == (1, 64, 64, 3)


@pytest.mark.parametrize("name", DIFFERENT)
def test_draws_another_picture_and_hears(pipe, baseline, name):
    pipe, kwargs = DIFFERENT[name](pipe)
    drawn = draw(pipe, **kwargs)
    assert drawn.isfinite().all()
    assert drawn.shape != baseline.shape or change(drawn, baseline) > 1e-3
    assert change(draw(pipe, 1, **kwargs), drawn) > 1e-3


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_with_its_reason(pipe, name):
    make, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        pipe, kwargs = make(pipe)
        draw(pipe, **kwargs)


def test_the_page_lists_what_is_tried_here():
    rows = dict(re.findall(r"^\| `(.+?)` \| (\w+)", PAGE.read_text(), re.MULTILINE))
    tried = dict.fromkeys(SAME, "same") | dict.fromkeys(DIFFERENT, "different") | dict.fromkeys(REFUSED, "refused")
    tried = {name: kind for name, kind in tried.items() if not name.endswith("Scheduler")}  # they share a row
    assert rows == tried
