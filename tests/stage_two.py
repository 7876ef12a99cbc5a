"""A MACS pipeline and a paired set so small that training them takes a second; for the tests of stage two."""

import numpy as np
import soundfile
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from PIL import Image
from transformers import ClapConfig, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from macs import AudioAdapter, ClapEncoder, MACSPipeline, MACSXLPipeline, Separator
from soundscapes import make_tiny

NUM_SAMPLES = 16000  # one second


# The UNets of Stable Diffusion's versions, narrow and for 64x64 pixels; SDXL's blocks are 1, 2 and 10 deep
WIDE = {"block_out_channels": [32, 64, 64, 64], "cross_attention_dim": 768, "attention_head_dim": 8}
WIDE_2 = WIDE | {"cross_attention_dim": 1024, "attention_head_dim": [2, 4, 8, 8], "use_linear_projection": True}
UNETS = {
    "1.5": WIDE,
    "2.1": WIDE_2,
    "xl": {
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [32, 32, 64], "transformer_layers_per_block": [1, 2, 3], "cross_attention_dim": 2048,
        "attention_head_dim": [2, 2, 4], "use_linear_projection": True, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 1280 + 6 * 256,
    },
}  # fmt: skip


def audio_parts(clap_tokenizer):
    """A separator and CLAP of one second, M = 2 and D = 32."""
    clap_config = make_tiny.make_clap(clap_tokenizer, projection_dim=32).config.to_dict()
    audio = clap_config["audio_config"] | {"patch_embeds_hidden_size": 8, "hidden_size": 32, "depths": [1, 1, 1]}
    audio["num_attention_heads"] = [1, 2, 4]
    return {
        "separator": Separator(num_sources=2, channels=16, num_samples=NUM_SAMPLES),
        "clap": ClapEncoder(ClapConfig(text_config=clap_config["text_config"], audio_config=audio, projection_dim=32)),
        "clap_tokenizer": clap_tokenizer,
    }


def small_vae(**config):
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[8, 8, 16, 16], norm_num_groups=4, sample_size=64, **config,
    )  # fmt: skip


def make_pipeline(folder):
    """Saves a MACSPipeline of 64x64 images, M = 2, one second of sound."""
    torch.manual_seed(0)
    tokenizer, clap_tokenizer = make_tiny.tokenizers()
    unet = UNet2DConditionModel(
        sample_size=8, down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"], block_out_channels=[32, 64], layers_per_block=1,
        attention_head_dim=4, norm_num_groups=8, cross_attention_dim=32,
    )  # fmt: skip
    MACSPipeline(
        vae=small_vae(),
        text_encoder=make_tiny.make_text_encoder(tokenizer, hidden_size=32),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler(**make_tiny.SCHEDULE),
        adapter=AudioAdapter.from_unet(unet, num_sources=2, embedding_dim=32, hidden_dim=64),
        **audio_parts(clap_tokenizer),
    ).save_pretrained(folder)


def make_version(folder, version):
    """Saves a MACSPipeline, or MACSXLPipeline, with the shapes of "1.5", "2.1" (velocities) or "xl"."""
    torch.manual_seed(0)
    tokenizer, clap_tokenizer = make_tiny.tokenizers()
    prediction_type = "v_prediction" if version == "2.1" else "epsilon"
    schedule = make_tiny.SCHEDULE | make_tiny.FOR_OTHER_SAMPLERS | {"prediction_type": prediction_type}
    unet = UNet2DConditionModel(sample_size=8, norm_num_groups=8, **UNETS[version])

    def text_config(width):
        return CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, projection_dim=width, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip

    parts = {
        "tokenizer": tokenizer,
        "unet": unet,
        "scheduler": DPMSolverMultistepScheduler.from_config(schedule),
        "adapter": AudioAdapter.from_unet(
            unet, num_sources=2, embedding_dim=32, hidden_dim=64, prediction_type=prediction_type
        ),
        **audio_parts(clap_tokenizer),
    }
    if version == "xl":
        encoders = {"text_encoder": CLIPTextModel(text_config(768))}
        encoders["text_encoder_2"] = CLIPTextModelWithProjection(text_config(1280))
        vae = small_vae(scaling_factor=0.13025)
        pipe = MACSXLPipeline(vae=vae, tokenizer_2=tokenizer, **encoders, **parts)
    else:
        encoder = CLIPTextModel(text_config(unet.config.cross_attention_dim))
        pipe = MACSPipeline(vae=small_vae(), text_encoder=encoder, **parts)
    pipe.save_pretrained(folder)


def write_pair(folder, clip_id, seconds=1.5, size=(64, 64), frame=0, seed=0):
    """audio/<clip_id>.wav, a tone, and image/<clip_id>_frame_<frame>.jpg, a colour; size: (width, height)."""
    rng = np.random.default_rng(seed)
    for part in ("audio", "image"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * 16000)) / 16000
    tone = 0.3 * np.sin(2 * np.pi * rng.uniform(200, 3000) * time) + 0.01 * rng.standard_normal(len(time))
    soundfile.write(folder / "audio" / f"{clip_id}.wav", tone, 16000)
    image = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    image.save(folder / "image" / f"{clip_id}_frame_{frame}.jpg")


def write_pairs(data_dir, count, sizes=((64, 64), (96, 48), (36, 64))):
    """`count` pairs of the set «Mine», of several shapes."""
    folder = data_dir / "Mine" / "train"
    for i in range(count):
        write_pair(folder, f"-clip#{i}", size=sizes[i % len(sizes)], seed=i)
    return folder


def arguments(model, data_dir, output_dir, /, **options):
    """The command line of train.py for these, as a list."""
    options = {
        "sd_path": model, "data_dir": data_dir, "dataset_name": "Mine", "output_dir": output_dir, "M": 2,
        "batch_size": 2, "gradient_accumulation_steps": 2, "epochs": 1, "num_workers": 0, "validation_steps": 0,
    } | options  # fmt: skip
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
