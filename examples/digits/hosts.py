"""Three frameworks, each with spikeloom's neuron and with its own.

Only the neuron changes. How layers become a network, how it is run over time and how it is put
back to rest stay what the framework's own documentation teaches.
"""

from collections.abc import Callable
from dataclasses import dataclass

import norse.torch as norse
import snntorch
import torch
from snntorch import utils
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

from spikeloom import plugins


@dataclass(frozen=True)
class Way:
    """One way to build and run a network.

    Attributes:
        neuron: Makes one layer of neurons.
        network: Makes a network of layers.
        run: Turns currents ``[T, batch, *]`` into spikes ``[T, batch, *]``, starting at rest.
    """

    neuron: Callable[[], nn.Module]
    network: Callable[..., nn.Module]
    run: Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class Host:
    """A framework, with spikeloom's neuron and with its own."""

    name: str
    ours: Way
    own: Way


# --- SpikingJelly: multi-step mode, and reset_net before every sequence ------------------------

LIF = {"tau": 2.0, "surrogate_function": surrogate.ATan(), "step_mode": "m"}


def run_spikingjelly(net: nn.Module, x: Tensor) -> Tensor:
    functional.reset_net(net)
    return net(x)


SPIKINGJELLY = Host(
    "SpikingJelly",
    ours=Way(lambda: plugins.spikingjelly.LIFNode(**LIF), nn.Sequential, run_spikingjelly),
    own=Way(lambda: neuron.LIFNode(**LIF), nn.Sequential, run_spikingjelly),
)

# --- snnTorch: its own neurons take one step at a time, ours take the whole sequence too ----------

LEAKY = {"beta": 0.5, "reset_mechanism": "zero", "init_hidden": True}


def run_snntorch_sequence(net: nn.Module, x: Tensor) -> Tensor:
    plugins.snntorch.reset(net)
    return net(x)


def run_snntorch_loop(net: nn.Module, x: Tensor) -> Tensor:
    utils.reset(net)
    return torch.stack([net(now) for now in x])


SNNTORCH = Host(
    "snnTorch",
    ours=Way(
        lambda: plugins.snntorch.Leaky(**LEAKY, time_first=True),
        nn.Sequential,
        run_snntorch_sequence,
    ),
    own=Way(lambda: snntorch.Leaky(**LEAKY), nn.Sequential, run_snntorch_loop),
)

# --- Norse: states in and out; its own cells are lifted over time, ours are sequences already -----

LIF_BOX = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0))  # 2 ms, two steps of 1 ms


def run_norse(net: nn.Module, x: Tensor) -> Tensor:
    spikes, _ = net(x)
    return spikes


NORSE = Host(
    "Norse",
    ours=Way(lambda: plugins.norse.LIFBox(LIF_BOX), norse.SequentialState, run_norse),
    own=Way(
        lambda: norse.LIFBoxCell(LIF_BOX),
        lambda *layers: norse.Lift(norse.SequentialState(*layers)),
        run_norse,
    ),
)

HOSTS = (SPIKINGJELLY, SNNTORCH, NORSE)
