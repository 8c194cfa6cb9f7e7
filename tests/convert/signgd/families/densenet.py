"""DenseNet-121 (Huang et al., 2017) with a growth of 4 channels instead of 32."""

import torch
from torch import nn

from tests.convert.signgd.families.layers import classifier, convolution

GROWTH = 4


def normed(inner, outer, size):
    """A convolution behind its norm and activation."""
    layer = nn.Conv2d(inner, outer, size, padding=size // 2, bias=False)
    return nn.Sequential(nn.BatchNorm2d(inner), nn.ReLU(), layer)


class Dense(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.squeeze = normed(inner, 4 * GROWTH, 1)
        self.grow = normed(4 * GROWTH, GROWTH, 3)

    def forward(self, x):
        return torch.cat((x, self.grow(self.squeeze(x))), 1)


def densenet(depths=(6, 12, 24, 16)):
    width = 2 * GROWTH
    layers = [convolution(3, width, 7, stride=2), nn.MaxPool2d(3, 2, 1)]
    for block, depth in enumerate(depths):
        if block:
            layers += [normed(width, width // 2, 1), nn.AvgPool2d(2)]
            width //= 2
        layers += [Dense(width + i * GROWTH) for i in range(depth)]
        width += depth * GROWTH
    return nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(), classifier(width))
