"""Separator, CLAP and adapter as components of a diffusers pipeline: kept, saved, opened, moved, offloaded with it."""

import contextlib

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.schedulers import KarrasDiffusionSchedulers
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerBase,
)

# from_pretrained loads components only of modules that are imported already
from macs.adapter import AudioAdapter
from macs.attention import AudioAttnProcessor
from macs.clap import ClapEncoder
from macs.hub import class_name, installed_modules, write_loaders
from macs.separator import Separator


class AudioComponents:
    """What a Stable Diffusion pipeline of diffusers needs to hold what hears; `AudioMixin` hears and draws with it.

    Three components more than diffusers' has: `separator` (mixture -> M signals), `clap` (signals -> embeddings) and
    `adapter` (embeddings -> tokens and their keys and values in the UNet, an IP-Adapter). `clap_tokenizer` is needed
    for text embeddings only (training the separator).
    """

    # Small beside the UNet, and CLAP is not called by its forward, which offloading hooks into. The adapter's layers
    # move with the UNet they sit in.
    _exclude_from_cpu_offload = ["separator", "clap", "adapter", "safety_checker"]
    _optional_components = ["clap_tokenizer", "safety_checker", "feature_extractor", "image_encoder"]

    def __init__(
        self,
        vae: AutoencoderKL,  # the types are what `from_pipe` goes by
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
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
        super().__init__(
            vae, text_encoder, tokenizer, unet, scheduler, safety_checker, feature_extractor, image_encoder,
            requires_safety_checker,
        )  # fmt: skip
        self._register_audio(separator, clap, adapter, clap_tokenizer)

    def _register_audio(self, separator, clap, adapter, clap_tokenizer):
        self.register_modules(separator=separator, clap=clap, adapter=adapter, clap_tokenizer=clap_tokenizer)
        adapter.check_prediction(self.scheduler.config)
        if not adapter.attached(self.unet):  # of a pipeline made by `from_pipe` it is, with the scales set there
            adapter.attach(self.unet)
        self._keep_audio_in_float32()
        # DiffusionPipeline.from_pretrained without a dtype leaves it in that of its file, the others in float32
        for encoder in (self.text_encoder, getattr(self, "text_encoder_2", None)):
            if encoder and encoder.dtype != self.unet.dtype and not getattr(encoder, "is_quantized", False):
                encoder.to(self.unet.dtype)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """As in diffusers, in float32 if no dtype is given (transformers alone would take that of the files)."""
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", torch.float32)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    def _keep_audio_in_float32(self):
        # Power spectrograms and mel energies span more than half precision holds; it is 1% of the work.
        torch.nn.Module.to(self.separator, torch.float32)
        torch.nn.Module.to(self.clap, torch.float32)

    def to(self, *args, **kwargs):
        """As in diffusers; the separator and CLAP stay in float32 whatever the dtype."""
        super().to(*args, **kwargs)
        self._keep_audio_in_float32()
        return self

    def save_pretrained(self, save_directory, **kwargs):
        """As in diffusers. The UNet is saved as the stock one, the audio layers with the adapter."""
        with self.adapter.detached(self.unet):
            super().save_pretrained(save_directory, **kwargs)

    def save_config(self, save_directory, **kwargs):
        """As in diffusers; beside it the files by which diffusers alone opens the folder, see `macs.hub`."""
        super().save_config(save_directory, **kwargs)
        write_loaders(save_directory, type(self))

    @classmethod
    def _dict_from_json_file(cls, json_file):
        index = super()._dict_from_json_file(json_file)
        return index | {"_class_name": class_name(index)}  # of this package: not by the file beside it

    @classmethod
    def load_config(cls, *args, **kwargs):
        """As in diffusers; components of this package are taken from it, not by the files in the folder."""
        return installed_modules(super().load_config(*args, **kwargs))

    def enable_sequential_cpu_offload(self, *args, **kwargs):
        """As in diffusers. The adapter's layers are the UNet's too and go with it."""
        adapter = self.adapter
        self.__dict__["adapter"] = None  # for diffusers it would be one more model to move, its weights gone already
        try:
            super().enable_sequential_cpu_offload(*args, **kwargs)
        finally:
            self.__dict__["adapter"] = adapter

    def set_attention_slice(self, slice_size):
        """As in diffusers, for the self-attention; the audio attention, of M keys, has nothing to slice and stays."""
        with self._keeping_audio_attention():
            super().set_attention_slice(slice_size)

    def set_use_memory_efficient_attention_xformers(self, valid, attention_op=None):
        """As in diffusers, for the self-attention; `unet.set_attention_backend("xformers")` reaches the audio too."""
        with self._keeping_audio_attention():
            super().set_use_memory_efficient_attention_xformers(valid, attention_op)

    def fuse_qkv_projections(self, unet=True, vae=True):
        """As in diffusers for the VAE; ValueError for the UNet."""
        if unet:
            raise ValueError(
                "fused projections would replace the UNet's audio attention; pass unet=False for the VAE's"
            )
        super().fuse_qkv_projections(unet=False, vae=vae)

    @contextlib.contextmanager
    def _keeping_audio_attention(self):
        audio = {name: p for name, p in self.unet.attn_processors.items() if isinstance(p, AudioAttnProcessor)}
        yield
        self.unet.set_attn_processor(self.unet.attn_processors | audio)
