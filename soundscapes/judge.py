"""The judge: which of the soundscapes' classes a picture shows. It measures generated pictures and makes none.

It is trained on painted scenes only (soundscapes/train_judge.py), so what it recognises in a generated picture was
painted well enough to be taken for the real thing.
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn


def _layer(width_in, width_out, stride=1):
    conv = nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(width_out), nn.ReLU(inplace=True)]


class Judge(ModelMixin, ConfigMixin):
    """Multi-label classifier of 128×128 pictures; classes: list of the labels it tells apart.

    Its `features` (B, 16·width) serve a Fréchet distance as Inception's do in FID.
    """

    @register_to_config
    def __init__(self, classes, width=24):
        super().__init__()
        layers = _layer(3, width, 2)
        for factor in (1, 2, 4):  # 64×64 → 8×8
            layers += _layer(factor * width, 2 * factor * width, 2) + _layer(2 * factor * width, 2 * factor * width)
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Linear(16 * width, len(classes))

    def features(self, images):
        """Pictures (B, 3, 128, 128) in [-1, 1] → features (B, 16·width): what is there on the whole, and anywhere."""
        maps = self.convolutions(images)
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)

    def forward(self, images):
        """Pictures (B, 3, 128, 128) in [-1, 1] → logits (B, classes)."""
        return self.head(self.features(images))

    @torch.no_grad()
    def recognise(self, images, threshold=0.5):
        """Pictures (B, 3, 128, 128) in [-1, 1] → the classes seen in each, a list of B lists of labels."""
        seen = self(images).sigmoid() > threshold
        return [[name for name, there in zip(self.config.classes, row, strict=True) if there] for row in seen]
