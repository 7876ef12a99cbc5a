"""What Stable Diffusion XL is told beside the text's tokens: the pooled text and the picture's size and crop."""

import torch
from diffusers import StableDiffusionXLPipeline
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


def text_encoders(sd_path, device):
    """-> the function of a list of B str -> {"prompt_embeds": (B, 77, D), "pooled_prompt_embeds": (B, P)}.

    By diffusers' own way: the last but one layers of both encoders of the folder sd_path, and the pooled text of the
    second.
    """
    encoders = [
        model.from_pretrained(sd_path, subfolder=name, dtype=torch.float32).requires_grad_(False).to(device)
        for name, model in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection))
    ]
    tokenizers = [CLIPTokenizer.from_pretrained(sd_path, subfolder=name) for name in ("tokenizer", "tokenizer_2")]
    pipe = StableDiffusionXLPipeline(None, *encoders, *tokenizers, None, None, add_watermarker=False)

    def encode(prompts):
        embeds, _, pooled, _ = pipe.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    return encode


def added_conditions(latents, pooled, latent_scale=8):
    """Latents (B, C, h, w), pooled text (1, P) -> the UNet's {"text_embeds": (B, P), "time_ids": (B, 6)}.

    time_ids: the picture's original size, its crop's upper left corner, its size (Podell et al., 2023, section 2.2).
    A training picture counts as one that had its bucket's size from the start, which is what inference asks for.
    """
    height, width = (latent_scale * side for side in latents.shape[2:])
    ids = torch.tensor([height, width, 0, 0, height, width], dtype=latents.dtype)
    return {
        "text_embeds": pooled.to(latents.device, latents.dtype).expand(len(latents), -1),
        "time_ids": ids.to(latents.device).expand(len(latents), -1),
    }
