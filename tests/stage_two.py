"""A MACS pipeline and a paired set so small that training them takes a second; for the tests of stage two."""

import numpy as np
import soundfile
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from PIL import Image
from transformers import ClapConfig

from macs import AudioAdapter, ClapEncoder, MACSPipeline, Separator
from soundscapes import make_tiny

NUM_SAMPLES = 16000  # one second


def make_pipeline(folder):
    """Saves a MACSPipeline of 64x64 images, M = 2, one second of sound."""
    torch.manual_seed(0)
    tokenizer, clap_tokenizer = make_tiny.tokenizers()
    clap_config = make_tiny.make_clap(clap_tokenizer, projection_dim=32).config.to_dict()
    audio = clap_config["audio_config"] | {"patch_embeds_hidden_size": 8, "hidden_size": 32, "depths": [1, 1, 1]}
    audio["num_attention_heads"] = [1, 2, 4]
    unet = UNet2DConditionModel(
        sample_size=8, down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"], block_out_channels=[32, 64], layers_per_block=1,
        attention_head_dim=4, norm_num_groups=8, cross_attention_dim=32,
    )  # fmt: skip
    MACSPipeline(
        vae=AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[8, 8, 16, 16], norm_num_groups=4, sample_size=64,
        ),
        text_encoder=make_tiny.make_text_encoder(tokenizer, hidden_size=32),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler(**make_tiny.SCHEDULE),
        separator=Separator(num_sources=2, channels=16, num_samples=NUM_SAMPLES),
        clap=ClapEncoder(ClapConfig(text_config=clap_config["text_config"], audio_config=audio, projection_dim=32)),
        clap_tokenizer=clap_tokenizer,
        adapter=AudioAdapter.from_unet(unet, num_sources=2, embedding_dim=32, hidden_dim=64),
    ).save_pretrained(folder)  # fmt: skip


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
