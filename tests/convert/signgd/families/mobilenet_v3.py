"""MobileNetV3-Small (Howard et al., 2019), at half its width."""

from torch import nn

from tests.convert.signgd.families.layers import Gate, convolution

# Kernel, channels inside, channels out, gate, activation, stride; channels at full width.
BLOCKS = (
    (3, 16, 16, True, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 2),
    (3, 88, 24, False, nn.ReLU, 1),
    (5, 96, 40, True, nn.Hardswish, 2),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 120, 48, True, nn.Hardswish, 1),
    (5, 144, 48, True, nn.Hardswish, 1),
    (5, 288, 96, True, nn.Hardswish, 2),
    (5, 576, 96, True, nn.Hardswish, 1),
    (5, 576, 96, True, nn.Hardswish, 1),
)


class Inverted(nn.Module):
    def __init__(self, inner, size, inside, outer, gated, activation, stride):
        super().__init__()
        layers = [convolution(inner, inside, activation=activation)] if inside != inner else []
        layers.append(convolution(inside, inside, size, stride, inside, activation))
        layers += [Gate(inside, max(4, inside // 4))] if gated else []
        self.inner = nn.Sequential(*layers, convolution(inside, outer, activation=None))
        self.residual = stride == 1 and inner == outer

    def forward(self, x):
        return x + self.inner(x) if self.residual else self.inner(x)


def mobilenet_v3():
    layers, inner = [convolution(3, 8, 3, 2, activation=nn.Hardswish)], 8
    for size, inside, outer, *settings in BLOCKS:
        layers.append(Inverted(inner, size, inside // 2, outer // 2, *settings))
        inner = outer // 2
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(288, 64), nn.Hardswish()]
    last = convolution(inner, 288, activation=nn.Hardswish)
    return nn.Sequential(*layers, last, *head, nn.Dropout(), nn.Linear(64, 10))
