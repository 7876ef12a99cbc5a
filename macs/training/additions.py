"""Additions to stage two that the paper does not have; train.py calls them where their options are given."""

import numpy as np
from diffusers import UNet2DConditionModel


def open_teacher(sd_path, dtype, device):
    """A copy of the UNet without sound: the one in training has the adapter in it, or changes itself."""
    teacher = UNet2DConditionModel.from_pretrained(sd_path, subfolder="unet", torch_dtype=dtype)
    return teacher.requires_grad_(False).to(device)


def captions_of(batch, dataset, captions):
    """The captions of a batch's pairs, a list of str."""
    return [captions[dataset.pairs[index].clip_id] for index in batch["index"].tolist()]


def sources_heard(num_sources, dropout, seed, step):
    """How many sources, the most significant first, the images of an optimizer step are given: all M = num_sources.

    In a share `dropout` of the steps 1 to M, each as likely: so that the adapter draws from few of them (`top_sources`)
    as well as from all. Depends on (seed, step) alone, and is the same in all processes.
    """
    rng = np.random.default_rng([seed, step])
    return int(rng.integers(1, num_sources + 1)) if rng.random() < dropout else num_sources
