"""Small networks with the neurons of all hosts, and what they learn from a batch."""

import torch
from torch import nn

import spikeloom
from spikeloom import neurons
from spikeloom.plugins import norse, snntorch, spikingjelly

STEPS, BATCH = 6, 4


def learned(value):
    return nn.Parameter(torch.tensor(value))


def each(low, high):
    """A value for each of the four neurons, all of them learned."""
    return nn.Parameter(torch.linspace(low, high, 4))


NEURONS = {
    "SpikingLayer": lambda: spikeloom.SpikingLayer(neurons.LIF(tau=learned(2.5))),
    "SpikingLayer, each": lambda: spikeloom.SpikingLayer(neurons.LIF(tau=each(1.5, 4.0))),
    "ParametricLIFNode": lambda: spikingjelly.ParametricLIFNode(step_mode="m"),
    "LIFNode": lambda: spikingjelly.LIFNode(step_mode="m"),
    "SpikingJelly, each": lambda: spikingjelly.make(neurons.LIF(tau=each(1.5, 4.0))),
    "Leaky": lambda: snntorch.Leaky(
        0.8, learn_beta=True, learn_threshold=True, init_hidden=True, time_first=True
    ),
    "snnTorch, each": lambda: snntorch.make(
        neurons.Leaky(each(0.5, 0.9)), init_hidden=True, time_first=True
    ),
    "Norse": lambda: norse.make(neurons.LIF(tau=learned(2.5))),
    "Norse, each": lambda: norse.make(neurons.LIF(tau=each(1.5, 4.0))),
}


class Network(nn.Module):
    """Two layers with neurons between them, on numbers that are exact in any order."""

    def __init__(self, name, width=4):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.spikes, self.last = (
            nn.Linear(3, width),
            NEURONS[name](),
            nn.Linear(width, 2),
        )
        with torch.no_grad():
            for parameter in (*self.first.parameters(), *self.last.parameters()):
                parameter.copy_((16 * parameter).round() / 8)

    def forward(self, x):
        y = self.spikes(self.first(x))
        return self.last(y[0] if isinstance(y, tuple) else y)


def inputs(batch=BATCH, steps=STEPS):
    """``[T, batch, 3]`` in eighths."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 33, (steps, batch, 3), generator=generator) / 8


def part_of(rank, x, ranks=2):
    """The share of a rank: neighbouring samples."""
    return x.chunk(ranks, 1)[rank]


def loss_of(y):
    """The mean over the samples of what tells all steps and outputs apart."""
    weights = torch.linspace(-1, 2, y[:, 0].numel()).view(y.shape[0], 1, -1)
    return (y * weights).sum() / y.shape[1]


def own_name(name):
    """A parameter's name in the network that others wrap."""
    return name.removeprefix("_orig_mod.").removeprefix("module.")


def gradients(network):
    """By name, those of a sharded network whole; as flat as a single value."""
    found = {}
    for name, parameter in network.named_parameters():
        grad = parameter.grad
        assert grad is not None, name
        grad = grad.full_tensor() if hasattr(grad, "full_tensor") else grad
        found[own_name(name)] = grad.detach().clone().squeeze()
    return found


def learns(network, x):
    """The outputs and all gradients of one batch."""
    y = network(x)
    assert y.std() > 0.1, "the neurons are silent"
    loss_of(y).backward()
    return y.detach().clone(), gradients(network)
