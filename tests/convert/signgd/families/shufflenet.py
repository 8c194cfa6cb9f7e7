"""ShuffleNetV2 (Ma et al., 2018), narrow."""

import torch
from torch import nn

from tests.convert.signgd.families.layers import classifier, convolution


class Unit(nn.Module):
    """Half of the channels passes by, or both halves are made smaller; then they are shuffled."""

    def __init__(self, inner, outer, stride):
        super().__init__()
        half = outer // 2
        source = inner if stride == 2 else half
        self.right = nn.Sequential(
            convolution(source, half),
            convolution(half, half, 3, stride, half, activation=None),
            convolution(half, half),
        )
        self.left = None
        if stride == 2:
            depthwise = convolution(inner, inner, 3, 2, inner, activation=None)
            self.left = nn.Sequential(depthwise, convolution(inner, half))

    def forward(self, x):
        left, right = (self.left(x), x) if self.left else x.chunk(2, 1)
        x = torch.cat((left, self.right(right)), 1)
        batch, channels, height, width = x.shape
        grouped = x.view(batch, 2, channels // 2, height, width)
        return grouped.transpose(1, 2).reshape(batch, channels, height, width)


def shufflenet(depths=(4, 8, 4), widths=(16, 32, 64)):
    layers, inner = [convolution(3, 8, 3, 2), nn.MaxPool2d(3, 2, 1)], 8
    for depth, width in zip(depths, widths, strict=True):
        layers += [Unit(width if i else inner, width, 1 if i else 2) for i in range(depth)]
        inner = width
    return nn.Sequential(*layers, convolution(inner, 128), classifier(128))
