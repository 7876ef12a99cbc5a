"""Pipelines that start from pictures and hear: img2img, inpainting, ControlNet. All take MACSPipeline's arguments too.

    edit = MACSImg2ImgPipeline.from_pipe(pipe)  # the models are shared
    edit("rain.wav", image=picture, strength=0.6).images

Pictures are PIL images, arrays (H, W, C) or tensors (C, H, W) as in diffusers, one for all clips or a list of B. Images
come clip by clip and do not depend on the batch they are in, given a list of generators.
"""

import contextlib

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    MultiControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerBase,
)

from macs.adapter import AudioAdapter
from macs.clap import ClapEncoder
from macs.pipeline import AudioMixin
from macs.separator import Separator


def picture_list(name, pictures):
    """One picture or several, in any of diffusers' forms -> a list of single ones. ValueError for what is none."""
    pictures = pictures if isinstance(pictures, (list, tuple)) else [pictures]
    singles = []
    for picture in pictures:
        if not isinstance(picture, (Image.Image, np.ndarray, torch.Tensor)):
            raise ValueError(
                f"{name}: expected PIL pictures, arrays or tensors, one or a list, but got {type(picture).__name__}"
            )
        singles += list(picture) if getattr(picture, "ndim", 0) == 4 else [picture]
    return singles


def side_lengths(picture):
    """(height, width) of one picture."""
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    return tuple(picture.shape[-2:] if isinstance(picture, torch.Tensor) else picture.shape[:2])


class _PictureMixin(AudioMixin):
    """The pictures of a call: as many as clips, all of one size, and repeated for the images of a clip."""

    _pictures = ("image",)  # arguments that the stock pipeline wants once for every image

    def _picture_size(self, image=None, height=None, width=None, **_):
        """(height, width) in pixels that a call draws: the first picture's, down to a multiple of 8, unless given."""
        first = picture_list("image", image)[0]
        sides = [height or side_lengths(first)[0], width or side_lengths(first)[1]]
        return tuple(side - side % self.vae_scale_factor for side in sides)

    def _prepare_pictures(self, arguments, size, batch_size, num_images_per_prompt):
        arguments = dict(arguments)
        for name in self._pictures:
            pictures = picture_list(name, arguments.get(name))
            if len(pictures) not in (1, batch_size):
                raise ValueError(f"{name}: expected 1 picture or {batch_size}, one per clip, but got {len(pictures)}")
            found = {side_lengths(picture) for picture in pictures}
            if len(found) > 1 and not (arguments.get("height") and arguments.get("width")):
                raise ValueError(f"{name}: expected pictures of one size, or height and width, but got {sorted(found)}")
            pictures = pictures * (batch_size // len(pictures))
            arguments[name] = [picture for picture in pictures for _ in range(num_images_per_prompt)]
        return arguments

    def _encode_vae_image(self, image, generator):
        """As in diffusers, the noise of the encoding drawn in float32: a seed's is the same in every dtype.

        image (B, 3, H, W) -> latents (B, C, h, w) in float32.
        """
        posterior = self.vae.encode(image.to(self.vae.dtype)).latent_dist
        noise = randn_tensor(posterior.mean.shape, generator=generator, device=image.device, dtype=torch.float32)
        return self.vae.config.scaling_factor * (posterior.mean + posterior.std * noise)


class MACSImg2ImgPipeline(_PictureMixin, StableDiffusionImg2ImgPipeline):
    """Pictures changed by sound: `image`, `strength` (0 to 1) as in StableDiffusionImg2ImgPipeline, the rest as in
    MACSPipeline. height, width: what the pictures are resized to; by default they keep their size."""

    def _prepare_pictures(self, arguments, size, batch_size, num_images_per_prompt):
        arguments = super()._prepare_pictures(arguments, size, batch_size, num_images_per_prompt)
        if arguments.pop("height", None) or arguments.pop("width", None):
            arguments["image"] = [self._resized(picture, *size) for picture in arguments["image"]]
        arguments.pop("width", None)
        return arguments

    def _resized(self, picture, height, width):
        if isinstance(picture, Image.Image):
            return self.image_processor.resize(picture, height, width)
        if isinstance(picture, np.ndarray):
            picture = self.image_processor.numpy_to_pt(picture[None])[0]
        return self.image_processor.resize(picture[None], height, width)[0]

    def get_timesteps(self, num_inference_steps, strength, device):
        """As in diffusers; ValueError where none are left."""
        timesteps, left = super().get_timesteps(num_inference_steps, strength, device)
        if left < 1:
            raise ValueError(f"strength {strength} of {num_inference_steps} steps leaves none; give more of either")
        return timesteps, left

    def prepare_latents(self, image, timestep, batch_size, num_images_per_prompt, dtype, device, generator=None):
        """As in diffusers; noise drawn in float32."""
        image = image.to(device)
        latents = image if image.shape[1] == 4 else self._encode_vae_image(image, generator)
        noise = randn_tensor(latents.shape, generator=generator, device=device, dtype=torch.float32)
        return self.scheduler.add_noise(latents, noise, timestep).to(dtype)


class MACSInpaintPipeline(_PictureMixin, StableDiffusionInpaintPipeline):
    """The white part of `mask_image` drawn anew by sound, into `image`; all else as in StableDiffusionInpaintPipeline
    and MACSPipeline. Pictures and masks are resized to height and width, by default the model's. What lies outside of
    the mask comes back through the VAE; `pipe.image_processor.apply_overlay` pastes the original over it."""

    _pictures = ("image", "mask_image")

    def _picture_size(self, height=None, width=None, **_):
        return AudioMixin._picture_size(self, height, width)

    def _prepare_pictures(self, arguments, size, batch_size, num_images_per_prompt):
        arguments = arguments | dict(zip(("height", "width"), size, strict=True))
        if arguments.get("padding_mask_crop") is None:
            return super()._prepare_pictures(arguments, size, batch_size, num_images_per_prompt)
        if batch_size * num_images_per_prompt > 1:
            raise ValueError(
                "padding_mask_crop: expected one clip and one image of it, as each picture has its own crop"
            )
        return arguments

    def prepare_mask_latents(self, mask, masked_image, batch_size, height, width, dtype, *args):
        """As in diffusers; noise drawn in float32."""
        latents = super().prepare_mask_latents(mask, masked_image, batch_size, height, width, torch.float32, *args)
        return tuple(part.to(dtype) for part in latents)

    @contextlib.contextmanager
    def _any_number_of_channels(self):
        # the stock pipeline says 4 where it means as many as the latents have
        config = self.unet.config
        channels = config.in_channels
        if channels == self.vae.config.latent_channels:
            config.in_channels = 4
        try:
            yield
        finally:
            config.in_channels = channels

    def __call__(self, *args, **kwargs):
        """See the class and `MACSPipeline.__call__`."""
        with self._any_number_of_channels():
            return super().__call__(*args, **kwargs)


class MACSControlNetPipeline(_PictureMixin, StableDiffusionControlNetPipeline):
    """Drawn from sound along `image`, the ControlNet's condition; all else as in StableDiffusionControlNetPipeline and
    MACSPipeline: MACSControlNetPipeline.from_pipe(pipe, controlnet=ControlNetModel.from_pretrained(...)). height,
    width: what the pictures are resized to; by default they keep their size."""

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel | list[ControlNetModel] | tuple[ControlNetModel] | MultiControlNetModel,
        scheduler: KarrasDiffusionSchedulers,
        separator: Separator,
        clap: ClapEncoder,
        adapter: AudioAdapter,
        clap_tokenizer: PreTrainedTokenizerBase = None,
        safety_checker: StableDiffusionSafetyChecker = None,
        feature_extractor: CLIPImageProcessor = None,
        image_encoder: CLIPVisionModelWithProjection = None,
        requires_safety_checker: bool = False,
    ):
        StableDiffusionControlNetPipeline.__init__(
            self, vae, text_encoder, tokenizer, unet, controlnet, scheduler, safety_checker, feature_extractor,
            image_encoder, requires_safety_checker,
        )  # fmt: skip
        self._register_audio(separator, clap, adapter, clap_tokenizer)

    def _prepare_pictures(self, arguments, size, batch_size, num_images_per_prompt):
        if not isinstance(self.controlnet, MultiControlNetModel):  # which takes a list for each ControlNet
            arguments = super()._prepare_pictures(arguments, size, batch_size, 1)  # diffusers repeats them itself
        return arguments | dict(zip(("height", "width"), size, strict=True))
