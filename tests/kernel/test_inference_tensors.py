"""Tensors made in inference mode enter a training step, as they do torch's own functions."""

import norse.torch as norse
import pytest
import snntorch
import torch
from spikingjelly.activation_based import neuron as spikingjelly

import spikeloom
from spikeloom import neurons
from spikeloom.kernel.call import run_step
from spikeloom.plugins import norse as our_norse
from spikeloom.plugins import snntorch as our_snntorch
from spikeloom.plugins import spikingjelly as our_spikingjelly

IMPLEMENTATIONS = ["llvm", "eager"]


def sequence(steps=4, seed=0):
    return torch.rand(steps, 2, 3, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("how", [spikeloom.run, run_step])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_state_made_in_inference_mode_goes_on_in_training(implementation, how, calls):
    neuron = neurons.LIF(tau=2.0)
    with torch.inference_mode():
        _, state = spikeloom.run(neuron, sequence())
    x = sequence(seed=1) if how is spikeloom.run else sequence(seed=1)[0]
    found = []
    for begin in (state, tuple(v.clone() for v in state)):
        # The second time the call is known.
        for _ in range(calls):
            given = x.clone().requires_grad_()
            y, _ = how(neuron, given, begin, implementation=implementation)
            y.sum().backward()
        found.append((y.detach(), given.grad))
    (y, gradient), (expected, expected_gradient) = found
    assert torch.equal(y, expected)
    assert torch.equal(gradient, expected_gradient)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_input_made_in_inference_mode_teaches_a_parameter(implementation, traced):
    with torch.inference_mode():
        x = sequence()
    found = []
    for given in (x, x.clone()):
        tau = torch.nn.Parameter(torch.tensor(2.0))
        neuron = neurons.LIF(tau=tau)
        if traced:  # a profiler sees operators only
            with torch.autograd.profiler.profile():
                y, _ = spikeloom.run(neuron, given, implementation=implementation)
        else:
            y, _ = spikeloom.run(neuron, given, implementation=implementation)
        y.sum().backward()
        found.append(tau.grad)
    assert torch.equal(*found)
    assert found[0] != 0


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_recurrent_layer_learns_from_what_was_made_in_inference_mode(implementation):
    torch.manual_seed(0)
    layer = spikeloom.Recurrent(neurons.LIF(tau=2.0), 3, implementation=implementation)
    with torch.inference_mode():
        x = sequence()
    found = []
    for given in (x, x.clone()):
        layer.zero_grad()
        layer(given).sum().backward()
        found.append(layer.weight.grad.clone())
    assert torch.equal(*found)


def node(home, step_mode):
    module = home.LIFNode(step_mode=step_mode)
    return module, module


def leaky(home):
    module = home.Leaky(beta=0.5, init_hidden=True)
    return module, module


def boxed(home):
    cell, state = home.LIFBoxCell(), [None]

    def call(x):
        y, state[0] = cell(x, state[0])
        return y

    return cell, call


MAKES = {
    "LIFNode s": (lambda home: node(home, "s"), our_spikingjelly, spikingjelly),
    "LIFNode m": (lambda home: node(home, "m"), our_spikingjelly, spikingjelly),
    "Leaky": (leaky, our_snntorch, snntorch),
    "LIFBoxCell": (boxed, our_norse, norse),
}


@pytest.mark.parametrize("name", MAKES)
def test_a_drop_in_trains_on_after_inference_mode_as_the_frameworks_own(name):
    make, *homes = MAKES[name]
    found = []
    for home in homes:
        _, call = make(home)
        with torch.inference_mode():
            call(sequence()[:2])
        x = sequence(seed=1)[:2].requires_grad_()
        y = call(x)
        y.sum().backward()
        found.append((y.detach(), x.grad))
    (y, gradient), (expected, expected_gradient) = found
    assert torch.equal(y, expected.to(y.dtype))
    torch.testing.assert_close(gradient, expected_gradient)
