"""U-Net (Ronneberger et al., 2015) with batch norm, three levels."""

import torch
from torch import nn

from tests.convert.signgd.families.layers import convolution


def twice(inner, outer):
    return nn.Sequential(convolution(inner, outer, 3), convolution(outer, outer, 3))


class UNet(nn.Module):
    def __init__(self, widths=(8, 16, 32)):
        super().__init__()
        inner = (3, *widths[:-1])
        self.down = nn.ModuleList(twice(a, b) for a, b in zip(inner, widths, strict=True))
        pairs = list(zip(widths[1:], widths[:-1], strict=True))[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs)
        self.join = nn.ModuleList(twice(2 * b, b) for _, b in pairs)
        self.head = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x):
        kept = []
        for level in self.down:
            x = level(nn.functional.max_pool2d(x, 2) if kept else x)
            kept.append(x)
        for up, join, passed in zip(self.up, self.join, kept[-2::-1], strict=True):
            x = join(torch.cat((passed, up(x)), 1))
        return self.head(x)
