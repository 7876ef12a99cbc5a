"""MACSXLPipeline: sound in, picture out, by Stable Diffusion XL."""

from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.schedulers import KarrasDiffusionSchedulers
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerBase,
)

from macs.adapter import AudioAdapter
from macs.clap import ClapEncoder
from macs.pipeline import AudioMixin
from macs.separator import Separator


class MACSXLPipeline(AudioMixin, StableDiffusionXLPipeline):
    """A `StableDiffusionXLPipeline` with an ear: arguments of a call as `MACSPipeline`'s, and SDXL's own beside them.

    The negative prompt is by default the empty text, as in training, and not the zeros that SDXL alone would take:
    guidance then goes from no sound to sound. Both text encoders get `prompt` (no `prompt_2`). Half precision needs a
    VAE that bears it, or its upcasting, as in diffusers.
    """

    _optional_components = [*StableDiffusionXLPipeline._optional_components, "clap_tokenizer"]
    _exclude_from_cpu_offload = ["separator", "clap", "adapter"]
    _text_embeds = ("prompt_embeds", "pooled_prompt_embeds")

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        tokenizer_2: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: KarrasDiffusionSchedulers,
        separator: Separator,
        clap: ClapEncoder,
        adapter: AudioAdapter,
        clap_tokenizer: PreTrainedTokenizerBase = None,
        image_encoder: CLIPVisionModelWithProjection = None,
        feature_extractor: CLIPImageProcessor = None,
        force_zeros_for_empty_prompt: bool = True,
        add_watermarker: bool | None = None,
    ):
        StableDiffusionXLPipeline.__init__(
            self, vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, unet, scheduler, image_encoder,
            feature_extractor, force_zeros_for_empty_prompt, add_watermarker,
        )  # fmt: skip
        self._register_audio(separator, clap, adapter, clap_tokenizer)
