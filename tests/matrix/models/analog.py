"""Networks without neurons: what LAS and signGD convert."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.matrix.model import analog

N = 16


def features() -> Tensor:
    return torch.randn(N, 6)


def pictures() -> Tensor:
    return torch.randn(N, 2, 6, 6)


def tokens() -> Tensor:
    return torch.randn(N, 3, 8)


class MLP(nn.Module):
    """Two layers around an activation; what most networks here derive from."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.b = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)

    def forward(self, x):
        return self.b(self.act(self.a(x)))


@analog(
    "Linear, ReLU, Linear: the case to compare the others with.",
    features,
    layers=("a", "b"),
    multiplies=("b",),
)
class PlainMLP(MLP):
    pass


@analog(
    "Activations as functions and as methods, one of them in place.",
    features,
    layers=("a", "b"),
    multiplies=("(model)", "b"),
    time={"": "none", "a": "repeated"},
)
class FunctionalActivations(MLP):
    def forward(self, x):
        y = F.gelu(self.a(x))
        return self.b(y + self.a(x).relu_())


@analog(
    "Residual sums in place.",
    features,
    layers=("a", "b"),
    multiplies=("b",),
    time={"": "none", "a": "repeated"},
)
class InPlaceSums(MLP):
    def forward(self, x):
        y = self.act(self.a(x))
        y += self.a(x)
        y *= 0.5
        return self.b(y)


@analog(
    "One block serves three times.",
    tokens,
    layers=("block.0",),
    multiplies=("block.0", "block.1"),
    time={"": "none", "block.0": "repeated"},
    refused={"to_nir": "block.0 (Linear)"},
)
class SharedBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(8, 8), nn.GELU())

    def forward(self, x):
        for _ in range(3):
            x = x + self.block(x)
        return x


@analog(
    "Convolutions, batch norm, ReLU and a max pool.",
    pictures,
    layers=("conv", "head"),
    multiplies=("norm", "head"),
    folds=("norm",),
    refused={
        "to_nir": "conv (Conv2d)",
    },
)
class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(36, 4)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x):
        return self.head(self.pool(F.relu(self.norm(self.conv(x)))).flatten(1))


@analog(
    "A batch norm behind a concatenation, as in a DenseNet.",
    pictures,
    layers=("a", "b"),
    multiplies=("norm", "b"),
    refused={
        "to_nir": "a (Conv2d)",
    },
)
class DenseNetBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.norm, self.act = nn.BatchNorm2d(6), nn.ReLU()
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x):
        return self.b(self.act(self.norm(torch.cat([x, self.a(x)], 1))))


@analog(
    "Squeeze and excite: a gate of its own multiplies each channel.",
    pictures,
    layers=("conv", "gate", "head"),
    multiplies=("(model)", "gate", "head"),
    refused={
        "to_nir": "conv (Conv2d)",
    },
)
class SqueezeAndExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.head = nn.Conv2d(2, 4, 3), nn.Linear(4, 4), nn.Conv2d(4, 3, 1)

    def forward(self, x):
        y = F.relu(self.conv(x))
        gate = torch.sigmoid(self.gate(y.mean((2, 3))))
        return self.head(y * gate[..., None, None])


@analog(
    "Depthwise and pointwise convolutions with hard functions.",
    pictures,
    layers=("wide", "deep", "narrow"),
    multiplies=("(model)", "deep", "narrow"),
    refused={
        "to_nir": "wide (Conv2d)",
    },
)
class MobileBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.deep = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, groups=6)
        self.narrow = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.narrow(F.relu6(self.deep(F.hardswish(self.wide(x)))))


@analog(
    "Transposed convolutions and tanh, as in a generator.",
    pictures,
    layers=("0", "2"),
    multiplies=("1", "2", "3"),
    refused={
        "to_nir": "0 (ConvTranspose2d)",
    },
)
def generator() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(2, 4, 2, 2), nn.LeakyReLU(0.2), nn.ConvTranspose2d(4, 1, 3), nn.Tanh()
    )


@analog(
    "Average, adaptive and strided pools, then a bilinear interpolation.",
    pictures,
    layers=("a", "b"),
    multiplies=("(model)", "b"),
    refused={
        "to_nir": "a (Conv2d)",
    },
)
class PoolsAndScales(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        y = F.adaptive_avg_pool2d(F.avg_pool2d(F.relu(self.a(x)), 2), 2)
        return self.b(F.interpolate(y, scale_factor=2, mode="bilinear"))


@analog(
    "A group norm between convolutions.",
    pictures,
    layers=("0", "3"),
    multiplies=("1", "2", "3"),
    refused={
        "to_nir": "0 (Conv2d)",
    },
)
def group_normed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 2, 1))
