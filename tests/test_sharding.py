"""Learned values as vectors, for torch's fully_shard; tests/distributed/ shards them."""

import copy

import pytest
import snntorch as snn
import torch
from spikingjelly.activation_based import neuron
from torch import nn

import spikeloom
from spikeloom import neurons
from spikeloom.layer import as_vectors
from spikeloom.plugins import norse, snntorch, spikingjelly


def learned(value):
    return nn.Parameter(torch.tensor(value))


MAKES = {
    "SpikingLayer": lambda: spikeloom.SpikingLayer(neurons.LIF(tau=learned(2.5))),
    "ParametricLIFNode": lambda: spikingjelly.ParametricLIFNode(step_mode="m"),
    "LIFNode": lambda: spikingjelly.LIFNode(tau=learned(2.5), step_mode="m"),
    "made": lambda: spikingjelly.make(neurons.LIF(tau=learned(2.5))),
    "Leaky": lambda: snntorch.Leaky(
        0.8, learn_beta=True, learn_threshold=True, init_hidden=True, time_first=True
    ),
    "Norse": lambda: norse.make(neurons.LIF(tau=learned(2.5))),
}


def gradients(net, x):
    y = net(x)
    y = y[0] if isinstance(y, tuple) else y
    (y * torch.linspace(-1, 2, y.numel()).reshape(y.shape)).sum().backward()
    return y.detach(), [parameter.grad.squeeze() for parameter in net.parameters()]


@pytest.mark.parametrize("name", MAKES)
def test_vectors_of_one_value_run_and_learn_as_single_values(name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), MAKES[name]())
    x = 4 * torch.rand(7, 2, 3)
    vectors = as_vectors(copy.deepcopy(net))
    assert all(parameter.dim() for parameter in vectors.parameters())
    torch.testing.assert_close(gradients(vectors, x), gradients(net, x), rtol=1e-5, atol=1e-6)
    assert any(not parameter.dim() for parameter in net.parameters())


@pytest.mark.parametrize("name", MAKES)
def test_what_vectors_save_loads_into_the_network_as_it_is_made(name):
    net, other = MAKES[name](), MAKES[name]()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.0625)
    other.load_state_dict(as_vectors(copy.deepcopy(net)).state_dict())
    for found, expected in zip(other.parameters(), net.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_what_vectors_save_loads_into_the_frameworks_own_neurons():
    node, lif = as_vectors(spikingjelly.ParametricLIFNode(4.0)), as_vectors(MAKES["Leaky"]())
    host = neuron.ParametricLIFNode(2.0)
    host.load_state_dict(node.state_dict())
    assert torch.equal(host.w, node.w[0])
    host = snn.Leaky(0.5, learn_beta=True, learn_threshold=True)
    host.load_state_dict(lif.state_dict())
    assert torch.equal(host.beta, lif.beta[0])


def test_a_shared_value_stays_shared():
    tau = learned(2.5)
    net = as_vectors(nn.Sequential(*(spikeloom.SpikingLayer(neurons.LIF(tau=tau)) for _ in "ab")))
    assert net[0].tau is net[1].tau and net[0].tau.shape == (1,)
    assert len(list(net.parameters())) == 1


def test_vectors_become_the_frameworks_own_and_are_learned_there():
    lif = as_vectors(MAKES["Leaky"]())
    lif.time_first = False
    assert isinstance(snntorch.to_host(lif).beta, nn.Parameter)
