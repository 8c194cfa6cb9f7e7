"""GoogLeNet with batch norm (Szegedy et al., 2015), at an eighth of its width."""

import torch
from torch import nn

from tests.convert.signgd.families.layers import classifier, convolution

# Channels of the four branches at full width, squeezed and out; None halves the picture.
MODULES = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    None,
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    None,
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)


class Inception(nn.Module):
    def __init__(self, inner, one, squeezed3, three, squeezed5, five, pooled):
        super().__init__()
        self.one = convolution(inner, one)
        self.three = nn.Sequential(convolution(inner, squeezed3), convolution(squeezed3, three, 3))
        self.five = nn.Sequential(convolution(inner, squeezed5), convolution(squeezed5, five, 3))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), convolution(inner, pooled))

    def forward(self, x):
        return torch.cat((self.one(x), self.three(x), self.five(x), self.pooled(x)), 1)


def googlenet():
    layers = [convolution(3, 8, 7, 2), convolution(8, 8), convolution(8, 24, 3)]
    inner = 24
    for widths in MODULES:
        if widths is None:
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            continue
        one, squeezed3, three, squeezed5, five, pooled = (width // 8 for width in widths)
        layers.append(Inception(inner, one, squeezed3, three, squeezed5, five, pooled))
        inner = one + three + five + pooled
    return nn.Sequential(*layers, classifier(inner))
