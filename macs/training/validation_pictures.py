"""Pictures on the way of stage two: fixed clips, what was heard, what was seen, what the generator makes of it."""

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from matplotlib.figure import Figure

from macs.audio import AudioError
from macs.data.pairs import PairError, find_pairs, read_crop, read_image
from macs.plots import draw_spectrogram


class Validation:
    """Images of always the same clips from always the same noise, beside what was heard and the true frame."""

    def __init__(self, frozen, accelerator, dataset_name, data_sets, num_clips):
        """data_sets: parts of the set; the clips are the first num_clips of the first part that is there."""
        for data_set in data_sets:
            try:
                pairs, _ = find_pairs(frozen.data_dir, dataset_name, data_set)
                break
            except PairError:
                pairs = []
        self.size, self.clips = frozen.sizes[0], []
        first_frames = {pair.clip_id: pair for pair in reversed(pairs)}
        for pair in reversed(first_frames.values()):
            if len(self.clips) == num_clips:
                break
            try:
                waveform = read_crop(pair.audio, 0, frozen.num_crops, frozen.num_samples)
                self.clips.append((pair, waveform, read_image(pair.image, self.size)))
            except (AudioError, PairError, OSError) as error:
                accelerator.print(f"not in the figures: {error}")
        self.source_embeds = frozen.first_crops(accelerator, [pair.audio for pair, _, _ in self.clips])

    @torch.no_grad()
    def images(self, vae, unet, scheduler, texts, seed):
        """One image per clip, by the settings of inference.sh. texts: `FrozenModels.prompt_embeds`."""
        scheduler = DPMSolverMultistepScheduler.from_config(scheduler.config)
        if "pooled_prompt_embeds" in texts:
            pipe = StableDiffusionXLPipeline(vae, None, None, None, None, unet, scheduler, add_watermarker=False)
        else:
            pipe = StableDiffusionPipeline(vae, None, None, unet, scheduler, None, None, requires_safety_checker=False)
        texts = {name: value.to(unet.device, unet.dtype) for name, value in texts.items()}
        texts |= {f"negative_{name}": value for name, value in texts.items()}
        pipe.set_progress_bar_config(disable=True)
        images = []
        for number, embeds in enumerate(self.source_embeds):  # one by one: see MACSPipeline
            embeds = embeds[None, None].to(unet.device, unet.dtype)
            images += pipe(
                **texts,
                ip_adapter_image_embeds=[torch.cat([torch.zeros_like(embeds), embeds])],
                num_inference_steps=20,
                guidance_scale=7.5,
                height=self.size[0],
                width=self.size[1],
                generator=torch.Generator().manual_seed(seed + number),
            ).images
        return images

    def figure(self, images, title):
        """A row for each clip: spectrogram, true frame, generated image."""
        figure = Figure(figsize=(7.5, 2.3 * len(images) + 0.4), layout="constrained")
        figure.suptitle(title, fontsize=9)
        grid = figure.subplots(len(images), 3, squeeze=False)
        for row, (pair, waveform, frame), image in zip(grid, self.clips, images, strict=True):
            draw_spectrogram(row[0], waveform)
            row[0].set_title(pair.clip_id, fontsize=7)
            row[1].imshow(((frame.permute(1, 2, 0) + 1) / 2).numpy())
            row[1].set_title("true frame", fontsize=7)
            row[2].imshow(image)
            row[2].set_title("generated", fontsize=7)
            for axes in row:
                axes.axis("off")
        return figure
