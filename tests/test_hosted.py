"""Neuron modules of every framework, made and run in one way."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import spikeloom
from spikeloom import neurons, plugins
from spikeloom.hosted import copied, made, output_of, spikes_from_rest, to_rest

HOSTS = ("spikingjelly", "snntorch", "norse")


def makes():
    return [spikeloom.SpikingLayer, *(getattr(plugins, host).make for host in HOSTS)]


@pytest.mark.parametrize("make", makes())
def test_a_sequence_goes_through_in_one_call_and_always_from_rest(make):
    neuron = neurons.LIF(v_reset=None)
    x = torch.rand(5, 3, 4) * 3
    expected, _ = spikeloom.run(neuron, x)
    module = made(make, neuron)
    for _ in range(2):
        assert torch.equal(spikes_from_rest(module, x), expected)


@pytest.mark.parametrize("make", makes())
def test_a_hook_sees_the_call(make):
    module = made(make, neurons.LIF())
    seen = []
    module.register_forward_hook(lambda *args: seen.append(output_of(args[2]).shape))
    spikes_from_rest(module, torch.rand(5, 3, 4))
    assert seen == [(5, 3, 4)]


@pytest.mark.parametrize("host", ["spikingjelly", "snntorch"])
def test_every_neuron_of_a_model_is_put_back_to_rest(host):
    module = getattr(plugins, host).make(neurons.LIF(v_threshold=100.0))
    if host == "snntorch":
        module.init_hidden = True
    net = nn.Sequential(nn.Sequential(module))
    x = torch.rand(1, 2, 3)
    first = net(x), torch.as_tensor(module.v if host == "spikingjelly" else module.mem).clone()
    net(x)
    to_rest(net)
    net(x)
    again = torch.as_tensor(module.v if host == "spikingjelly" else module.mem)
    assert torch.equal(again, first[1])


def test_a_model_with_a_reset_of_its_own_is_left_alone():
    class Forgetful(nn.Linear):
        def reset(self):
            raise AssertionError("not a neuron")

    to_rest(nn.Sequential(Forgetful(2, 2)))


def test_what_makes_no_module_is_refused():
    with pytest.raises(TypeError, match=r"make: must be a function .* got 'norse'"):
        made("norse", neurons.LIF())
    with pytest.raises(TypeError, match=r"make: must return a torch.nn.Module, got tuple"):
        made(lambda neuron: (neuron,), neurons.LIF())


def test_a_node_of_single_steps_is_set_to_sequences():
    node = made(lambda neuron: plugins.spikingjelly.LIFNode(step_mode="s"), neurons.LIF())
    assert node.step_mode == "m"


def test_a_cell_cannot_take_the_place_of_a_sequence():
    with pytest.raises(TypeError, match=r"make: returns a .*Cell, which takes one step at each"):
        made(plugins.norse.make_cell, neurons.LIF())


def test_a_network_that_holds_a_graph_is_not_copied_and_the_remedies_are_named():
    net = nn.Linear(2, 3)
    net.v = net(torch.ones(2))  # such as a state between two calls
    with pytest.raises(ValueError, match=r"net: cannot be copied; reset .*prune\.remove"):
        copied("net", net)
    pruned = prune.l1_unstructured(nn.Linear(3, 2), "weight", 0.5)
    pruned(torch.ones(3))
    with pytest.raises(ValueError, match=r"model: cannot be copied; .*remove_weight_norm"):
        copied("model", pruned)


def test_a_copy_computes_the_same_with_tensors_of_its_own():
    net = nn.Linear(3, 2)
    other = copied("net", net)
    assert torch.equal(other.weight, net.weight) and other.weight is not net.weight
