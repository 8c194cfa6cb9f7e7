"""Spiking networks of neurons of SpikingJelly, snnTorch, Norse, and of frameworks unknown here."""

from __future__ import annotations

import norse.torch as norse
import snntorch
import torch
from spikingjelly.activation_based import layer as sj_layers
from spikingjelly.activation_based import neuron as sj
from torch import nn

import spikeloom
from spikeloom import neurons
from spikeloom.plugins import norse as loom_norse
from spikeloom.plugins import snntorch as loom_snntorch
from spikeloom.plugins import spikingjelly as loom_sj
from tests.matrix.model import currents, images, spiking

TWO = {"a": 0.5, "b": 0.0}
CALLS = {"": "calls"}


class Around(nn.Module):
    """A neuron that takes sequences, between two layers."""

    def __init__(self, spike: nn.Module) -> None:
        super().__init__()
        self.a, self.spike, self.b = nn.Linear(4, 5), spike, nn.Linear(5, 3)

    def forward(self, x):
        return self.b(self.spike(self.a(x)))


@spiking(
    "SpikingJelly's neuron, whole sequences.",
    currents,
    decays=TWO,
    real=("a",),
    multiplies=("spike",),
)
def spikingjelly_sequence() -> nn.Module:
    return Around(sj.LIFNode(step_mode="m"))


@spiking(
    "SpikingJelly's neuron, step by step.",
    currents,
    decays=TWO,
    real=("a",),
    time=CALLS,
    multiplies=("spike",),
)
class SpikingjellySteps(Around):
    def __init__(self) -> None:
        super().__init__(sj.LIFNode())

    def forward(self, x):
        return torch.stack([super(SpikingjellySteps, self).forward(now) for now in x])


@spiking(
    "spikeloom's neuron in SpikingJelly.",
    currents,
    decays=TWO,
    real=("a",),
)
def spikingjelly_loom() -> nn.Module:
    return Around(loom_sj.LIFNode(step_mode="m"))


@spiking(
    "SpikingJelly's convolution and batch norm over sequences.",
    images,
    decays={"0": 0.5, "4": 0.0},
    real=("0",),
    multiplies=("1",),
    folds=("1",),
)
def spikingjelly_layers() -> nn.Module:
    norm = sj_layers.BatchNorm2d(4, step_mode="m")
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return nn.Sequential(
        sj_layers.Conv2d(2, 4, 3, step_mode="m"),
        norm,
        loom_sj.LIFNode(step_mode="m"),
        sj_layers.Flatten(step_mode="m"),
        nn.Linear(16, 3),
    )


class ConstructorOnly(sj.LIFNode):
    def __init__(self) -> None:
        super().__init__(tau=2.0, step_mode="m")


@spiking(
    "A subclass of SpikingJelly's neuron with a constructor only.",
    currents,
    decays=TWO,
    real=("a",),
    multiplies=("spike",),
)
def constructor_subclass() -> nn.Module:
    return Around(ConstructorOnly())


class HalfAsMuch(loom_sj.LIFNode):
    def forward(self, x):
        return 0.5 * super().forward(x)


@spiking(
    "A subclass of a host's neuron with a forward of its own.",
    currents,
    decays=TWO,
    real=("a", "b"),
    multiplies=("b",),
    refused={
        "calibrate, prune": "is a LIFNode with a forward of its own",
        "to_nir": "spike (HalfAsMuch)",
    },
)
def overridden_forward() -> nn.Module:
    return Around(HalfAsMuch(step_mode="m"))


@spiking(
    "snnTorch's neuron in a loop over steps, its state handed on.",
    currents,
    decays=TWO,
    real=("a",),
    time=CALLS,
    single=True,
    refused={"check_mfi": "model: 'b' meets float32 and float64, because the forward of 'spike'"},
)
class SnntorchLoop(nn.Module):
    def __init__(self, leaky=snntorch.Leaky) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)
        self.spike = leaky(beta=0.5, reset_mechanism="zero")

    def forward(self, x):
        state, outputs = self.spike.init_leaky(), []
        for now in x:
            spikes, state = self.spike(self.a(now), state)
            outputs.append(self.b(spikes))
        return torch.stack(outputs)


@spiking(
    "spikeloom's neuron in a loop of snnTorch.",
    currents,
    decays=TWO,
    real=("a",),
    time=CALLS,
    multiplies=("spike",),
)
def snntorch_loom_loop() -> nn.Module:
    return SnntorchLoop(loom_snntorch.Leaky)


@spiking(
    "A whole sequence in one call of snnTorch's neuron.",
    currents,
    decays=TWO,
    real=("a",),
    multiplies=("spike",),
)
class SnntorchSequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)
        self.spike = loom_snntorch.Leaky(beta=0.5, reset_mechanism="zero")

    def forward(self, x):
        return self.b(self.spike.sequence(self.a(x))[0])


@spiking(
    "snnTorch's neuron that keeps its state hidden.",
    currents,
    decays={"net.0": 0.5, "net.2": 0.0},
    real=("net.0",),
    time=CALLS,
    multiplies=("net.1",),
)
class SnntorchHidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        spike = loom_snntorch.Leaky(beta=0.5, reset_mechanism="zero", init_hidden=True)
        self.net = nn.Sequential(nn.Linear(4, 5), spike, nn.Linear(5, 3))

    def forward(self, x):
        return torch.stack([self.net(now) for now in x])


@spiking(
    "Norse's cells in its own container, over steps.",
    currents,
    decays={"net.0": 0.5, "net.2": 0.0},
    real=("net.0",),
    time=CALLS,
    multiplies=("net.1",),
)
class NorseCells(nn.Module):
    def __init__(self, cell=norse.LIFBoxCell) -> None:
        super().__init__()
        p = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0))
        self.net = norse.SequentialState(nn.Linear(4, 5), cell(p), nn.Linear(5, 3))

    def forward(self, x):
        state, outputs = None, []
        for now in x:
            y, state = self.net(now, state)
            outputs.append(y)
        return torch.stack(outputs)


@spiking(
    "spikeloom's neuron in Norse's container, whole sequences.",
    currents,
    decays={"net.0": 0.5, "net.2": 0.0},
    real=("net.0",),
)
class NorseSequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        spike = loom_norse.LIFBox(norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0)))
        self.net = norse.SequentialState(nn.Linear(4, 5), spike, nn.Linear(5, 3))

    def forward(self, x):
        return self.net(x)[0]


@spiking(
    "Spikes return through a layer at the next step; the loop hands the state on.",
    currents,
    decays={"a": 0.5, "back": 0.5, "b": 0.0},
    real=("a",),
    time=CALLS,
    multiplies=("spike",),
)
class RecurrentLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.back, self.b = nn.Linear(4, 5), nn.Linear(5, 5, bias=False), nn.Linear(5, 3)
        self.spike = sj.LIFNode()

    def forward(self, x):
        spikes, outputs = x.new_zeros(x.shape[1], 5), []
        for now in x:
            spikes = self.spike(self.a(now) + self.back(spikes))
            outputs.append(self.b(spikes))
        return torch.stack(outputs)


@spiking(
    "A learned time constant.",
    currents,
    decays=TWO,
    real=("a",),
    multiplies=("spike",),
)
def learned_time_constant() -> nn.Module:
    return Around(sj.ParametricLIFNode(init_tau=2.0, step_mode="m"))


@spiking(
    "Neurons of two frameworks in one network.",
    currents,
    decays={"a": 0.5, "b": 0.5, "c": 0.0},
    real=("a",),
)
class TwoFrameworks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.one, self.two = (
            loom_sj.LIFNode(step_mode="m"),
            loom_norse.LIFBox(norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0))),
        )

    def forward(self, x):
        return self.c(self.two(self.b(self.one(self.a(x))))[0])


class Keeps(nn.Module):
    """The neuron of an unknown framework, which resets its state by a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.neuron, self.state = neurons.LIF(), None

    def forward(self, x):
        y, self.state = spikeloom.run(self.neuron, x, self.state)
        return y

    def reset_states(self) -> None:
        self.state = None


@spiking(
    "A framework unknown here, which resets by reset_states(); the network has run before.",
    currents,
    decays=TWO,
    real=("a",),
    refused={
        "calibrate, prune": "'spike' (Keeps) does not answer",
        "to_nir": "spike (Keeps)",
        "check_mfi": "'spike' (Keeps) begins from",
        "count_energy": "'spike' (Keeps) begins from",
    },
)
def own_reset() -> nn.Module:
    net = Around(Keeps())
    with torch.no_grad():
        net(currents())
    return net


class SamplesFirst(nn.Module):
    """The neuron of an unknown framework that takes samples first, time second."""

    batch_first = True

    def __init__(self) -> None:
        super().__init__()
        self.neuron = neurons.LIF()

    def forward(self, x):
        return spikeloom.run(self.neuron, x.transpose(0, 1))[0].transpose(0, 1)


@spiking(
    "A framework unknown here, whose sequences are [B, T, ...].",
    lambda: currents().transpose(0, 1).contiguous(),
    decays=TWO,
    real=("a",),
    time={"": "second"},
    refused={
        "calibrate, prune": "'spike' (SamplesFirst) does not answer",
        "to_nir": "spike (SamplesFirst)",
    },
)
def samples_first_host() -> nn.Module:
    return Around(SamplesFirst())
