"""VGG with batch norm (Simonyan and Zisserman, 2015), narrow."""

from torch import nn

from tests.convert.signgd.families.layers import convolution

WIDTHS = (8, 16, 32, 64, 64)


def vgg(depths):
    layers, inner = [], 3
    for depth, width in zip(depths, WIDTHS, strict=True):
        for _ in range(depth):
            layers.append(convolution(inner, width, 3))
            inner = width
        layers.append(nn.MaxPool2d(2))
    head = [nn.Linear(inner, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), *head, nn.Dropout(), nn.Linear(64, 10))
