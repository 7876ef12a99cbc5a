"""What the page does: hears a recording, draws it, tells which source drew a place. Knows nothing of Gradio.

A visitor's `Heard` keeps the separation and the embeddings, so that a slider costs a picture and no more.
"""

import contextvars
import queue
import shlex
import threading
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from macs.attribution import clap_tokenizer, default_labels, encode_labels, name_probabilities
from macs.audio import SAMPLE_RATE, SILENCE, AudioError, duration, fit_length, loudest_start, read_audio
from macs.noise import noise_seed

MAX_SECONDS = 600  # longest recording that the page takes
PEAKS = 600  # columns of the waveform to choose a part on


def allowed_duration(path):
    """The length of a recording in seconds. Raises AudioError for more than MAX_SECONDS."""
    seconds = duration(path)
    if seconds > MAX_SECONDS:
        raise AudioError(f"{path}: {seconds / 60:.0f} minutes; this page takes {MAX_SECONDS // 60} at most")
    return seconds


class Stopped(Exception):
    """A drawing was given up: its visitor wants another, or none."""


class Shared:
    """What is never changed, so that sessions of the page share it where Gradio would copy it for each."""

    def __deepcopy__(self, memo):
        return self


@dataclass(frozen=True)
class Heard(Shared):
    """A recording and what was separated from it, on the CPU.

    name: of the file. path: as a command line would have it. start, seconds: where the part heard begins, and the
    length of the whole. mixture (T,), sources (M, T), embeds (1, M, D), names: M pairs (name, probability), or None.
    peaks: PEAKS numbers in 0-1, the outline of the whole recording.
    """

    name: str
    path: str
    start: float
    seconds: float
    mixture: torch.Tensor
    sources: torch.Tensor
    embeds: torch.Tensor
    names: list | None
    peaks: list


@dataclass(frozen=True)
class Settings:
    """Of a picture. weights: one for each source, () for 1 each. height, width: pixels, 0 for the model's own."""

    weights: tuple = ()
    prompt: str = ""
    negative_prompt: str = ""
    seed: int = 0
    steps: int = 20
    guidance_scale: float = 7.5
    height: int = 0
    width: int = 0


@dataclass(frozen=True)
class Drawn(Shared):
    """A picture, the source maps (M, H, W) of its attention, and the settings it was drawn by."""

    image: Image.Image
    maps: torch.Tensor
    settings: Settings


@dataclass
class Studio:
    """A pipeline and what visitors ask of it, one at a time. sd_path, pt_path, dataset_name: as of inference.py.

    threads: of the processor, for the model. All of torch's work is done in one thread: once a second one has helpers
    of its own, OpenMP lets all of them sleep after each operation, and a picture takes half as long again.
    """

    pipe: object
    sd_path: str
    pt_path: str = ""
    dataset_name: str = "LLP"
    threads: int = 0

    def __post_init__(self):
        self.threads = self.threads or torch.get_num_threads()
        self.tasks = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()  # a drawing does not hold up the end of the program
        self.run(self._prepare)

    def _work(self):
        torch.set_num_threads(self.threads)
        while True:
            future, context, function, arguments = self.tasks.get()
            try:
                future.set_result(context.run(function, *arguments))
            except BaseException as error:
                future.set_exception(error)

    def run(self, function, *arguments):
        """function(*arguments) in the model's thread, when those before are done. Not to be called from there."""
        future = Future()
        self.tasks.put((future, contextvars.copy_context(), function, arguments))
        return future.result()

    def _prepare(self):
        self.pipe.set_progress_bar_config(disable=True)
        try:
            labels = default_labels(self.pipe)
            self.labels = encode_labels(self.pipe.clap, clap_tokenizer(self.pipe), labels)
        except ValueError:  # no tokenizer to be had: the sources go without names
            self.labels = None

    def hear(self, path, start=None, shown_path=None):
        """Reads, separates, embeds and names a recording -> Heard. start: of the part in seconds, None for the loudest.

        Raises AudioError, in words for the visitor, who knows the file by its name and not by where it lies.
        """
        return self.run(self._hear, Path(path), start, shown_path)

    def _hear(self, path, start, shown_path):
        try:
            seconds = allowed_duration(path)
            num_samples = self.pipe.separator.config.num_samples
            length = num_samples / SAMPLE_RATE
            whole = read_audio(path)
            if start is None:
                start = loudest_start(path, length)
            start = min(max(0.0, start), max(0.0, seconds - length))
            mixture = fit_length(read_audio(path, start, length), num_samples)
        except (AudioError, OSError) as error:
            raise AudioError(str(error).replace(str(path), path.name)) from None
        if mixture.abs().max() < SILENCE:
            raise AudioError(f"{path.name}: silence; there is nothing to draw in these seconds")
        mixture = self.pipe.separator.level(mixture)
        sources = self.pipe.separate(mixture[None])
        embeds = self.pipe.encode_sources(sources)
        names = None
        if self.labels:
            clips = name_probabilities(self.pipe.clap, embeds, *self.labels)
            names = [next(iter(source.items())) for source in clips[0]]
        shown_path = shown_path or path.name
        embeds, sources = embeds.cpu(), sources[0].cpu()
        return Heard(path.name, shown_path, start, seconds, mixture, sources, embeds, names, peaks(whole))

    def draw(self, heard, settings, on_step=lambda step, steps: None):
        """The picture of a Heard by Settings -> Drawn. on_step(done, steps): called every step; may raise Stopped."""
        return self.run(self._draw, heard, settings, on_step)

    def _draw(self, heard, settings, on_step):
        def callback(pipe, step, timestep, tensors):
            on_step(step + 1, settings.steps)
            return tensors

        on_step(0, settings.steps)
        out = self.pipe(
            source_embeds=heard.embeds.to(self.pipe._execution_device),
            prompt=settings.prompt,
            negative_prompt=settings.negative_prompt,
            source_weights=list(settings.weights) or None,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            height=settings.height or None,
            width=settings.width or None,
            generator=torch.Generator().manual_seed(clip_seed(heard, settings)),
            output_maps=True,
            callback_on_step_end=callback,
        )
        return Drawn(out.images[0], out.source_maps[0].half().cpu(), settings)

    def sizes(self):
        """Sizes to choose from, {"width × height": (height, width)}: the model's own, and half as much again a side."""
        height, width = self.pipe._picture_size()
        pairs = [(h, w) for h in (height, height * 3 // 2) for w in (width, width * 3 // 2)]
        return {f"{w} × {h}": (h, w) for h, w in pairs}

    def command_line(self, heard, settings):
        """The command that draws the same picture with inference.py."""
        words = ["python", "inference.py", "--audio", heard.path]
        words += ["--clip_start", f"{heard.start:.2f}".rstrip("0").rstrip(".")] if heard.start else []
        if self.sd_path != "asset/macs-tiny":
            words += ["--sd_path", self.sd_path]
        if self.pt_path:
            words += ["--pt_path", self.pt_path, "--dataset_name", self.dataset_name]
        words += ["--prompt", settings.prompt] if settings.prompt else []
        words += ["--negative_prompt", settings.negative_prompt] if settings.negative_prompt else []
        if any(weight != 1 for weight in settings.weights):
            words += ["--source_weights", *(f"{weight:g}" for weight in settings.weights)]
        words += ["--steps", str(settings.steps), "--guidance_scale", f"{settings.guidance_scale:g}"]
        words += ["--size", str(settings.height), str(settings.width)] if settings.height else []
        return shlex.join([*words, "--seed", str(settings.seed), "--save_maps"])

    def python_code(self, heard, settings):
        """The Python that draws the same picture."""
        opened = f"MACSPipeline.from_pretrained({self.sd_path!r})"
        module = "macs"
        if self.pt_path:
            module = "macs.loading"
            opened = f"load_pipeline({self.sd_path!r}, {self.pt_path!r}, {self.dataset_name!r})"
        arguments = {
            "source_weights": [float(f"{weight:g}") for weight in settings.weights],
            "prompt": settings.prompt,
            "negative_prompt": settings.negative_prompt,
            "num_inference_steps": settings.steps,
            "guidance_scale": settings.guidance_scale,
        }
        if all(weight == 1 for weight in settings.weights):
            del arguments["source_weights"]
        if settings.height:
            arguments |= {"height": settings.height, "width": settings.width}
        lines = [f"    {name}={value!r}," for name, value in arguments.items() if value != ""]
        return "\n".join([
            "import torch",
            f"from {module} import {opened.split('(')[0].split('.')[0]}",
            "from macs.audio import load_clip",
            "",
            f"pipe = {opened}",
            f"clip = load_clip({heard.path!r}, start={heard.start:.2f})",
            "drawn = pipe(",
            "    clip,",
            *lines,
            f"    generator=torch.Generator().manual_seed({clip_seed(heard, settings)}),",
            "    output_maps=True,",
            ")",
            "drawn.images[0], drawn.source_maps[0]  # the picture; (M, height, width)",
        ])  # fmt: skip


def clip_seed(heard, settings):
    """The seed of the noise: inference.py's for image 0 of this clip, so that its command draws the same."""
    return noise_seed(settings.seed, Path(heard.name).stem, 0)


def peaks(waveform):
    """The outline of (T,): PEAKS numbers in 0-1, the largest amplitude in each part."""
    size = -(-len(waveform) // PEAKS)
    parts = torch.nn.functional.pad(waveform.abs(), (0, size * PEAKS - len(waveform))).view(PEAKS, size).amax(1)
    return (parts / parts.max().clamp(min=1e-9)).tolist()


def energy_shares(sources):
    """The share of each of the signals (M, T) in their energy."""
    energy = sources.square().sum(-1)
    return (energy / energy.sum().clamp(min=1e-12)).tolist()


def ranked(maps, x, y):
    """Which sources drew a place: [(source, share of the attention there, that over its mean)], the most first.

    maps (M, H, W). x, y: the place in shares of the picture's width and height. Ranked by the last number: some sources
    are attended to everywhere, so what tells places apart is where one has more than elsewhere.
    """
    maps = maps.numpy()
    height, width = maps.shape[1:]
    column, row = (min(max(int(value * size), 0), size - 1) for value, size in ((x, width), (y, height)))
    radius = max(1, height // 32)
    window = maps[:, max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1]
    shares, means = (part.mean((1, 2), dtype=np.float32) for part in (window, maps))
    lift = shares / means.clip(min=1e-6) * (means > 1e-6)
    return [(i, float(shares[i]), float(lift[i])) for i in np.argsort(-lift, kind="stable").tolist()]


def mixed_weights(levels, muted, solo, num_sources):
    """Sliders, mute and solo buttons -> the weights: a solo silences all that have none, mute wins over solo."""
    levels = [min(max(float(level), 0.0), 4.0) for level in levels]
    if not (len(levels) == len(muted) == len(solo) == num_sources):
        raise ValueError(f"expected {num_sources} levels, mutes and solos")
    return tuple(
        0.0 if mute or (any(solo) and not alone) else level
        for level, mute, alone in zip(levels, muted, solo, strict=True)
    )


def settings_from(**values):
    """Settings from what a form holds, which may be empty or out of range where it was edited by hand."""
    checked = Settings(**values)
    return replace(
        checked,
        prompt=(checked.prompt or "")[:500],
        negative_prompt=(checked.negative_prompt or "")[:500],
        seed=min(max(int(checked.seed or 0), 0), 2**31 - 1),
        steps=min(max(int(checked.steps or 20), 1), 100),
        guidance_scale=min(max(float(checked.guidance_scale or 0), 0.0), 30.0),
    )
