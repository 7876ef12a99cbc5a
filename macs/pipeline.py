"""MACSPipeline: sound in, picture out. Stable Diffusion's pipeline with what comes before it: separation and CLAP."""

import torch
from diffusers import StableDiffusionPipeline

# from_pretrained loads components only of modules that are imported already
import macs.adapter
import macs.clap
import macs.separator  # noqa: F401
from macs.audio import fit_length, to_waveforms
from macs.released import open_released


class MACSPipeline(StableDiffusionPipeline):
    """Images from sound with several sources (Zhou et al., MACS, AAAI 2026).

    A `StableDiffusionPipeline` with three components more: `separator` (mixture -> M signals), `clap` (signals ->
    embeddings) and `adapter` (embeddings -> tokens and their keys and values in the UNet, an IP-Adapter). All its
    methods work: schedulers, LoRA, `save_pretrained`, `push_to_hub`. Other pipelines hear too:
    `StableDiffusionImg2ImgPipeline.from_pipe(pipe)` with `ip_adapter_image_embeds=pipe.audio_condition(embeddings)`.

    `clap_tokenizer` is needed for text embeddings only (training the separator).
    """

    # Small beside the UNet, and CLAP is not called by its forward, which offloading hooks into. The adapter's layers
    # move with the UNet they sit in.
    _exclude_from_cpu_offload = ["separator", "clap", "adapter", "safety_checker"]
    _optional_components = ["clap_tokenizer", "safety_checker", "feature_extractor", "image_encoder"]

    def __init__(
        self,
        vae,
        text_encoder,
        tokenizer,
        unet,
        scheduler,
        separator,
        clap,
        adapter,
        clap_tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    ):
        super().__init__(
            vae, text_encoder, tokenizer, unet, scheduler, safety_checker, feature_extractor, image_encoder,
            requires_safety_checker,
        )  # fmt: skip
        self.register_modules(separator=separator, clap=clap, adapter=adapter, clap_tokenizer=clap_tokenizer)
        adapter.attach(unet)
        self._keep_audio_in_float32()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """As in diffusers, in float32 if no dtype is given (transformers alone would take that of the files)."""
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", torch.float32)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_released(cls, sd_path, pt_path, dataset_name, **kwargs):
        """Stable Diffusion with the authors' released weights; see `macs.released.open_released`."""
        return cls(**open_released(sd_path, pt_path, dataset_name, **kwargs))

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

    @property
    def num_sources(self):
        """M, the number of signals the separator makes."""
        return self.separator.config.num_sources

    def prepare_audio(self, audio):
        """Clips -> waveforms (B, T) at 16 kHz, T the separator's length (8 s).

        audio: one clip or a list of them: paths, arrays or tensors at 16 kHz, (rate, samples), {"array",
        "sampling_rate"}; see `macs.audio.to_waveforms`. Raises AudioError, a ValueError.
        """
        return to_waveforms(audio, self.separator.config.num_samples).to(self._execution_device)

    @torch.no_grad()
    def separate(self, waveforms):
        """(B, T) at 16 kHz -> sources (B, M, T), which sum to the mixture; the most significant first."""
        return self.separator(torch.as_tensor(waveforms, device=self._execution_device))

    @torch.no_grad()
    def encode_sources(self, sources):
        """Separated signals (B, M, T) at 16 kHz -> embeddings (B, M, 512), unit norm; all in one batch."""
        return self.clap.encode_audio(sources.flatten(0, 1)).unflatten(0, sources.shape[:2])

    def encode_audio(self, waveforms):
        """(B, T) at 16 kHz -> embeddings of the M sources, (B, M, 512), unit norm. Pass them as `source_embeds`."""
        return self.encode_sources(
            self.separate(fit_length(torch.as_tensor(waveforms), self.separator.config.num_samples))
        )

    def audio_condition(self, source_embeds, do_classifier_free_guidance=True):
        """Embeddings (B, k, 512) -> `ip_adapter_image_embeds`: a list with one tensor ([2]B, 1, k, 512).

        With guidance the first half is zeros, the «no sound» that training drops embeddings to.
        """
        embeds = source_embeds[:, None].to(self._execution_device, self.unet.dtype)
        return [torch.cat([torch.zeros_like(embeds), embeds]) if do_classifier_free_guidance else embeds]

    def prepare_ip_adapter_image_embeds(
        self, ip_adapter_image, ip_adapter_image_embeds, device, num_images_per_prompt, do_classifier_free_guidance
    ):
        """Repeats every clip's embeddings for its images, clip by clip.

        The stock method takes them for one image's and repeats all of them for the whole batch, which mixes the clips
        (diffusers issue 9813). Here, as in `__call__`, num_images_per_prompt counts the images of the whole batch.
        """
        if ip_adapter_image_embeds is None:
            return super().prepare_ip_adapter_image_embeds(
                ip_adapter_image, None, device, num_images_per_prompt, do_classifier_free_guidance
            )
        branches = 2 if do_classifier_free_guidance else 1
        return [
            embeds.to(device).repeat_interleave(num_images_per_prompt * branches // embeds.shape[0], dim=0)
            for embeds in ip_adapter_image_embeds
        ]

    @torch.no_grad()
    def __call__(
        self,
        audio=None,
        prompt="",
        *,
        source_embeds=None,
        audio_scale=1.0,
        source_weights=None,
        top_sources=None,
        num_inference_steps=20,
        guidance_scale=7.5,
        negative_prompt=None,
        prompt_embeds=None,
        negative_prompt_embeds=None,
        num_images_per_prompt=1,
        **kwargs,
    ):
        """Images of what is heard; `.images` holds `num_images_per_prompt` per clip, clip by clip.

        audio: clips, see `prepare_audio`; or source_embeds (B, M, 512) from `encode_audio` (interpolations too).
        prompt, negative_prompt: text beside the sound; one for all clips, or a list of B.
        audio_scale: weight of the audio attention; 0 is Stable Diffusion without sound.
        source_weights: M numbers; each scales a source's embedding, 1 as heard, 0 silences it.
        top_sources: k; only the k most significant sources are attended to.
        num_inference_steps, guidance_scale, generator and all else: as in `StableDiffusionPipeline`; the defaults are
        the paper's. A list of generators, one per image, makes every image independent of the batch it is in.
        """
        if (audio is None) == (source_embeds is None):
            raise ValueError("pass either audio or source_embeds")
        if source_embeds is None:
            source_embeds = self.encode_audio(self.prepare_audio(audio))
        if source_embeds.ndim != 3 or not 0 < source_embeds.shape[1] <= self.num_sources:
            raise ValueError(
                f"expected source_embeds of shape (B, {self.num_sources}, D), but got {tuple(source_embeds.shape)}"
            )
        if source_weights is not None:
            weights = torch.as_tensor(source_weights, dtype=source_embeds.dtype, device=source_embeds.device)
            if weights.shape != (source_embeds.shape[1],):
                raise ValueError(
                    f"expected {source_embeds.shape[1]} source_weights, one per source, but got {tuple(weights.shape)}"
                )
            source_embeds = source_embeds * weights[:, None]
        if top_sources is not None:
            if not 1 <= top_sources <= self.num_sources:
                raise ValueError(f"expected top_sources from 1 to {self.num_sources}, but got {top_sources}")
            source_embeds = source_embeds[:, :top_sources]
        batch_size = source_embeds.shape[0]
        guided = guidance_scale > 1 and self.unet.config.time_cond_proj_dim is None

        # Text: one prompt is encoded once, whatever the number of clips
        if prompt_embeds is None:
            if isinstance(prompt, list) and isinstance(negative_prompt, str):
                negative_prompt = [negative_prompt] * len(prompt)
            prompt_embeds, negative_prompt_embeds = self.encode_prompt(
                prompt,
                self._execution_device,
                1,
                guided,
                negative_prompt,
                negative_prompt_embeds=negative_prompt_embeds,
                lora_scale=(kwargs.get("cross_attention_kwargs") or {}).get("scale"),
                clip_skip=kwargs.get("clip_skip"),
            )
        if prompt_embeds.shape[0] not in (1, batch_size):
            raise ValueError(f"expected 1 prompt or {batch_size}, one per clip, but got {prompt_embeds.shape[0]}")
        prompt_embeds = prompt_embeds.expand(batch_size, -1, -1)
        if negative_prompt_embeds is not None:
            negative_prompt_embeds = negative_prompt_embeds.expand(batch_size, -1, -1)

        self.set_ip_adapter_scale(audio_scale)
        try:
            return super().__call__(
                prompt_embeds=prompt_embeds,
                negative_prompt_embeds=negative_prompt_embeds if guided else None,
                ip_adapter_image_embeds=self.audio_condition(source_embeds, guided),
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                num_images_per_prompt=num_images_per_prompt,
                **kwargs,
            )
        finally:
            self.set_ip_adapter_scale(1.0)
