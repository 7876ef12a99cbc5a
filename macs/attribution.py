"""Which source drew what, and what each source is: the outputs and the measuring beside a call of the pipeline."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from diffusers.utils import BaseOutput
from transformers import AutoTokenizer

from macs.files import read_text

# Names of the classes of AudioSet (Gemmeke et al. 2017; Google, CC BY 4.0)
AUDIOSET_LABELS = Path(__file__).parent / "data" / "audioset_labels.txt"


@dataclass
class MACSPipelineOutput(StableDiffusionPipelineOutput):
    """images and nsfw_content_detected as in diffusers; source_maps (images, M, H, W) float32 with output_maps."""

    source_maps: torch.Tensor | None = None


@dataclass
class SourceInfluence(BaseOutput):
    """The change of the predicted noise when a source is left out, root mean square over steps and channels.

    images: as of a call. maps: (images, M, H, W) float32, by place. numbers: (images, M) float32, over all places.
    """

    images: list
    maps: torch.Tensor
    numbers: torch.Tensor


def resized(maps, size, num_sources):
    """Maps (B, k, h, w) -> (B, num_sources, *size), bilinear; sources that were not attended to have zeros."""
    maps = F.interpolate(maps, tuple(size), mode="bilinear")
    return F.pad(maps, (0, 0, 0, 0, 0, num_sources - maps.shape[1]))


def noise_per_prediction(scheduler, timestep):
    """By how much the noise that a prediction means changes with the prediction, squared, at the same latents.

    With latents a x + s e of a picture x and noise e, a² the scheduler's alphas_cumprod and s² = 1 - a²: the noise is
    the prediction itself, s latents + a v of a velocity v (Salimans & Ho, 2022), (latents - a x) / s of a picture x.
    """
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind == "epsilon":
        return 1.0
    # schedulers that work with sigmas may ask for times between the training's; an index of no dimension would be read
    index = timestep.round().long().reshape(1)
    squared = scheduler.alphas_cumprod.to(timestep.device).index_select(0, index)
    return squared if kind == "v_prediction" else squared / (1 - squared)


def of_last_rows(kwargs, rows):
    """The keyword arguments of a call of the UNet, for the last `rows` rows of its batch: the guided ones."""
    # SDXL has pooled texts and sizes beside the sound
    added = {k: v[-rows:] for k, v in kwargs["added_cond_kwargs"].items() if k != "image_embeds"}
    added["image_embeds"] = [embeds[-rows:] for embeds in kwargs["added_cond_kwargs"]["image_embeds"]]
    kwargs = kwargs | {"added_cond_kwargs": added}
    for name in ("encoder_hidden_states", "timestep_cond", "mid_block_additional_residual"):
        kwargs[name] = None if kwargs.get(name) is None else kwargs[name][-rows:]
    if kwargs.get("down_block_additional_residuals") is not None:  # of a ControlNet
        kwargs["down_block_additional_residuals"] = [r[-rows:] for r in kwargs["down_block_additional_residuals"]]
    return kwargs


@contextlib.contextmanager
def leave_one_out(unet, control, scheduler):
    """Inside the `with` block every call of the UNet is repeated without each of the sources in turn.

    Yields an object with total (images, M, h, w), the sum over the calls of the squared change of the predicted noise,
    mean over its channels, and steps, the number of calls. scheduler: it says what the UNet predicts. Only the last
    `control.rows` rows of the batch are repeated.
    """
    changes = SimpleNamespace(total=0, steps=0)
    repeating = False

    def repeat(module, args, kwargs, output):
        nonlocal repeating
        if repeating:
            return
        rows = control.rows
        latents, timestep = args[0][-rows:], args[1]
        kwargs = of_last_rows(kwargs, rows)
        num_sources = kwargs["added_cond_kwargs"]["image_embeds"][0].shape[2]
        weights = torch.ones(1, num_sources, device=latents.device) if control.weights is None else control.weights
        squared = []
        repeating = True
        try:
            for source in range(num_sources):
                without = weights.clone()
                without[:, source] = 0
                with control.during(latents.shape[2:], rows, control.scale, without, control.masks):
                    left = module(latents, timestep, **kwargs)[0]
                squared.append((output[0][-rows:].float() - left.float()).square().mean(1))
        finally:
            repeating = False
        changes.total = changes.total + noise_per_prediction(scheduler, timestep) * torch.stack(squared, dim=1)
        changes.steps += 1

    hook = unet.register_forward_hook(repeat, with_kwargs=True)
    try:
        yield changes
    finally:
        hook.remove()


def read_names(labels):
    """A list of names, or the path of a text file with one name in a line -> a list. ValueError where there is none."""
    source = "labels"
    if isinstance(labels, (str, Path)):
        source = labels
        if not Path(labels).is_file():
            raise ValueError(f"labels: expected a list of names or a text file with one in a line, but got {labels!r}")
        labels = read_text(labels).splitlines()
    names = list(dict.fromkeys(name.strip() for name in labels if name.strip()))
    if not names:
        raise ValueError(f"{source}: expected at least one name, such as dog, but there is none")
    return names


def own_labels(folder):
    """The file of names beside a pipeline's weights, labels.txt, which says what they know; None if there is none."""
    own = Path(folder or "") / "labels.txt"
    return own if own.is_file() else None


def default_labels(pipe):
    """The file of names that a pipeline's sources may have: `own_labels`, else AudioSet's 527 classes."""
    return own_labels(pipe.name_or_path) or AUDIOSET_LABELS


def clap_tokenizer(pipe):
    """The pipeline's, or for released weights, which hold none, RoBERTa's (downloaded once). ValueError without it."""
    if pipe.clap_tokenizer is not None:
        return pipe.clap_tokenizer
    try:
        return AutoTokenizer.from_pretrained("roberta-base")
    except (OSError, ValueError) as error:
        raise ValueError(
            "names for the sources need CLAP's tokenizer: this pipeline has none, and roberta-base cannot be had from "
            f"the hub ({type(error).__name__}); pipe.register_modules(clap_tokenizer=...) gives it one"
        ) from error


@torch.no_grad()
def encode_labels(clap, tokenizer, labels):
    """-> names, and their texts' embeddings (N, D): «The sound of <label>» (paper, stage 1). labels: `read_names`."""
    names = read_names(labels)
    texts = [f"The sound of {name}" for name in names]
    return names, torch.cat([clap.encode_text(texts[i : i + 64], tokenizer) for i in range(0, len(texts), 64)])


@torch.no_grad()
def name_probabilities(clap, source_embeds, names, label_embeds):
    """CLAP's zero-shot names: embeddings (B, M, D) -> B lists of M dicts {label: probability}, most probable first.

    names, label_embeds: of `encode_labels`. The temperature is CLAP's own.
    """
    logits = clap.logit_scale_a.exp() * source_embeds.to(label_embeds) @ label_embeds.T
    probabilities, order = logits.softmax(-1).sort(-1, descending=True)
    return [
        [{names[i]: p for i, p in zip(*row, strict=True)} for row in zip(*clip, strict=True)]
        for clip in zip(order.tolist(), probabilities.tolist(), strict=True)
    ]


def label_probabilities(pipe, source_embeds, labels=None):
    """`name_probabilities` by a pipeline's CLAP. labels: see `read_names`; None for `default_labels`."""
    labels = default_labels(pipe) if labels is None else labels
    return name_probabilities(pipe.clap, source_embeds, *encode_labels(pipe.clap, clap_tokenizer(pipe), labels))
