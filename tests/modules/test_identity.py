"""A subclass is its base, or a neuron of its author's own: the method that it overrides decides."""

import pytest
import snntorch
import torch
from norse.torch import LIFBoxCell, LIFBoxParameters
from spikingjelly.activation_based import layer, neuron
from torch import nn

import spikeloom
from spikeloom import neurons, plugins
from spikeloom.modules import (
    conventions_of,
    methods_of,
    neuron_of,
    override_of,
    response_of,
    takes_steps,
    values_of,
    watched_calls,
)


class Constructed(neuron.LIFNode):
    def __init__(self):
        super().__init__(tau=4.0, v_threshold=0.5)


class Shown(snntorch.Leaky):
    """Shows itself otherwise, and has a method and a property that snnTorch's has not."""

    def extra_repr(self):
        return "mine"

    def rate(self):
        return 0.0

    @property
    def title(self):
        return "mine"


class Trained(LIFBoxCell):
    """What torch's modules do is no step of the neuron."""

    def train(self, mode=True):
        return super().train(mode)


SAME = {
    "a constructor": (Constructed(), neuron.LIFNode(tau=4.0, v_threshold=0.5)),
    "names of its own": (Shown(0.5), snntorch.Leaky(0.5)),
    "torch's methods": (Trained(LIFBoxParameters()), LIFBoxCell(LIFBoxParameters())),
}


@pytest.mark.parametrize("case", SAME)
def test_a_subclass_that_leaves_the_step_alone_is_its_base(case):
    module, base = SAME[case]
    assert override_of(module) == ""
    assert repr(neuron_of(module)) == repr(neuron_of(base)) != "None"
    assert response_of(module).decay == response_of(base).decay


class Stepped(neuron.LIFNode):
    def single_step_functional_forward(self, inputs, states):
        return super().single_step_functional_forward(tuple(-x for x in inputs), states)


class Negated:
    def forward(self, x, *states):
        return super().forward(-x, *states)


class Mixed(Negated, snntorch.Leaky):
    pass


class Fired(plugins.norse.LIFBox):
    forward = Negated.forward


class Intercepted(spikeloom.SpikingLayer):
    def __call__(self, x):
        return -super().__call__(x)


OTHER = {
    "its call": (Intercepted(neurons.LIF()), "a SpikingLayer with a __call__ of its own"),
    "an overridden step": (Stepped(), "a LIFNode with a single_step_functional_forward of its own"),
    "a mixin": (Mixed(0.5), "a Leaky with a forward of its own"),
    "ours": (Fired(), "a LIFBox with a forward of its own"),
}


@pytest.mark.parametrize("case", OTHER)
def test_a_subclass_with_a_step_of_its_own_is_no_known_neuron(case):
    module, said = OTHER[case]
    assert override_of(module) == f"is {said}"
    assert neuron_of(module) is None and response_of(module) is None
    assert takes_steps(module) is (case not in ("ours", "its call"))


def test_a_replaced_forward_is_noticed_and_a_watched_one_is_not():
    layer_of_ours = spikeloom.SpikingLayer(neurons.LIF())
    with watched_calls(layer_of_ours, lambda args, kwargs, whole: None):
        assert override_of(layer_of_ours) == ""
    layer_of_ours.forward = lambda x: x
    assert override_of(layer_of_ours) == "its forward was replaced on the module itself"
    assert neuron_of(layer_of_ours) is None


def test_a_class_that_the_framework_derives_from_a_described_one_is_another_neuron():
    for module in (neuron.ILIFNode(), neuron.OTTTLIFNode(tau=2.0)):
        assert isinstance(module, neuron.LIFNode) and neuron_of(module) is None


def test_containers_and_layers_with_a_step_mode_are_no_neurons():
    for module in (layer.Linear(2, 2), layer.Dropout(), layer.SeqToANNContainer(nn.Linear(2, 2))):
        assert not conventions_of(module).is_neuron
    assert takes_steps(layer.Linear(2, 2)) and not takes_steps(layer.Linear(2, 2, step_mode="m"))
    assert conventions_of(nn.Linear(2, 2)) is None


def test_values_are_those_that_the_module_holds_now():
    module = spikeloom.SpikingLayer(neurons.LIF(tau=nn.Parameter(torch.tensor(2.0))))
    native = neuron.ParametricLIFNode(2.0)
    with torch.no_grad():
        module.tau.fill_(5.0)
        native.w.fill_(0.0)
    assert values_of(module)["tau"] is module.tau and values_of(module)["v_threshold"] == 1.0
    assert float(values_of(native)["rate"]) == 0.5
    assert values_of(nn.Linear(2, 2)) == {}


def heard(module, call):
    calls = []
    with torch.no_grad(), watched_calls(module, lambda args, kwargs, whole: calls.append(whole)):
        call(module)
    return calls


def test_every_way_to_call_a_neuron_is_heard_once():
    x = torch.rand(4, 2, 3)
    leaky = plugins.snntorch.Leaky(0.5)
    assert methods_of(leaky) == {"forward": False, "sequence": True}
    assert heard(leaky, lambda module: module(x[0])) == [False]
    assert heard(leaky, lambda module: module.sequence(x)) == [True]
    leaky.time_first = True  # its forward now calls its sequence
    assert heard(leaky, lambda module: module(x)) == [True]
    node = neuron.LIFNode(step_mode="m")
    assert heard(node, lambda module: module(x)) == [True]
    assert heard(node, lambda module: module.multi_step_forward(x)) == [True]
    assert heard(node, lambda module: module.single_step_forward(x[0])) == [False]


def test_two_watchers_hear_the_same_module_and_leave_it_as_it_was():
    leaky, calls = plugins.snntorch.Leaky(0.5), []
    with watched_calls(leaky, lambda *call: calls.append("outer")):
        with watched_calls(leaky, lambda *call: calls.append("inner")):
            leaky.sequence(torch.rand(4, 2, 3))
        leaky.sequence(torch.rand(4, 2, 3))
    assert calls == ["inner", "outer", "outer"]
    assert "sequence" not in vars(leaky) and not leaky._forward_pre_hooks
