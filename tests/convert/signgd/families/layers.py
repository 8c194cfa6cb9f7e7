"""What the families share: a convolution with its norm and activation, and a gate for channels."""

from torch import nn


def convolution(
    inner, outer, size=1, stride=1, groups=1, activation=nn.ReLU, padding=None, norm=nn.BatchNorm2d
):
    padding = size // 2 if padding is None else padding
    layer = nn.Conv2d(inner, outer, size, stride, padding, groups=groups, bias=False)
    return nn.Sequential(layer, norm(outer), nn.Identity() if activation is None else activation())


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels, inside):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, inside, 1), nn.Conv2d(inside, channels, 1)

    def forward(self, x):
        pooled = nn.functional.adaptive_avg_pool2d(x, 1)
        return x * nn.functional.hardsigmoid(self.up(self.down(pooled).relu()))


def classifier(channels, classes=10):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
