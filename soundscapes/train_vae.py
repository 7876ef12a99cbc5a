"""Trains the embedded model's VAE on painted scenes: python soundscapes/train_vae.py --model_dir asset/macs-tiny

Takes MODEL_DIR/vae as soundscapes/make_tiny.py made it and puts the trained one in its place. Every scene is met once.
Resumes when run again.
"""

from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.utils import make_image_grid
from PIL import Image
from torch.nn import functional as F

from macs.options import number
from macs.script import run
from soundscapes.scenes import make_scene
from soundscapes.training import DEVICE, fresh_batches, save_part, train, training_parser

HELD_OUT = 256  # scenes of which the latents' deviation and the PSNR are taken


def painting(split, seed, index):
    """Picture (3, 128, 128) in [-1, 1] of a scene."""
    return torch.from_numpy(make_scene(split, index, seed).pixels)


def reconstruction_loss(images, targets):
    """L1 of the pictures and of their steps between neighbouring pixels, at full, half and quarter size.

    The steps keep outlines sharp where an L1 alone would blur them.
    """
    loss = 0
    for _ in range(3):
        difference = images - targets
        loss += difference.abs().mean() + difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
        images, targets = F.avg_pool2d(images, 2), F.avg_pool2d(targets, 2)
    return loss


@torch.no_grad()
def latent_statistics(vae, images):
    """Standard deviation of the latents of pictures (N, 3, 128, 128), and their reconstructions (N, 3, 128, 128)."""
    moments = [vae.encode(batch.to(DEVICE)).latent_dist for batch in images.split(32)]
    latents = torch.cat([moment.mean for moment in moments])
    decoded = torch.cat([vae.decode(batch).sample.cpu() for batch in latents.split(32)])
    return torch.cat([moment.sample() for moment in moments]).std().item(), decoded.clamp(-1, 1)


def mean_psnr(images, targets):
    """Peak signal-to-noise ratio in dB of pictures (N, 3, H, W) in [-1, 1], mean over the pictures."""
    return (-10 * ((images - targets) / 2).square().mean((1, 2, 3)).log10()).mean().item()


def to_pil(image):
    return Image.fromarray(((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def main():
    parser = training_parser(__doc__, trains="vae/", scenes=20000, batch_size=4, lr=1e-3)
    parser.add_argument("--kl_weight", type=number(0), default=1e-4, help="of the divergence, per latent element")
    args = parser.parse_args()

    vae = AutoencoderKL.from_pretrained(args.model_dir, subfolder="vae", torch_dtype=torch.float32).to(DEVICE)

    def loss_of(images):
        images = images.to(DEVICE)
        posterior = vae.encode(images).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        return reconstruction_loss(decoded.float(), images) + args.kl_weight * divergence

    steps = args.scenes // args.batch_size
    batches = fresh_batches(partial(painting, "train", args.seed), args.batch_size, steps, args.num_workers)
    train("vae", {"vae": vae}, batches, loss_of, steps, args.lr, args.output_dir, args.seed, args.bf16)

    # The latents get unit variance by the scaling factor, as Stable Diffusion's 0.18215 does
    images = torch.stack([painting("val", args.seed, index) for index in range(HELD_OUT)])
    deviation, decoded = latent_statistics(vae, images)
    vae.register_to_config(scaling_factor=1 / deviation)
    save_part(vae, args.model_dir, "vae")
    pairs = [to_pil(image) for pair in zip(images[:16], decoded[:16], strict=True) for image in pair]
    make_image_grid(pairs, 4, 8).save(Path(args.output_dir) / "vae.png")
    psnr = mean_psnr(decoded, images)
    print(f"vae: PSNR {psnr:.1f} dB on held-out scenes, scaling factor {1 / deviation:.4f}; see vae.png")


if __name__ == "__main__":
    run(main)
