"""SpikingLayer: a neuron as a plain module."""

import copy

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import Gated, Neuron, PerStep, SpikingLayer
from spikeloom.kernel.vocabulary import lookup
from spikeloom.neurons import LIF


def test_learned_tensors_are_parameters_and_others_buffers():
    threshold = torch.linspace(0.5, 1.5, 4)
    layer = SpikingLayer(LIF(tau=nn.Parameter(torch.tensor(2.0)), v_threshold=threshold))
    assert [name for name, _ in layer.named_parameters()] == ["tau"]
    assert list(layer.state_dict()) == ["tau", "v_threshold"]


def test_training_moves_a_learned_time_constant():
    layer = SpikingLayer(LIF(tau=nn.Parameter(torch.tensor(2.0)), v_reset=None))
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    x = torch.rand(8, 5, 6)
    (layer(x).mean() - 0.1).square().backward()
    optimiser.step()
    assert layer.tau.item() != 2.0
    expected, _ = spikeloom.run(LIF(tau=layer.tau.item(), v_reset=None), x)
    assert torch.equal(layer(x), expected)


def test_moving_and_copying_a_layer_takes_its_tensors_along():
    layer = SpikingLayer(LIF(tau=nn.Parameter(torch.tensor(2.0)))).double()
    assert layer(torch.rand(3, 2).double()).dtype == torch.float64
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.tau.fill_(9.0)
    assert layer.tau.item() == 2.0


def test_wrapped_parameters_keep_their_kind():
    def step(x, state, p):
        return p.gain * x + lookup(p.table, 0.0 * x + 1.0), state

    params = {"gain": PerStep(nn.Parameter(torch.tensor([1.0, 2.0]))), "table": Gated(torch.eye(2))}
    layer = SpikingLayer(Neuron(step, params=params))
    assert layer(torch.ones(2, 3)).tolist() == [[1.0] * 3, [3.0] * 3]
    layer(torch.ones(2, 3)).sum().backward()
    assert layer.gain.grad.tolist() == [3.0, 3.0]


def test_functional_call_replaces_the_parameters():
    layer = SpikingLayer(LIF(tau=nn.Parameter(torch.tensor(2.0))))
    x = torch.rand(4, 3) * 3
    found = torch.func.functional_call(layer, {"tau": torch.tensor(5.0)}, (x,))
    assert torch.equal(found, spikeloom.run(LIF(tau=5.0), x)[0])


def test_tracers_do_not_look_inside():
    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return getattr(module, "_is_leaf_module", False)

    graph = Tracer().trace(nn.Sequential(SpikingLayer(LIF())))
    assert [node.op for node in graph.nodes] == ["placeholder", "call_module", "output"]


def test_repr_shows_the_neuron():
    assert "(neuron" not in repr(SpikingLayer(LIF()))
    assert "LIF(tau=3.0)" in repr(SpikingLayer(LIF(tau=3.0)))


def test_repr_shows_the_values_that_the_layer_holds_now():
    layer = SpikingLayer(LIF(tau=torch.tensor(2.0))).double()
    layer.load_state_dict({"tau": torch.tensor(5.0)})
    assert "tau=5" in repr(layer)


def test_a_class_in_the_place_of_a_neuron_is_named():
    with pytest.raises(TypeError, match="got the class LIF"):
        SpikingLayer(LIF)


def test_an_unknown_implementation_is_refused_when_it_is_set():
    with pytest.raises(ValueError, match="must be one of auto, cupy, llvm, eager, got 'foo'"):
        SpikingLayer(LIF(), implementation="foo")
    layer = SpikingLayer(LIF(), implementation="eager")
    with pytest.raises(ValueError, match="got 'foo'"):
        layer.implementation = "foo"
    assert layer.implementation == "eager"
