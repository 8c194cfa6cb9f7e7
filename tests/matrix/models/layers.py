"""Spiking networks that differ in their layers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from tests.matrix.model import B, T, currents, images, lif, spiking
from tests.matrix.models.forwards import Two

TWO = {"a": 0.5, "b": 0.0}
CONVOLUTIONS = {"a.layers.0": 0.5, "b.layers.0": 0.0}
STEM = ("a.layers.0",)
FOLDED = {"": "folded"}


class OverSteps(nn.Module):
    """Layers of torch over steps folded into the batch."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x.flatten(0, 1)).unflatten(0, x.shape[:2])


@spiking(
    "A weight under weight norm.",
    currents,
    real=("a",),
    multiplies=("b.parametrizations.weight.0",),
    refused={
        "calibrate, prune": "the weight of 'b'",
        "to_nir": "b (ParametrizedLinear)",
    },
)
def weight_norm() -> nn.Module:
    net = Two()
    parametrizations.weight_norm(net.b)
    return net


@spiking(
    "A weight under spectral norm.",
    currents,
    real=("a",),
    multiplies=("b.parametrizations.weight.0",),
    refused={
        "calibrate, prune": "the weight of 'b'",
        "to_nir": "b (ParametrizedLinear)",
    },
)
def spectral_norm() -> nn.Module:
    net = Two()
    parametrizations.spectral_norm(net.b)
    return net


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


@spiking(
    "A weight under a parametrisation of one's own.",
    currents,
    real=("a",),
    refused={
        "calibrate, prune": "the weight of 'b'",
        "to_nir": "b (ParametrizedLinear)",
    },
)
def parametrised() -> nn.Module:
    net = Two()
    parametrize.register_parametrization(net.b, "weight", Doubled())
    return net


@spiking(
    "Each block reads the outputs of all before it.",
    currents,
    decays={"a": 0.5, "b": 0.5, "c": 0.0},
    real=("a",),
    refused={"to_nir": "c (Linear)"},
)
class DenseBlocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(8, 3)
        self.one, self.two = lif(), lif()

    def forward(self, x):
        y = self.one(self.a(x))
        return self.c(torch.cat([y, self.two(self.b(y))], -1))


@spiking(
    "Rates weigh the channels.",
    images,
    decays={"a.layers.0": 0.5, "gate": 0.0, "b": 0.0},
    time={"a.layers.0": "folded"},
    real=("a.layers.0", "gate", "b"),
    multiplies=("(model)", "gate", "b"),
    refused={"to_nir": "SqueezeExcite (SqueezeExcite)"},
)
class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.spike = OverSteps(nn.Conv2d(2, 4, 3, padding=1)), lif()
        self.gate, self.b = nn.Linear(4, 4), nn.Linear(64, 3)

    def forward(self, x):
        y = self.spike(self.a(x))
        gate = torch.sigmoid(self.gate(y.mean((-1, -2))))
        return self.b((y * gate[..., None, None]).flatten(2))


class Convolutions(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.a, self.spike, self.b = OverSteps(first), lif(), OverSteps(second)

    def forward(self, x):
        return self.b(self.spike(self.a(x)))


@spiking("Grouped convolutions.", images, decays=CONVOLUTIONS, time=FOLDED, real=STEM)
def grouped() -> nn.Module:
    return Convolutions(nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(4, 6, 2, groups=2))


@spiking(
    "A depthwise and a pointwise convolution.",
    images,
    decays={"a.layers.0": 0.5, "b.layers.0.0": 0.0, "b.layers.0.1": 0.0},
    time=FOLDED,
    real=("a.layers.0", "b.layers.0.1"),
    multiplies=("b.layers.0.1",),
    warned={"calibrate, prune": "never fired"},
)
def depthwise() -> nn.Module:
    return Convolutions(
        nn.Conv2d(2, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 3, 1))
    )


@spiking(
    "A transposed convolution.",
    images,
    decays=CONVOLUTIONS,
    time=FOLDED,
    real=STEM,
    refused={"to_nir": "b.layers.0 (ConvTranspose2d)"},
)
def transposed() -> nn.Module:
    return Convolutions(nn.Conv2d(2, 4, 3, 2), nn.ConvTranspose2d(4, 3, 2, 2))


@spiking(
    "Dilated, strided, and padded with a reflection.",
    images,
    decays=CONVOLUTIONS,
    time=FOLDED,
    real=STEM,
    refused={"to_nir": "a.layers.0 (Conv2d)"},
)
def odd_convolutions() -> nn.Module:
    reflecting = nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")
    return Convolutions(reflecting, nn.Conv2d(4, 3, 2, stride=2, dilation=2))


@spiking(
    "Max and average pools.",
    images,
    decays={"a.layers.0": 0.5, "b.layers.0.2": 0.0},
    time=FOLDED,
    real=("a.layers.0", "b.layers.0.2"),
    multiplies=("b.layers.0.1", "b.layers.0.2"),
    refused={"to_nir": "b.layers.0.0 (MaxPool2d)"},
)
def pools() -> nn.Module:
    return Convolutions(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Conv2d(4, 3, 1)),
    )


@spiking(
    "Adaptive pools, called as functions.",
    images,
    decays={"a.layers.0": 0.5, "b": 0.0},
    time=FOLDED,
    real=("a.layers.0", "b"),
    multiplies=("(model)", "b"),
    refused={"to_nir": "AdaptivePools (AdaptivePools)"},
)
class AdaptivePools(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.spike, self.b = (
            OverSteps(nn.Conv2d(2, 4, 3, padding=1)),
            lif(),
            nn.Linear(4, 3),
        )

    def forward(self, x):
        y = self.spike(self.a(x)).flatten(0, 1)
        return self.b(F.adaptive_avg_pool2d(y, 1).flatten(1)).unflatten(0, x.shape[:2])


@spiking(
    "Flatten and Unflatten between layers.",
    images,
    decays={"a": 0.5, "b.layers.0": 0.0},
    time={"b.layers.0": "folded"},
    real=("a",),
    refused={"to_nir": "b.layers.0 (Conv2d)"},
)
class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.spike = nn.Linear(32, 16), lif()
        self.flat, self.apart = nn.Flatten(2), nn.Unflatten(2, (4, 2, 2))
        self.b = OverSteps(nn.Conv2d(4, 3, 2))

    def forward(self, x):
        return self.b(self.apart(self.spike(self.a(self.flat(x)))))


@spiking(
    "Takes spikes apart and puts them together in another order.",
    currents,
    decays=TWO,
    real=("a",),
    refused={"to_nir": "b (Linear)"},
)
class Reordered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.spike, self.b = nn.Linear(4, 6), lif(), nn.Linear(6, 3)

    def forward(self, x):
        one, two = self.spike(self.a(x)).chunk(2, -1)
        three, four = two.split([1, 2], -1)
        return self.b(
            torch.cat([torch.stack([one[..., 1], one[..., 0]], -1), four, three, one[..., 2:]], -1)
        )


@spiking(
    "Adds a constant to the current.",
    currents,
    decays=TWO,
    real=("a",),
    refused={"to_nir": "ConstantAdded (ConstantAdded)"},
)
class ConstantAdded(Two):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.linspace(-1, 1, 5))

    def forward(self, x):
        return self.b(self.spike(self.a(x) + self.offset))


@spiking(
    "Pads the spikes with a function.",
    images,
    decays=CONVOLUTIONS,
    time=FOLDED,
    real=STEM,
    refused={"to_nir": "Padded (Padded)"},
)
class Padded(Convolutions):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 3))

    def forward(self, x):
        return self.b(F.pad(self.spike(self.a(x)), (1, 1, 1, 1)))


@spiking(
    "Attention whose queries, keys and values are spikes.",
    lambda: 2 * torch.rand(T, B, 2, 4),
    decays={"q": 0.5, "k": 0.5, "v": 0.5, "out": 0.0},
    real=("q", "k", "v"),
    # Products of spikes by spikes are not followed as whole numbers.
    multiplies=("k", "v", "(model)", "out"),
    synapses=lambda s: (
        2.0 * float(s["fire_q"].sum()),
        T * B * (3 * 2 * 4 * 4.0 + 2 * 2 * 4 + 2 * 4 * 3),
    ),
    refused={"to_nir": "q (Linear)"},
)
class SpikeAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))
        self.fire_q, self.fire_k, self.fire_v = lif(), lif(), lif()
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.fire_q(self.q(x)), self.fire_k(self.k(x)), self.fire_v(self.v(x))
        return self.out(q @ k.transpose(-1, -2) @ v)


@spiking(
    "A mean over the steps at the end.",
    currents,
    decays=TWO,
    real=("a",),
    multiplies=("(model)",),
    readout=lambda y: y.mean(0),
)
class MeanOverSteps(Two):
    def forward(self, x):
        return super().forward(x).mean(0)


@spiking("Dropout, which rests in evaluation mode.", currents, decays=TWO, real=("a",))
class Dropped(Two):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.b(self.drop(self.spike(self.a(x))))
