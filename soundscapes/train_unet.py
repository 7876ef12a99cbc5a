"""Trains the embedded model's text-to-image part on painted scenes, in place of Stable Diffusion's own training:

    python soundscapes/train_unet.py --model_dir asset/macs-tiny

Takes MODEL_DIR/unet and text_encoder as soundscapes/make_tiny.py made them, with the VAE of soundscapes/train_vae.py,
and puts the trained ones in their place. Resumes when run again, with the latents too.
"""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import make_image_grid
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from macs.files import write_beside
from macs.options import integer, number
from macs.script import run
from macs.training.denoiser import attention_kernel, min_snr_weights
from soundscapes.scenes import caption, make_scene
from soundscapes.train_vae import painting
from soundscapes.training import DEVICE, Items, save_part, train, training_parser

CHUNK = 500  # scenes in a file of latents
PICTURES = 16  # of held-out captions, in rows of eight


@torch.no_grad()
def encoded_scenes(vae, count, seed, folder, num_workers):
    """Means and log-variances (count, 8, 16, 16) of the scenes' latents, kept in folder in files of 500 scenes.

    The files lie in a folder named after the VAE's weights: another VAE's latents are never taken for this one's.
    """
    weights = b"".join(value.cpu().numpy().tobytes() for value in vae.state_dict().values())
    folder = folder / hashlib.sha256(weights).hexdigest()[:12]
    chunks = []
    for start in tqdm(range(0, count, CHUNK), desc="latents"):
        stop = min(start + CHUNK, count)
        path = folder / f"latents-{seed}-{start}-{stop}.safetensors"
        if not path.exists():
            items = Items(partial(painting, "train", seed), start, stop)
            loader = DataLoader(items, 50, num_workers=num_workers)
            moments = torch.cat([vae.encode(batch.to(DEVICE)).latent_dist.parameters.cpu() for batch in loader])
            with write_beside(path) as partial_path:
                save_file({"moments": moments.half().contiguous()}, partial_path)
        chunks.append(load_file(path)["moments"])
    return torch.cat(chunks)


def main():
    parser = training_parser(__doc__, trains="unet/ and text_encoder/", scenes=7000, batch_size=16, lr=4e-4)
    parser.add_argument("--steps", type=integer(1), default=12000, help="each of a batch drawn from the scenes")
    parser.add_argument("--snr_gamma", type=number(0), default=1.0, help="of the min-SNR weights")
    args = parser.parse_args()

    output_dir = Path(args.output_dir)
    vae = AutoencoderKL.from_pretrained(args.model_dir, subfolder="vae", torch_dtype=torch.float32).to(DEVICE).eval()
    moments = encoded_scenes(vae, args.scenes, args.seed, output_dir / "latents", args.num_workers).to(DEVICE)
    labels = [make_scene("train", index, args.seed).labels for index in tqdm(range(args.scenes), desc="labels")]
    tokenizer = CLIPTokenizer.from_pretrained(args.model_dir, subfolder="tokenizer")
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel.from_pretrained(args.model_dir, subfolder="text_encoder", dtype=torch.float32),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel.from_pretrained(args.model_dir, subfolder="unet", torch_dtype=torch.float32),
        scheduler=DPMSolverMultistepScheduler.from_pretrained(args.model_dir, subfolder="scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    unet, text_encoder = pipe.unet, pipe.text_encoder
    noise_scheduler = DDPMScheduler.from_config(pipe.scheduler.config)

    def loss_of(step):
        rng = np.random.default_rng([args.seed, step])
        scenes = rng.integers(args.scenes, size=args.batch_size)
        # one caption in ten is empty, for classifier-free guidance
        texts = ["" if rng.random() < 0.1 else caption(labels[scene], rng) for scene in scenes]
        tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(DEVICE)
        mean, log_variance = moments[torch.from_numpy(scenes).to(DEVICE)].float().chunk(2, dim=1)
        latents = mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * torch.randn_like(mean)
        latents = latents * vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(noise_scheduler.config.num_train_timesteps, (len(texts),), device=DEVICE)
        noisy = noise_scheduler.add_noise(latents, noise, timesteps)
        predicted = unet(noisy, timesteps, text_encoder(tokens).last_hidden_state).sample
        losses = (predicted.float() - noise).square().mean((1, 2, 3))
        return (losses * min_snr_weights(noise_scheduler, timesteps, args.snr_gamma)).mean()

    parts = {"unet": unet, "text_encoder": text_encoder}

    def batches(done):  # a batch is drawn in loss_of, by the number of its step
        return range(done, args.steps)

    with attention_kernel(moments):
        train("unet", parts, batches, loss_of, args.steps, args.lr, output_dir, args.seed, args.bf16)

    # Pictures of held-out captions
    prompts = [make_scene("val", index, args.seed).caption for index in range(PICTURES)]
    pipe.to(DEVICE)
    images = pipe(prompts, height=128, width=128, num_inference_steps=20, generator=torch.manual_seed(args.seed)).images
    make_image_grid(images, PICTURES // 8, 8).save(output_dir / "unet.png")
    for name, part in parts.items():
        save_part(part, args.model_dir, name)
    print(f"unet: see {output_dir / 'unet.png'}: " + "; ".join(prompts))


if __name__ == "__main__":
    run(main)
