"""The sign gradient descent neuron in snntorch computes what its description computes."""

import functools

import pytest
import torch

pytest.importorskip("snntorch")

import spikeloom
from spikeloom.convert import SignGD
from spikeloom.neurons import Exponential
from spikeloom.plugins import snntorch as loom


@pytest.mark.parametrize("function", ["relu", "gelu", "tanh"])
def test_sequence_and_single_steps_equal_the_neuron(function):
    arriving = 0.3 * torch.randn(10, 4, 3)
    neuron = spikeloom.neurons.SignGD(function, Exponential(0.5, 0.9))
    moves, after = spikeloom.run(neuron, arriving)
    sequence = loom.SignGD(function, Exponential(0.5, 0.9), time_first=True)
    found, *_ = sequence(arriving)
    assert torch.equal(found, moves)
    single, states, steps = loom.SignGD(function, Exponential(0.5, 0.9)), [], []
    for now in arriving:
        move, *states = single(now, *states)
        steps.append(move)
    assert torch.equal(torch.stack(steps), moves)
    assert torch.equal(states[-1], after[0])


def test_a_conversion_can_be_built_from_it():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    x = torch.randn(32, 4)
    make = functools.partial(loom.make, time_first=True)
    snn = SignGD(24, Exponential(1.0, 0.8), margin=1.2, make=make).apply(model, x)
    with torch.no_grad():
        assert torch.allclose(snn(x), model(x), atol=0.01)
