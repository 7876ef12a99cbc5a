"""How a new separator starts (paper, stage 1)."""

import pytest
import torch
from torch import nn

from macs import Separator


def test_it_starts_with_normal_weights_and_biases_of_zero():
    torch.manual_seed(0)
    separator = Separator()
    position = separator.unet.in_conv[1]
    for embedding in (position.row_embed, position.col_embed):
        assert embedding.std().item() == pytest.approx(0.05, rel=0.1)
    kinds = {nn.Conv2d: 0, nn.ConvTranspose2d: 0, nn.Linear: 0}
    for name, module in separator.unet.named_modules():
        if type(module) not in kinds:
            continue
        kinds[type(module)] += 1
        weight = module.weight
        if isinstance(module, nn.Linear):
            expected = (2 / sum(weight.shape)) ** 0.5  # Xavier
        else:
            expected = (2 / (weight.shape[0] * weight[0, 0].numel())) ** 0.5  # Kaiming, fan-out
        if weight.numel() > 5000:  # enough to tell
            assert weight.std().item() == pytest.approx(expected, rel=0.05), name
        assert not module.bias.any(), name
    assert all(kinds.values())
