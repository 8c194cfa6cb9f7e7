"""Spiking networks that differ in how they hold their modules, take inputs, or are run."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.matrix.model import T, currents, lif, spiking
from tests.matrix.models.forwards import TWO, Two


@spiking(
    "Loops over a ModuleList.",
    currents,
    decays={"layers.0": 0.5, "layers.1": 0.5, "layers.2": 0.5},
    real=("layers.0",),
)
class ListLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.spikes = nn.ModuleList(lif() for _ in range(3))

    def forward(self, x):
        for layer, spike in zip(self.layers, self.spikes, strict=True):
            x = spike(layer(x))
        return x


@spiking(
    "Leaves early, once enough has fired.",
    currents,
    decays=TWO,
    real=("a",),
    multiplies=("(model)",),
    branches=True,
    refused={"SignGD": "EarlyExit cannot be captured"},
)
class EarlyExit(Two):
    def forward(self, x):
        spikes = self.spike(self.a(x))
        return self.b(spikes) if spikes.mean() > 0.01 else spikes


@spiking(
    "Folds the steps into the batch for its layers.",
    currents,
    decays=TWO,
    real=("a",),
    time={"": "folded"},
)
class FoldedSteps(Two):
    def forward(self, x):
        y = self.spike(self.a(x.flatten(0, 1)).unflatten(0, x.shape[:2]))
        return self.b(y.flatten(0, 1)).unflatten(0, x.shape[:2])


@spiking(
    "Takes and returns [B, T, ...].",
    lambda: currents().transpose(0, 1),
    decays=TWO,
    real=("a",),
    refused={"to_nir": "a (Linear)"},
)
class BatchFirst(Two):
    def forward(self, x):
        return super().forward(x.transpose(0, 1)).transpose(0, 1)


@spiking(
    "Adds the input's current to what a deeper layer gives.",
    currents,
    decays={"a": 0.5, "b": 0.5, "c": 0.0},
    real=("a",),
)
class ReusedResidual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 5)
        self.one, self.two, self.c = lif(), lif(), nn.Linear(5, 3)

    def forward(self, x):
        y = self.a(x)
        return self.c(self.two(y + self.b(self.one(y))))


@spiking(
    "Adds up the spikes of two layers and keeps the sum for a third.",
    currents,
    decays={"a": 0.5, "b": 0.5, "c": 0.0},
    real=("a",),
)
class SpikeSums(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.one, self.two = lif(), lif()

    def forward(self, x):
        y = self.one(self.a(x))
        return self.c(y + self.two(self.b(y)))


@spiking("Recomputes a part in the backward pass.", currents, decays=TWO, real=("a",))
class Checkpointed(Two):
    def forward(self, x):
        return self.b(checkpoint(self._spikes, x, use_reentrant=False))

    def _spikes(self, x):
        return self.spike(self.a(x))


@spiking(
    "Has a layer compiled by torch.jit.script.",
    currents,
    decays={"a": 0.5},
    refused={
        "check_mfi": "model: 'b' is a ScriptModule, which cannot be watched; give the model",
        "count_energy": "model: 'b' is a ScriptModule, which cannot be watched; give the model",
        "to_nir": "model: its output does not depend on the input through modules and",
        "SignGD": "Two cannot be captured",
    },
)
def scripted() -> nn.Module:
    net = Two()
    net.b = torch.jit.script(net.b)
    return net


@spiking(
    "Has a layer compiled by torch.compile.",
    currents,
    real=("a",),
    refused={
        "calibrate, prune": "model: is compiled, so that its layers cannot be watched; calibrate"
    },
)
def compiled() -> nn.Module:
    net = Two()
    net.b = torch.compile(net.b, backend="eager")
    return net


@spiking(
    "Two layers share one weight.",
    currents,
    real=("a",),
    refused={
        "calibrate, prune": "layers: 'a' and 'b' share one weight; name the layers to compress"
    },
)
class TiedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.one, self.two = lif(), lif()
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.two(self.b(self.one(self.a(x))))


@spiking(
    "Counts its calls in a buffer.",
    currents,
    decays=TWO,
    real=("a",),
    refused={"SignGD": "model: add_ at the forward of BufferInForward writes into a buffer or"},
)
class BufferInForward(Two):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


@spiking(
    "Takes its input by name only.",
    lambda: {"x": currents()},
    decays=TWO,
    real=("a",),
    refused={"to_nir": "sample: must"},
)
class KeywordInput(Two):
    def forward(self, *, x):
        return super().forward(x)


@spiking(
    "Takes two inputs.",
    lambda: (currents(), currents()),
    decays={"a": 0.5, "b": 0.5, "c": 0.0},
    real=("a", "b"),
    multiplies=("b",),
    refused={"to_nir": "sample: must"},
)
class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.spike, self.c = (
            nn.Linear(4, 5),
            nn.Linear(4, 5),
            lif(),
            nn.Linear(5, 3),
        )

    def forward(self, x, y):
        return self.c(self.spike(self.a(x) + self.b(y)))


@spiking(
    "Containers inside containers.",
    currents,
    decays={"parts.body.0.0": 0.5, "parts.head": 0.0},
    real=("parts.body.0.0",),
)
class NestedContainers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        block = nn.Sequential(nn.ModuleDict({"one": nn.Linear(4, 5)})["one"], lif())
        self.parts = nn.ModuleDict({"body": nn.ModuleList([block]), "head": nn.Linear(5, 3)})

    def forward(self, x):
        for part in self.parts["body"]:
            x = part(x)
        return self.parts["head"](x)


@spiking("Runs its first layer without gradients.", currents, decays=TWO, real=("a",))
class NoGradPart(Two):
    def forward(self, x):
        with torch.no_grad():
            y = self.a(x)
        return self.b(self.spike(y))


@spiking(
    "Runs its last layer in bfloat16.",
    currents,
    decays=TWO,
    real=("a",),
    refused={"to_nir": "b (Linear)"},
)
class AutocastPart(Two):
    def forward(self, x):
        spikes = self.spike(self.a(x))
        with torch.autocast("cpu", torch.bfloat16):
            return self.b(spikes)


@spiking(
    "Lazy layers, which took their shapes from the first input.", currents, decays=TWO, real=("a",)
)
def lazy() -> nn.Module:
    net = Two()
    net.a, net.b = nn.LazyLinear(5), nn.LazyLinear(3)
    net(currents())
    return net


@spiking("A deep copy of a network that has run.", currents, decays=TWO, real=("a",))
def deep_copied() -> nn.Module:
    net = Two()
    net(currents())
    return copy.deepcopy(net)


@spiking(
    "A loop over steps in which a stateless neuron is at rest at each of them.",
    currents,
    decays={"a": 0.5, "back": 0.5, "b": 0.0},
    real=("a",),
    time={"": "none"},
    refused={"to_nir": "back (Linear)"},
)
class RestsAtEachStep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.back, self.spike, self.b = (
            nn.Linear(4, 5),
            nn.Linear(5, 5),
            lif(),
            nn.Linear(5, 3),
        )

    def forward(self, x):
        # A stateless neuron in a loop of single steps: each step begins at rest.
        spikes, outputs = x.new_zeros(x.shape[1], 5), []
        for now in x:
            spikes = self.spike((self.a(now) + self.back(spikes))[None])[0]
            outputs.append(self.b(spikes))
        return torch.stack(outputs)


@spiking(
    "The same input current at every step: its first layer runs once.",
    lambda: currents()[0],
    decays=TWO,
    real=("a",),
    time={"a": "constant"},
    refused={"to_nir": "sample: must"},
)
class DirectCoding(Two):
    def forward(self, x):
        return self.b(self.spike(self.a(x).expand(T, -1, -1)))
