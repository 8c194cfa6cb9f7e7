"""Spiking networks that differ in how their forward is written."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.matrix.model import B, T, currents, lif, spiking

TWO = {"a": 0.5, "b": 0.0}
FIRST = {"a": 0.5}


class Two(nn.Module):
    """The layers that most networks here share: Linear, neuron, Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.spike, self.b = nn.Linear(4, 5), lif(), nn.Linear(5, 3)

    def forward(self, x: Tensor):
        return self.b(self.spike(self.a(x)))


@spiking(
    "Nothing particular: the case to compare the others with.", currents, decays=TWO, real=("a",)
)
class Plain(Two):
    pass


@spiking(
    "One layer serves at two depths.",
    currents,
    decays=TWO,
    synapses=lambda s: (float(4 * s["one"].sum() + 3 * s["two"].sum()), T * B * 16.0),
    refused={"to_nir": "a (Linear)"},
    warned={"calibrate, prune": "'a' is used 2 times"},
)
class SharedLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.one, self.two, self.b = nn.Linear(4, 4), lif(), lif(), nn.Linear(4, 3)

    def forward(self, x):
        return self.b(self.two(self.a(self.one(self.a(x)))))


@spiking(
    "One stateless neuron serves two layers.",
    currents,
    decays={"a": 0.5, "b": 0.5, "c": 0.0},
    real=("a",),
    refused={"to_nir": "spike (SpikingLayer)"},
)
class SharedNeuron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.spike = lif()

    def forward(self, x):
        return self.c(self.spike(self.b(self.spike(self.a(x)))))


@spiking(
    "A branch is called twice, on the input and on its mirror image.",
    currents,
    decays=TWO,
    real=("a",),
    refused={"to_nir": "a (Linear)"},
)
class CalledTwice(Two):
    def forward(self, x):
        return super().forward(x) + super().forward(x.flip(-1))


@spiking(
    "Adds in place to what a layer returned.",
    currents,
    decays=TWO,
    real=("a",),
    refused={"to_nir": "InPlace (InPlace)"},
)
class InPlace(Two):
    def forward(self, x):
        y = self.a(x)
        y += 0.5
        y.sub_(0.25)
        return self.b(self.spike(y))


@spiking(
    "Writes spikes to views of a fresh tensor.",
    currents,
    decays=TWO,
    real=("a",),
    refused={
        "to_nir": "WrittenViews (WrittenViews)",
        "SignGD": "model: copy_ at the forward of WrittenViews writes into a view of a",
    },
)
class WrittenViews(Two):
    def forward(self, x):
        fired = self.spike(self.a(x))
        spikes = torch.zeros_like(fired)
        spikes[..., :2] = fired[..., 3:]
        spikes[..., 2:].copy_(fired[..., :3])
        return self.b(spikes)


class Bare(nn.Module):
    """Weights that belong to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.spike = nn.Linear(4, 5), lif()
        self.weight, self.bias = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(3))


def three_for_each(spikes):
    return 3.0 * float(spikes["spike"].sum()), T * B * 4 * 5.0


@spiking(
    "Multiplies by a parameter with @.",
    currents,
    decays=FIRST,
    synapses=three_for_each,
    refused={"to_nir": "BareParameter (BareParameter)"},
)
class BareParameter(Bare):
    def forward(self, x):
        return self.spike(self.a(x)) @ self.weight.T + self.bias


@spiking(
    "Calls F.linear with a parameter.",
    currents,
    decays=FIRST,
    synapses=three_for_each,
    refused={"to_nir": "FunctionalLinear (FunctionalLinear)"},
)
class FunctionalLinear(Bare):
    def forward(self, x):
        return F.linear(self.spike(self.a(x)), self.weight, self.bias)


@spiking(
    "Multiplies by a parameter with einsum.",
    currents,
    decays=FIRST,
    synapses=three_for_each,
    refused={"to_nir": "Einsum (Einsum)"},
)
class Einsum(Bare):
    def forward(self, x):
        return torch.einsum("tbi,oi->tbo", self.spike(self.a(x)), self.weight) + self.bias


@spiking(
    "Selects with where: a spike lets a signal pass.",
    currents,
    decays={"a": 0.5, "b": 0.5, "c": 0.0},
    real=("a", "b"),
    multiplies=("b",),
    refused={"to_nir": "spike (SpikingLayer)"},
)
class Where(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.spike, self.c = (
            nn.Linear(4, 5),
            nn.Linear(4, 5),
            lif(),
            nn.Linear(5, 3),
        )

    def forward(self, x):
        gate, value = self.spike(self.a(x)), self.spike(self.b(x))
        return self.c(torch.where(gate > 0, value, 1 - value))


@spiking(
    "A forward hook scales what a layer returns.",
    currents,
    decays=TWO,
    real=("a",),
    multiplies=("a",),
    refused={
        "calibrate, prune": "layer 'a'",
        "to_nir": "Two (Two)",
    },
)
def output_hook() -> nn.Module:
    net = Two()
    net.a.register_forward_hook(lambda _, args, y: 1.5 * y)
    return net


@spiking(
    "A forward pre-hook turns round what a layer reads.",
    currents,
    decays=TWO,
    real=("a",),
    refused={"to_nir": "b (Linear)"},
)
def input_hook() -> nn.Module:
    net = Two()
    net.b.register_forward_pre_hook(lambda _, args: (args[0].flip(-1),))
    return net


@spiking("Returns a dict.", currents, decays=TWO, real=("a",))
class DictOutput(Two):
    def forward(self, x):
        return {"output": super().forward(x)}


@dataclass
class Result:
    output: Tensor


@spiking(
    "Returns a dataclass.",
    currents,
    decays=TWO,
    real=("a",),
    refused={
        "to_nir": "model: must return a tensor, got",
        "SignGD": "DataclassOutput returns a Result",
    },
)
class DataclassOutput(Two):
    def forward(self, x):
        return Result(super().forward(x))


@spiking("Calls its layers by the names of their arguments.", currents, decays=TWO, real=("a",))
class CalledByName(Two):
    def forward(self, x):
        return self.b(input=self.spike(self.a(input=x)))


@spiking("Calls a layer by torch.func.functional_call.", currents, decays=TWO, real=("a",))
class FunctionalCall(Two):
    def forward(self, x):
        weights = dict(self.b.named_parameters())
        return torch.func.functional_call(self.b, weights, (self.spike(self.a(x)),))


class Scaled(nn.Linear):
    def forward(self, x):
        return 1.5 * super().forward(x)


@spiking(
    "A subclass of Linear with a forward of its own.",
    currents,
    real=("a",),
    multiplies=("a",),
    refused={"calibrate, prune": "layer 'a'", "to_nir": "a (Scaled)"},
)
class ScaledLinear(Two):
    def __init__(self) -> None:
        super().__init__()
        self.a = Scaled(4, 5)


@spiking(
    "Adds spikes to a real signal, and a layer reads the sum.",
    currents,
    decays=TWO,
    real=("a", "b"),
    multiplies=("b",),
)
class RealAndSpikes(Two):
    def forward(self, x):
        y = self.a(x)
        return self.b(y + self.spike(y))
