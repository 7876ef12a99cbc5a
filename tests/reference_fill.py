"""The weight fill and the wave of the reference numbers (tests/reference): weights by a formula, so none are stored."""

import numpy as np
import torch


def fill_values(name, shape, index):
    """Value of state dict entry number `index` (names sorted), float32; None where it stays as initialised."""
    if not shape:
        return None
    k = np.arange(int(np.prod(shape)), dtype=np.float64)
    b = np.sin(0.37 * k + 0.11 * (k % 17) * (k % 29) + index).astype(np.float32)
    if name.endswith("running_var"):
        b = 1 + 0.5 * b * b
    elif name.endswith("running_mean"):
        b = 0.1 * b
    elif len(shape) == 1:
        b = 1 + 0.1 * b if name.endswith("weight") else 0.1 * b
    else:
        b = 1.4 * b / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(b.astype(np.float32)).reshape(shape)


KEPT = ("num_batches_tracked", "relative_position_index", "position_ids", "token_type_ids", "window", "kernel", "melW",
        "attn_mask", "conv_real.weight", "conv_imag.weight", "tau2", "unperm")  # fmt: skip


def filled(shapes, start=0):
    """{name: shape} -> {name: filled tensor}, without the entries that are left as initialised."""
    state_dict = {}
    for index, name in enumerate(sorted(shapes), start):
        if not name.endswith(KEPT):
            value = fill_values(name, shapes[name], index)
            if value is not None:
                state_dict[name] = value
    return state_dict


def wave(n, seed, sample_rate):
    """A decaying tone and gated noise, (n,) float32."""
    t = np.arange(n) / sample_rate
    y = 0.3 * np.sin(2 * np.pi * (220 * seed + 110) * t) * np.exp(-3 * (t % 1))
    y = y + 0.1 * np.random.RandomState(seed).randn(n) * (np.sin(2 * np.pi * 0.5 * t + seed) > 0)
    return torch.from_numpy(y.astype(np.float32))
