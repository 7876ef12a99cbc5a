"""Sharpens the embedded model's VAE: its decoder alone learns on, python soundscapes/train_decoder.py

The latents keep their meaning, so UNet and adapter go on as they are. The decoder meets latents of painted scenes as
the encoder makes them, and as the UNet makes them: noised, and denoised in one pass, for these it gets in a generated
picture. Beside the reconstruction loss stand a perceptual one, on the judge's features (Johnson et al. 2016), and a
patch discriminator with the hinge loss, weighted as in Esser et al. 2021, eq. 7. Takes MODEL_DIR/vae and puts the
trained one in its place. Resumes when run again.
"""

from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.utils import make_image_grid
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from transformers import CLIPTextModel, CLIPTokenizer

from macs.files import write_beside
from macs.options import number
from macs.script import run
from soundscapes.judge import Judge
from soundscapes.train_vae import HELD_OUT, latent_statistics, mean_psnr, painting, reconstruction_loss, to_pil
from soundscapes.training import DEVICE, fresh_batches, save_part, train, training_parser

MAX_TIMESTEP = 300  # of 1000: the last steps of a sampler, where outlines are settled and detail is not


def patch_discriminator(width=32):
    """Pictures (B, 3, 128, 128) → scores (B, 1, 14, 14) of patches of pixels, positive where painted."""
    layers, channels = [], 3
    for out, stride in ((width, 2), (2 * width, 2), (4 * width, 2), (4 * width, 1)):
        kernel = 4 if stride == 2 else 3
        layers += [spectral_norm(nn.Conv2d(channels, out, kernel, stride, padding=1)), nn.LeakyReLU(0.2)]
        channels = out
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(channels, 1, 3)))


def perceptual_loss(judge, images, targets):
    """L1 between the feature maps of the judge after each of its convolutions' ReLU, mean over layers."""
    losses = []
    for layer in judge.convolutions:
        images, targets = layer(images), layer(targets)
        if isinstance(layer, nn.ReLU):
            losses.append((images - targets.detach()).abs().mean())
    return torch.stack(losses).mean()


def fine_detail(images):
    """Energy of pictures (N, 3, H, W) above a quarter of the sampling rate, in luminance, mean over the pictures."""
    spectrum = torch.fft.fft2(images.mean(1)).abs().square()
    frequencies = torch.fft.fftfreq(images.shape[-1])
    high = (frequencies[:, None].square() + frequencies.square()).sqrt() > 0.25
    return spectrum[:, high].sum(1).mean().item()


def held_out(vae, seed):
    """What the decoder makes of held-out scenes: eight of them "painted" and "decoded"; "psnr" and "detail" of all."""
    images = torch.stack([painting("val", seed, index) for index in range(HELD_OUT)])
    _, decoded = latent_statistics(vae, images)
    detail = fine_detail(decoded) / fine_detail(images)
    return {"painted": images[:8], "decoded": decoded[:8], "psnr": mean_psnr(decoded, images), "detail": detail}


def before_training(vae, seed, output_dir):
    """`held_out` of the decoder that the training began with; kept beside its state, decoder.pt, for a resumed one."""
    path = output_dir / "decoder_before.pt"
    if path.exists() and (output_dir / "decoder.pt").exists():
        return torch.load(path, weights_only=True)
    figures = held_out(vae, seed)
    with write_beside(path) as partial_path:
        torch.save(figures, partial_path)
    return figures


def main():
    parser = training_parser(__doc__, trains="vae/decoder", scenes=8000, batch_size=8, lr=3e-4)
    parser.add_argument("--judge", default="tests/judge", help="folder of the judge whose features lead the decoder")
    parser.add_argument("--perceptual_weight", type=number(0), default=1.0, help="of the loss on these features")
    parser.add_argument("--adversarial_weight", type=number(0), default=0.5, help="of the discriminator's loss")
    args = parser.parse_args()

    vae = AutoencoderKL.from_pretrained(args.model_dir, subfolder="vae", torch_dtype=torch.float32).to(DEVICE)
    unet = UNet2DConditionModel.from_pretrained(args.model_dir, subfolder="unet", torch_dtype=torch.float32)
    unet = unet.to(DEVICE).eval()
    text_encoder = CLIPTextModel.from_pretrained(args.model_dir, subfolder="text_encoder", dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(args.model_dir, subfolder="tokenizer")
    schedule = DDPMScheduler.from_pretrained(args.model_dir, subfolder="scheduler")
    judge = Judge.from_pretrained(args.judge, torch_dtype=torch.float32).to(DEVICE).eval().requires_grad_(False)
    vae.requires_grad_(False)
    decoder = vae.decoder.requires_grad_(True)
    torch.manual_seed(args.seed)
    discriminator = patch_discriminator()
    no_text = tokenizer("", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        no_text = text_encoder(no_text).last_hidden_state.to(DEVICE)
    alphas = schedule.alphas_cumprod.to(DEVICE)

    @torch.no_grad()
    def latents_of(images):
        """(B, 3, 128, 128) → latents (B, 8, 16, 16): half of them the encoder's, half as the UNet's."""
        latents = vae.encode(images).latent_dist.sample()
        half = len(images) // 2
        if half:
            clean = latents[half:] * vae.config.scaling_factor
            timesteps = torch.randint(MAX_TIMESTEP, (len(clean),), device=DEVICE)
            noise = torch.randn_like(clean)
            noisy = schedule.add_noise(clean, noise, timesteps)
            predicted = unet(noisy, timesteps, no_text.expand(len(clean), -1, -1)).sample
            alpha = alphas[timesteps][:, None, None, None]
            latents[half:] = (noisy - (1 - alpha).sqrt() * predicted) / alpha.sqrt() / vae.config.scaling_factor
        return latents

    def loss_of(images):
        images = images.to(DEVICE)
        decoded = vae.decode(latents_of(images)).sample.float()
        likeness = reconstruction_loss(decoded, images)
        likeness = likeness + args.perceptual_weight * perceptual_loss(judge, decoded, images)
        # The decoder's part leaves the discriminator's weights alone, and the discriminator's part the decoder's, so
        # one optimizer serves both
        frozen = {name: value.detach() for name, value in discriminator.state_dict(keep_vars=True).items()}
        fooled = -functional_call(discriminator, frozen, decoded).mean()
        last = decoder.conv_out.weight
        by_likeness, by_fooled = (
            torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (likeness, fooled)
        )
        weight = (by_likeness / (by_fooled + 1e-4)).clamp(max=1e3)
        told_apart = F.relu(1 - discriminator(images)).mean() + F.relu(1 + discriminator(decoded.detach())).mean()
        return likeness + args.adversarial_weight * weight * fooled + 0.5 * told_apart

    steps = args.scenes // args.batch_size
    batches = fresh_batches(partial(painting, "train", args.seed), args.batch_size, steps, args.num_workers)
    parts = {"decoder": decoder, "discriminator": discriminator}
    before = before_training(vae, args.seed, Path(args.output_dir))
    train("decoder", parts, batches, loss_of, steps, args.lr, args.output_dir, args.seed, args.bf16)

    after = held_out(vae, args.seed)
    save_part(vae, args.model_dir, "vae")
    columns = zip(before["painted"], before["decoded"], after["decoded"], strict=True)
    make_image_grid([to_pil(image) for column in columns for image in column], 8, 3).save(
        Path(args.output_dir) / "decoder.png"
    )
    for name, figures in (("before", before), ("after", after)):
        print(
            f"decoder {name}: PSNR {figures['psnr']:.1f} dB on held-out scenes, fine detail kept "
            f"{figures['detail']:.2f}; see decoder.png"
        )


if __name__ == "__main__":
    run(main)
