"""What the page on choosing says of moving weights."""

import itertools

import pytest
import snntorch
import torch
from norse.torch import LIFBoxCell
from spikingjelly.activation_based import neuron as spikingjelly
from torch import nn

import spikeloom
from spikeloom import neurons, plugins


def learned(make):
    return lambda: make(neurons.LIF(nn.Parameter(torch.tensor(3.0)), torch.full((5,), 0.5)))


# Each row: whatever is saved from one of them loads into all of them, and into nothing else.
ALIKE = {
    "numbers": [
        lambda: spikeloom.SpikingLayer(neurons.LIF()),
        *(
            lambda make=make, neuron=neuron: make(neuron)
            for make in (plugins.spikingjelly.make, plugins.snntorch.make, plugins.norse.make)
            for neuron in (neurons.IF(), neurons.LIF(), neurons.Leaky(0.9), neurons.LIFBox())
        ),
        plugins.spikingjelly.LIFNode,
        plugins.spikingjelly.IFNode,
        spikingjelly.LIFNode,
        spikingjelly.IFNode,
        plugins.norse.LIFBox,
        plugins.norse.LIFBoxCell,
        LIFBoxCell,
    ],
    "tensors": [
        learned(spikeloom.SpikingLayer),
        learned(plugins.spikingjelly.make),
        learned(plugins.snntorch.make),
        learned(plugins.norse.make),
        lambda: plugins.spikingjelly.LIFNode(
            nn.Parameter(torch.tensor(2.0)), v_threshold=torch.ones(5)
        ),
    ],
    "w": [plugins.spikingjelly.ParametricLIFNode, spikingjelly.ParametricLIFNode],
    "Leaky": [lambda: plugins.snntorch.Leaky(0.9), lambda: snntorch.Leaky(0.9)],
}


def network(make):
    return nn.Sequential(nn.Linear(4, 5), make())


@pytest.mark.parametrize("kind", ALIKE)
def test_weights_load_where_the_page_says_and_nowhere_else(kind):
    for source, target in itertools.product(ALIKE[kind], repeat=2):
        network(target).load_state_dict(network(source).state_dict())
    state = network(ALIKE[kind][0]).state_dict()
    for target in (rows[0] for other, rows in ALIKE.items() if other != kind):
        with pytest.raises(RuntimeError, match=r"Missing key|Unexpected key"):
            network(target).load_state_dict(state)


def test_weights_alone_are_taken_when_told_so():
    source, target = network(ALIKE["Leaky"][0]), network(ALIKE["numbers"][0])
    target.load_state_dict(source.state_dict(), strict=False)
    assert torch.equal(target[0].weight, source[0].weight)
