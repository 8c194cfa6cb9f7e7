"""The generator of a DCGAN (Radford et al., 2016): 16 numbers become a picture."""

from torch import nn


def generator(widths=(32, 16, 8)):
    layers, inner = [], 16
    for place, width in enumerate(widths):
        stride, padding = (2, 1) if place else (1, 0)
        layer = nn.ConvTranspose2d(inner, width, 4, stride, padding, bias=False)
        layers += [layer, nn.BatchNorm2d(width), nn.ReLU()]
        inner = width
    return nn.Sequential(*layers, nn.ConvTranspose2d(inner, 3, 4, 2, 1), nn.Tanh())
