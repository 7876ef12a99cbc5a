"""The embedded model's architecture with untrained weights:

    python soundscapes/make_tiny.py --output_dir asset/macs-tiny

A whole MACSPipeline with small parts: 128x128 images, 16x16 latents, its own CLAP, tokenizers, VAE and UNet. Seeded, so
every machine makes the same. With --adapter it puts what the two stages trained into a trained model instead:

    python soundscapes/make_tiny.py --model_dir checkpoints/tiny/model --adapter checkpoints/tiny/generator/adapter
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from transformers import ClapConfig, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, RobertaTokenizer

from macs import AudioAdapter, ClapEncoder, MACSPipeline, Separator
from macs.files import write_folder_beside
from macs.loading import load_pipeline
from macs.options import integer
from macs.script import run
from soundscapes.scenes import CLASS_TEXTS, CLASSES, make_scene

# Stable Diffusion 1.4's noise schedule
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
# and what its configuration says to other samplers; without it DDIM and DDPM clip the latents to -1..1
FOR_OTHER_SAMPLERS = {"clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True}


def tokenizers(vocab_size=1000):
    """(CLIPTokenizer, RobertaTokenizer) with word pieces learned from the soundscapes' captions and labels.

    Other words are spelled out in bytes.
    """
    texts = [make_scene("train", index).caption for index in range(500)]
    texts += CLASS_TEXTS
    clip = CLIPTokenizer().train_new_from_iterator(texts, vocab_size, show_progress=False)
    roberta = RobertaTokenizer().train_new_from_iterator(texts, vocab_size, show_progress=False)
    clip.model_max_length, roberta.model_max_length = 32, 77  # a caption has 15 tokens at most
    return clip, roberta


def make_clap(tokenizer, projection_dim=256):
    """A small HTSAT (48 to 192 wide, on the full-size mel input in patches of 8 x 8) and a two-layer text model."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "max_position_embeddings": 80,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    audio = {"patch_size": 8, "patch_stride": [8, 8], "depths": [2, 2, 2], "num_attention_heads": [2, 4, 8]}
    audio |= {"patch_embeds_hidden_size": 48, "hidden_size": 4 * 48}
    return ClapEncoder(ClapConfig(text_config=text, audio_config=audio, projection_dim=projection_dim))


def make_text_encoder(tokenizer, hidden_size=256):
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=3,
            num_attention_heads=4,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_vae():
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[16, 32, 64, 128],
        latent_channels=8,
        norm_num_groups=4,
        sample_size=128,
    )


def make_unet(cross_attention_dim=256):
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=8,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        block_out_channels=[64, 128, 192],
        layers_per_block=1,
        attention_head_dim=4,  # the number of heads, by diffusers' naming
        norm_num_groups=16,
        cross_attention_dim=cross_attention_dim,
    )


def make_pipeline():
    """The untrained MACSPipeline."""
    tokenizer, clap_tokenizer = tokenizers()
    unet = make_unet()
    return MACSPipeline(
        vae=make_vae(),
        text_encoder=make_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler.from_config(SCHEDULE | FOR_OTHER_SAMPLERS),
        separator=Separator(channels=16),
        clap=make_clap(clap_tokenizer),
        clap_tokenizer=clap_tokenizer,
        adapter=AudioAdapter.from_unet(unet, embedding_dim=256, hidden_dim=512, dropout=0.1),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="asset/macs-tiny", help="the pipeline (default: %(default)s)")
    parser.add_argument("--seed", type=integer(0), default=0, help="of the untrained weights (default: %(default)s)")
    parser.add_argument("--adapter", help="adapter that train.py trained; it knows the separator it was trained with")
    parser.add_argument("--model_dir", help="with --adapter: the pipeline it was trained with (its --sd_path)")
    args = parser.parse_args()
    if bool(args.adapter) != bool(args.model_dir):
        parser.error("--adapter and --model_dir belong together")
    output_dir = Path(args.output_dir)
    if output_dir.exists() and any(output_dir.iterdir()) and not (output_dir / "model_index.json").is_file():
        parser.error(f"{output_dir}: would be replaced, but is no pipeline (it has no model_index.json)")

    torch.manual_seed(args.seed)
    pipe = load_pipeline(args.model_dir, args.adapter) if args.adapter else make_pipeline()
    sizes = {
        name: sum(p.numel() for p in part.parameters()) / 1e6
        for name, part in pipe.components.items()
        if isinstance(part, torch.nn.Module)
    }
    with pipe.adapter.detached(pipe.unet):
        sizes["unet"] = sum(p.numel() for p in pipe.unet.parameters()) / 1e6
    for part in (pipe.vae, pipe.text_encoder, pipe.unet, pipe.separator, pipe.clap, pipe.adapter):
        torch.nn.Module.half(part)
    pipe.separator.register_to_config(raise_quiet=True)  # the soundscapes have no quiet clips
    with write_folder_beside(output_dir) as partial:
        pipe.save_pretrained(partial)
        (partial / "labels.txt").write_text(
            "\n".join(CLASSES) + "\n"
        )  # names for its sources: inference.py --save_maps
        for name in ("README.md", "recordings.csv"):  # the model card and its credits are written by hand
            if (output_dir / name).is_file():
                shutil.copy(output_dir / name, partial)
        for file in [partial / "model_index.json", *partial.glob("*/config.json")]:  # the same wherever it is made
            config = json.loads(file.read_text())
            if config.pop("_name_or_path", None):
                file.write_text(json.dumps(config, indent=2) + "\n")
    megabytes = sum(file.stat().st_size for file in output_dir.rglob("*") if file.is_file()) / 1e6
    parts = ", ".join(f"{name} {size:.1f} M" for name, size in sizes.items())
    print(f"{args.output_dir}: {megabytes:.1f} MB, {sum(sizes.values()):.1f} M parameters ({parts})")


if __name__ == "__main__":
    run(main)
