"""Spiking networks that differ in where they normalise."""

from __future__ import annotations

import torch
from torch import nn

from tests.matrix.model import currents, images, lif, spiking
from tests.matrix.models.forwards import TWO, Two
from tests.matrix.models.layers import FOLDED, Convolutions


def warmed(norm: nn.Module) -> nn.Module:
    """A batch norm as training leaves it."""
    with torch.no_grad():
        norm.running_mean.uniform_(-0.5, 0.5)
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-0.5, 0.5)
    return norm


@spiking(
    "A batch norm behind a convolution.",
    images,
    decays={"a.layers.0.0": 0.5, "b.layers.0": 0.0},
    time=FOLDED,
    real=("a.layers.0.0",),
    multiplies=("a.layers.0.1",),
    folds=("a.layers.0.1",),
)
def norm_behind() -> nn.Module:
    return Convolutions(
        nn.Sequential(nn.Conv2d(2, 4, 3), warmed(nn.BatchNorm2d(4))), nn.Conv2d(4, 3, 2)
    )


@spiking(
    "A batch norm in front of a convolution.",
    images,
    decays={"a.layers.0": 0.5, "b.layers.0.1": 0.0},
    time=FOLDED,
    real=("a.layers.0", "b.layers.0.1"),
    multiplies=("b.layers.0.0", "b.layers.0.1"),
    folds=("b.layers.0.0",),
    refused={"to_nir": "b.layers.0.0 (BatchNorm2d)"},
)
def norm_in_front() -> nn.Module:
    return Convolutions(
        nn.Conv2d(2, 4, 3), nn.Sequential(warmed(nn.BatchNorm2d(4)), nn.Conv2d(4, 3, 2))
    )


@spiking(
    "A batch norm in front of a padded convolution, whose zeros it must not move.",
    images,
    decays={"a.layers.0": 0.5, "b.layers.0.1": 0.0},
    time=FOLDED,
    real=("a.layers.0", "b.layers.0.1"),
    multiplies=("b.layers.0.0", "b.layers.0.1"),
    refused={"to_nir": "b.layers.0.0 (BatchNorm2d)"},
)
def norm_in_front_of_padding() -> nn.Module:
    padded = nn.Conv2d(4, 3, 2, padding=1)
    return Convolutions(nn.Conv2d(2, 4, 3), nn.Sequential(warmed(nn.BatchNorm2d(4)), padded))


@spiking(
    "One batch norm behind a layer that also feeds another.",
    currents,
    decays=TWO,
    time={"a": "folded"},
    real=("a",),
    multiplies=("norm",),
    folds=("norm",),
    refused={"to_nir": "norm (BatchNorm1d)"},
)
class NormOfOneBranch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(4, 5), warmed(nn.BatchNorm1d(5))
        self.one, self.two, self.b = lif(), lif(), nn.Linear(5, 3)

    def forward(self, x):
        y = self.a(x.flatten(0, 1))
        normed = self.norm(y).unflatten(0, x.shape[:2])
        return self.b(self.one(normed) + self.two(y.unflatten(0, x.shape[:2])))


@spiking(
    "A batch norm called twice, behind two layers.",
    currents,
    decays={"a": 0.5, "b": 0.5, "c": 0.0},
    time={"a": "folded", "b": "folded"},
    real=("a", "b"),
    multiplies=("norm", "b"),
    refused={"to_nir": "norm (BatchNorm1d)"},
)
class SharedNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(4, 5), nn.Linear(4, 5), warmed(nn.BatchNorm1d(5))
        self.spike, self.c = lif(), nn.Linear(5, 3)

    def forward(self, x):
        flat = x.flatten(0, 1)
        y = self.norm(self.a(flat)) + self.norm(self.b(flat))
        return self.c(self.spike(y.unflatten(0, x.shape[:2])))


@spiking(
    "A layer norm in front of a neuron.",
    currents,
    decays=TWO,
    real=("a",),
    multiplies=("norm",),
    refused={"to_nir": "norm (LayerNorm)"},
)
class LayerNormInFront(Two):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(5)

    def forward(self, x):
        return self.b(self.spike(self.norm(self.a(x))))


def normed(norm: nn.Module) -> nn.Module:
    return Convolutions(nn.Sequential(nn.Conv2d(2, 4, 3), norm), nn.Conv2d(4, 3, 2))


BEHIND = {
    "decays": {"a.layers.0.0": 0.5, "b.layers.0": 0.0},
    "time": FOLDED,
    "real": ("a.layers.0.0",),
    "multiplies": ("a.layers.0.1",),
    "folds": ("a.layers.0.1",),
}


@spiking("A batch norm whose gains are negative.", images, **BEHIND)
def negative_gains() -> nn.Module:
    norm = warmed(nn.BatchNorm2d(4))
    nn.init.uniform_(norm.weight, -2, -0.5)
    return normed(norm)


@spiking("A batch norm with a gain of 0, as pruning leaves it.", images, **BEHIND)
def a_gain_of_zero() -> nn.Module:
    norm = warmed(nn.BatchNorm2d(4))
    with torch.no_grad():
        norm.weight[1] = 0
    return normed(norm)


@spiking("A batch norm without gains and shifts of its own.", images, **BEHIND)
def no_gains() -> nn.Module:
    norm = nn.BatchNorm2d(4, affine=False)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return normed(norm)


@spiking(
    "A batch norm that normalises by the batch at hand in evaluation mode too.",
    images,
    real=BEHIND["real"],
    multiplies=BEHIND["multiplies"],
    refused={
        "calibrate, prune": "layer 'a.layers.0.0'",
        "to_nir": "a.layers.0.1 (BatchNorm2d)",
        "SignGD": "a.layers.0.1 (BatchNorm2d)",
    },
)
def no_statistics() -> nn.Module:
    return normed(nn.BatchNorm2d(4, track_running_stats=False))


@spiking(
    "A batch norm, an average pool, and a linear layer behind them.",
    images,
    decays={"a.layers.0": 0.5, "b.layers.0.3": 0.0},
    time=FOLDED,
    real=("a.layers.0", "b.layers.0.3"),
    multiplies=("b.layers.0.0", "b.layers.0.1", "b.layers.0.3"),
    folds=("b.layers.0.0",),
    refused={"to_nir": "b.layers.0.0 (BatchNorm2d)"},
)
def norm_and_pool() -> nn.Module:
    tail = nn.Sequential(warmed(nn.BatchNorm2d(4)), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    return Convolutions(nn.Conv2d(2, 4, 3, padding=1), tail)
