"""Pictures on the way of stage two: fixed clips, what was heard, what was seen, what the generator makes of it."""

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import make_image_grid
from matplotlib.figure import Figure
from PIL import Image

from macs.audio import AudioError
from macs.data.pairs import PairError, find_pairs, read_crop, read_image
from macs.files import write_beside
from macs.plots import draw_spectrogram
from macs.training.accelerator import log_figure


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

    def draw(self, run, vae, unet, adapter, scheduler, texts, seed):
        """OUTPUT_DIR/figures/step_<n>.png: the fixed clips, their frames, their images before the training and now."""
        accelerator, figures, step = run.accelerator, run.output_dir / "figures", run.position.step
        adapter.eval()
        with run.averaged(), accelerator.autocast():  # in every process: where the UNet is sharded all must take part
            images = self.images(vae, unet, scheduler, texts, seed)
        adapter.train()
        if not accelerator.is_main_process:
            return
        if step == 0:
            self.keep_before(images, figures / "before.png")
        else:
            figure = self.figure(images, f"after {step} steps", figures / "before.png")
            log_figure(accelerator, "validation", figure, figures / f"step_{step:06d}.png", step)

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

    def keep_before(self, images, path):
        """Writes the images before the training side by side, for the figures, also those of a resumed training."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_beside(path) as partial:
            make_image_grid(images, 1, len(images)).save(partial, "png")

    def figure(self, images, title, before_path):
        """A row for each clip: spectrogram, true frame, generated image before the training and now."""
        columns = {"now": images}
        if before_path.is_file():
            strip, (height, width) = Image.open(before_path), self.size
            boxes = [(i * width, 0, (i + 1) * width, height) for i in range(len(images))]
            columns = {"before": [strip.crop(box) for box in boxes], **columns}
        figure = Figure(figsize=(5 + 2.5 * len(columns), 2.3 * len(images) + 0.4), layout="constrained")
        figure.suptitle(title, fontsize=9)
        grid = figure.subplots(len(images), 2 + len(columns), squeeze=False)
        for i, (row, (pair, waveform, frame)) in enumerate(zip(grid, self.clips, strict=True)):
            draw_spectrogram(row[0], waveform)
            row[0].set_title(pair.clip_id, fontsize=7)
            row[1].imshow(((frame.permute(1, 2, 0) + 1) / 2).numpy())
            row[1].set_title("true frame", fontsize=7)
            for axes, (name, column) in zip(row[2:], columns.items(), strict=True):
                axes.imshow(column[i])
                axes.set_title(f"generated, {name}", fontsize=7)
            for axes in row:
                axes.axis("off")
        return figure
