"""What stage two trains, as one module, and its loss (paper, stage 2)."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.training_utils import compute_snr
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


class Denoiser(nn.Module):
    """The UNet with the adapter in it. Only what is trained is registered: so DDP, optimizer and checkpoints see it.

    trainable: "adapter", or "unet" (with the adapter, which is part of it once attached). conditions: the function of
    latents that gives what the UNet is told beside text and sound, for SDXL (`macs.training.xl.added_conditions`).
    """

    def __init__(self, unet, adapter, trainable="adapter", conditions=None):
        super().__init__()
        self.conditions = conditions or (lambda latents: {})
        unet.requires_grad_(trainable == "unet").eval()
        adapter.attach(unet)
        adapter.requires_grad_(True).train()  # dropout
        if trainable == "unet":
            self.unet = unet
        else:
            self.adapter, self.frozen = adapter, (unet,)  # a tuple's modules are not registered

    def forward(self, latents, timesteps, source_embeds, prompt_embeds):
        """latents (B, 4, h, w), timesteps (B,), source_embeds (B, M, D), prompt_embeds (1, 77, D') -> as latents."""
        unet = self.unet if hasattr(self, "unet") else self.frozen[0]
        return unet(
            latents,
            timesteps,
            prompt_embeds.expand(len(latents), -1, -1),
            added_cond_kwargs={"image_embeds": [source_embeds[:, None]], **self.conditions(latents)},
            return_dict=False,
        )[0]


def attention_kernel(latents):
    """Context for forward and backward with latents (B, C, h, w): the fastest attention for their size and device.

    A CPU's flash attention is slow at few tokens: by plain products small latents train 1.4 times as fast.
    """
    few = latents.device.type == "cpu" and latents[0, 0].numel() <= 1024
    return sdpa_kernel(SDPBackend.MATH) if few else nullcontext()


def min_snr_weights(noise_scheduler, timesteps, gamma):
    """Weights (B,) of the noise prediction's errors, min(SNR, gamma) / SNR (Hang et al., 2023).

    Without them the fine grain of the least noisy timesteps makes up most of the loss. For v-prediction the same
    weights are min(SNR, gamma) / (SNR + 1).
    """
    snr = compute_snr(noise_scheduler, timesteps)
    return snr.clamp(max=gamma) / (snr + (noise_scheduler.config.prediction_type == "v_prediction"))


def denoising_losses(
    model, noise_scheduler, batch, prompt_embeds, scaling_factor, dtype=torch.float32, snr_gamma=None, teacher=None
):
    """The training loss of each image, (B,): the mean squared error of the predicted noise, or of the velocity.

    batch: moments (B, 2C, h, w), source_embeds (B, k, D), k <= M, and the draws of `macs.data.pairs.Draws`.
    snr_gamma: of `min_snr_weights`, if given. teacher: a stock UNet in dtype; the target is then what it predicts
    for the captions, the batch's caption_embeds (B, 77, D'), in place of the noise: the same direction without the
    noise's chance, from which an adapter learns with fewer images.
    """
    posterior = DiagonalGaussianDistribution(batch["moments"])
    latents = (posterior.mean + posterior.std * batch["posterior_noise"]) * scaling_factor
    noisy = noise_scheduler.add_noise(latents, batch["noise"], batch["timestep"])
    dropped = batch["dropped"][:, None, None]
    source_embeds = batch["source_embeds"] * ~dropped  # no sound is zeros, for guidance
    predicted = model(noisy.to(dtype), batch["timestep"], source_embeds.to(dtype), prompt_embeds.to(dtype))
    if teacher is not None:
        captions = torch.where(dropped, prompt_embeds, batch["caption_embeds"])
        with torch.no_grad():
            target = teacher(noisy.to(dtype), batch["timestep"], captions.to(dtype), return_dict=False)[0].float()
    elif noise_scheduler.config.prediction_type == "v_prediction":
        target = noise_scheduler.get_velocity(latents, batch["noise"], batch["timestep"])
    else:
        target = batch["noise"]
    losses = F.mse_loss(predicted.float(), target, reduction="none").mean(dim=(1, 2, 3))
    if snr_gamma is not None:
        losses = losses * min_snr_weights(noise_scheduler, batch["timestep"], snr_gamma)
    return losses
