"""MACSPipeline: sound in, picture out. Stable Diffusion's pipeline with what comes before it: separation and CLAP."""

import inspect

import torch
from diffusers import StableDiffusionPipeline

from macs.attention import check_source_masks, check_source_weights
from macs.attribution import MACSPipelineOutput, SourceInfluence, label_probabilities, leave_one_out, resized
from macs.audio import fit_length, to_waveforms
from macs.components import AudioComponents
from macs.film import choose_noise, film_frames, frame_times
from macs.released import open_released
from macs.timeline import listen


class AudioMixin(AudioComponents):
    """An ear for a Stable Diffusion pipeline of diffusers, put before it: class MACSPipeline(AudioMixin, ...).

    From top to bottom: a recording is separated and embedded, embeddings and texts become conditions, `__call__` draws;
    then what can be asked of a recording besides a picture. Its components: `AudioComponents`.
    """

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
        """(B, T) at 16 kHz -> sources (B, M, T), which sum to the mixture; the most significant first.

        With weights that know no quiet mixtures, as the embedded model's, these are raised: `Separator.level`.
        """
        return self.separator(self.separator.level(torch.as_tensor(waveforms, device=self._execution_device)))

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

    def prepare_latents(self, batch_size, channels, height, width, dtype, *args, **kwargs):
        """As in diffusers; the noise is drawn in float32, so that a seed's is the same in every dtype."""
        drawn = super().prepare_latents(batch_size, channels, height, width, torch.float32, *args, **kwargs)
        return drawn.to(dtype) if torch.is_tensor(drawn) else tuple(latents.to(dtype) for latents in drawn)

    _text_embeds = ("prompt_embeds",)  # by what name a call takes what encode_prompt returns

    @torch.no_grad()
    def encode_texts(self, texts, **kwargs):
        """A str or a list of B -> {name: (1 or B, ...)}, arguments of a call in place of `prompt`.

        "negative_" before their names makes them those in place of `negative_prompt`. kwargs: of `encode_prompt`.
        """
        embeds = self.encode_prompt(
            texts, device=self._execution_device, num_images_per_prompt=1, do_classifier_free_guidance=False, **kwargs
        )
        return dict(zip(self._text_embeds, embeds[::2], strict=True))  # every second one is the negative prompt's

    def _encode_prompts(self, texts, given, batch_size, **kwargs):
        """Texts {"": prompts, "negative_": negative prompts} -> arguments of a call, B of each; `given` ones are kept.

        One text is encoded once for B clips.
        """
        embeds = {}
        for branch, prompts in texts.items():
            names = {branch + name: name for name in self._text_embeds}
            if any(given.get(name) is None for name in names):
                encoded = self.encode_texts(prompts, **kwargs)
                embeds |= {branch_name: encoded[name] for branch_name, name in names.items()}
            embeds |= {name: given[name] for name in names if given.get(name) is not None}
        for name, value in embeds.items():
            if value.shape[0] not in (1, batch_size):
                words = "negative prompt" if name.startswith("negative_") else "prompt"
                raise ValueError(f"expected 1 {words} or {batch_size}, one per clip, but got {value.shape[0]}")
        return {name: value.expand(batch_size, *value.shape[1:]) for name, value in embeds.items()}

    @property
    def own_size(self):
        """(height, width) in pixels that are drawn where no other size is asked for."""
        sides = self.unet.config.sample_size
        return tuple(side * self.vae_scale_factor for side in ((sides, sides) if isinstance(sides, int) else sides))

    def _picture_size(self, height=None, width=None, latents=None, **_):
        """(height, width) in pixels that a call with these arguments draws."""
        if latents is not None:
            return tuple(side * self.vae_scale_factor for side in latents.shape[-2:])
        return (height, width) if height and width else self.own_size

    def _prepare_pictures(self, arguments, size, batch_size, num_images_per_prompt):
        """The arguments of a call with what pictures are among them, one per image; see `macs.pipelines`."""
        return arguments

    def _check_call(self, audio, source_embeds, top_sources):
        if (audio is None) == (source_embeds is None):
            raise ValueError("pass either audio or source_embeds")
        if source_embeds is not None and (
            source_embeds.ndim != 3 or not 0 < source_embeds.shape[1] <= self.num_sources
        ):
            raise ValueError(
                f"expected source_embeds of shape (B, {self.num_sources}, D), but got {tuple(source_embeds.shape)}"
            )
        if top_sources is not None and not 1 <= top_sources <= self.num_sources:
            raise ValueError(f"expected top_sources from 1 to {self.num_sources}, but got {top_sources}")
        if not self.adapter.attached(self.unet):
            raise RuntimeError(
                "the UNet's audio attention was removed (unload_ip_adapter and methods of the UNet that set attention "
                "processors do that); pipe.adapter.attach(pipe.unet) puts it back"
            )

    @torch.no_grad()
    def __call__(
        self,
        audio=None,
        prompt="",
        *,
        source_embeds=None,
        audio_scale=1.0,
        source_weights=None,
        source_masks=None,
        top_sources=None,
        output_maps=False,
        num_inference_steps=20,
        guidance_scale=7.5,
        negative_prompt=None,
        prompt_embeds=None,
        negative_prompt_embeds=None,
        num_images_per_prompt=1,
        return_dict=True,
        **kwargs,
    ):
        """Images of what is heard; `.images` holds `num_images_per_prompt` per clip, clip by clip.

        audio: clips, see `prepare_audio`; or source_embeds (B, M, 512) from `encode_audio` (interpolations too).
        prompt, negative_prompt: text beside the sound; one for all clips, or a list of B.
        audio_scale: weight of the audio attention, on top of `set_ip_adapter_scale`; 0 is Stable Diffusion alone.
        source_weights: M numbers >= 0, or (B, M): each multiplies a source's share of the audio attention before it is
        normalised; 1 as heard, 0 leaves the source out.
        source_masks: where each source may draw, (M, H, W) in 0-1 at the picture's size, or {source: box}; see
        `macs.attention.check_source_masks`.
        top_sources: k; only the k most significant sources are attended to.
        output_maps: `.source_maps` (images, M, H, W) float32 then holds what share of the audio attention at each
        place goes to each source, the mean over steps, layers and heads (with guidance: of the guided branch).
        num_inference_steps, guidance_scale, generator and all else: as in `StableDiffusionPipeline`; the defaults are
        the paper's. A list of generators, one per image, makes every image independent of the batch it is in.
        Raises ValueError for arguments of a wrong shape or value, RuntimeError where the audio attention was removed.
        """
        self._check_call(audio, source_embeds, top_sources)
        known = inspect.signature(super().__call__).parameters.keys() | {
            "height",
            "width",
            "callback",
            "callback_steps",
        }
        if unknown := sorted(kwargs.keys() - known):  # diffusers would drop them
            raise TypeError(f"{type(self).__name__} takes no argument {', '.join(unknown)}")
        size = self._picture_size(**kwargs)
        if source_weights is not None and torch.as_tensor(source_weights).ndim < 2:  # before anything is computed
            check_source_weights(source_weights, self.num_sources if source_embeds is None else source_embeds.shape[1])
        if source_embeds is None:
            source_embeds = self.encode_audio(self.prepare_audio(audio))
        batch_size, num_sources = source_embeds.shape[:2]
        kwargs = self._prepare_pictures(kwargs, size, batch_size, num_images_per_prompt)
        heard = top_sources or num_sources
        if source_weights is not None:
            weights = check_source_weights(source_weights, num_sources, batch_size)[:, :heard]
            # all alike change nothing, to the last bit; looked at here, before they are on the device
            source_weights = None if (weights == 1).all() else self._per_image(weights, num_images_per_prompt)
        if source_masks is not None:
            masks = check_source_masks(source_masks, num_sources, *size, batch_size)[:, :heard]
            source_masks = self._per_image(masks, num_images_per_prompt)
        source_embeds = source_embeds[:, :heard]

        guided = guidance_scale > 1 and self.unet.config.time_cond_proj_dim is None
        texts = {"": prompt} | ({"negative_": negative_prompt or ""} if guided else {})
        given = {"prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_prompt_embeds}
        given |= {name: kwargs.pop(name) for name in list(kwargs) if "pooled_prompt_embeds" in name}  # of SDXL
        texts = self._encode_prompts(
            texts, given, batch_size,
            lora_scale=(kwargs.get("cross_attention_kwargs") or {}).get("scale"), clip_skip=kwargs.get("clip_skip"),
        )  # fmt: skip
        latent_size = tuple(side // self.vae_scale_factor for side in size)
        images = batch_size * num_images_per_prompt
        with self.adapter.control.during(
            latent_size, images, audio_scale, source_weights, source_masks, output_maps
        ) as control:
            out = super().__call__(
                **texts,
                ip_adapter_image_embeds=self.audio_condition(source_embeds, guided),
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                num_images_per_prompt=num_images_per_prompt,
                return_dict=False,
                **kwargs,
            )
            maps = resized(control.mean_shares(latent_size), size, num_sources) if output_maps else None
        if not return_dict:
            return (*out, maps) if output_maps else out
        nsfw = out[1] if len(out) > 1 else None  # SDXL looks for none
        return MACSPipelineOutput(images=out[0], nsfw_content_detected=nsfw, source_maps=maps)

    def _per_image(self, values, num_images_per_prompt):
        """(1 or B, ...) per clip -> (1 or images, ...) on the UNet's device."""
        values = values.to(self._execution_device)
        return values if len(values) == 1 else values.repeat_interleave(num_images_per_prompt, dim=0)

    def influence(self, audio=None, prompt="", **kwargs):
        """How much each source changes the drawing: attention is no cause, leaving a source out is.

        Arguments as of a call. At every step the UNet is called once more for each source, at the same latents without
        that source (guided branch only), so a call takes about 1 + M / 2 times as long with guidance, 1 + M without.
        Returns a SourceInfluence: the images, a map (images, M, H, W) and a number (images, M) for each source.
        """
        kwargs.pop("return_dict", None)
        with leave_one_out(self.unet, self.adapter.control, self.scheduler) as changes:
            images = self(audio, prompt, **kwargs).images
        maps = changes.total / changes.steps  # (images, k, h, w): the mean squared change
        num_sources = self.num_sources if kwargs.get("source_embeds") is None else kwargs["source_embeds"].shape[1]
        size = self._picture_size(**kwargs)
        numbers = resized(maps.mean((2, 3), keepdim=True), (1, 1), num_sources)[..., 0, 0].sqrt()
        return SourceInfluence(images=images, maps=resized(maps.sqrt(), size, num_sources), numbers=numbers)

    def name_sources(self, audio, labels=None):
        """What each source is, by CLAP: a list of B lists of M dicts {label: probability}, the most probable first.

        audio: clips, see `prepare_audio`. labels: a list of names such as "dog", or a text file with one in a line; by
        default labels.txt in the pipeline's folder (the embedded model's world), else AudioSet's 527.
        """
        return label_probabilities(self, self.encode_audio(self.prepare_audio(audio)), labels)

    def listen(self, path, hop=2.0, **kwargs):
        """A recording of any length -> `macs.timeline.Timeline`, a window every `hop` s; see `macs.timeline.listen`."""
        return listen(self, path, hop, **kwargs)

    def film(self, timeline, fps=8, *, candidates=4, **kwargs):
        """Yields a picture (PIL) for every frame of a film of what `listen` heard; `macs.film.write_film` makes an mp4.

        seed, wander: the noise is one for all frames, or turns into another every `wander` s. candidates: of so many
        noises the one that suits the recording best is held (`macs.film.choose_noise`). batch_size, motion_adapter: see
        `macs.film.film_frames`. All else as of a call. Frames depend on neither the batch nor their neighbours, unless
        a motion adapter joins them.
        """
        times = frame_times(timeline.seconds, fps)
        number = choose_noise(self, timeline, times, candidates=candidates, **kwargs)
        yield from film_frames(self, timeline, times, number=number, **kwargs)


class MACSPipeline(AudioMixin, StableDiffusionPipeline):
    """Images from sound with several sources (Zhou et al., MACS, AAAI 2026).

    A `StableDiffusionPipeline` with an ear, see `AudioMixin`. All its methods work: schedulers, LoRA,
    `save_pretrained`, `push_to_hub`. With a picture to start from, a mask or a ControlNet: `macs.pipelines`.
    """

    @classmethod
    def from_released(cls, sd_path, pt_path, dataset_name, **kwargs):
        """Stable Diffusion with the authors' released weights; see `macs.released.open_released`."""
        return cls(**open_released(sd_path, pt_path, dataset_name, **kwargs))
