"""Which neuron a layer drives: what becomes of values that leave torch on the way."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from spikeloom import SpikingLayer, neurons
from spikeloom.compress import UnknownNeuron, calibrate


class Between(nn.Module):
    """Something between a layer and its neuron."""

    def __init__(self, between) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.spike = nn.Linear(6, 8), SpikingLayer(neurons.LIF())
        self.between, self.last = between, nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.spike(self.between(self.first(x))))


def batch():
    return torch.rand(6, 3, 6, generator=torch.Generator().manual_seed(1))


LEAVING = {
    "numpy": lambda y: torch.from_numpy(0.3 * y.numpy()),
    "asarray": lambda y: torch.from_numpy(np.tanh(np.asarray(y))),
    "tolist": lambda y: torch.tensor(y.detach().tolist()),
    "dlpack": lambda y: torch.from_dlpack(np.from_dlpack(y)),
    "item": lambda y: torch.tensor([k.item() for k in y.flatten()]).view(y.shape),
}


@pytest.mark.parametrize("between", LEAVING.values(), ids=LEAVING)
def test_a_layer_whose_output_leaves_torch_needs_its_neuron_said(between):
    model = Between(between).eval()
    with pytest.raises(UnknownNeuron, match=r"layer 'first': .*outside of any neuron .*traces"):
        calibrate(model, [batch()])
    stated = calibrate(model, [batch()], traces={"first": neurons.Trace(0.5)})
    known = calibrate(Between(lambda y: y).eval(), [batch()])
    found, expected = (each["first"].spiking[0].hessian for each in (stated, known))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "between",
    [
        lambda y: y + torch.from_numpy(np.full(8, 0.5, "float32")),
        lambda y: y + torch.tensor([0.5] * 8),
        lambda y: y + 0.0 * torch.from_numpy(y.numpy()),
    ],
    ids=["an array", "numbers", "beside its output"],
)
def test_a_constant_beside_a_layers_output_changes_no_neuron(between):
    found = calibrate(Between(between).eval(), [batch()])
    assert str(found) == str(calibrate(Between(lambda y: y).eval(), [batch()]))


@pytest.mark.parametrize(
    "between",
    [
        lambda y: y.clamp(min=0.0),
        lambda y: y.clamp_min_(0.0),
        lambda y: nn.functional.threshold(y, 0.0, 0.0),
        lambda y: nn.functional.prelu(y, torch.zeros(1)),
    ],
    ids=["clamp", "clamp_min_", "threshold", "prelu"],
)
def test_a_rectifier_ends_a_current_however_it_is_written(between):
    found, expected = (calibrate(Between(each).eval(), [batch()]) for each in (between, torch.relu))
    assert str(found) == str(expected)
    pair = [each["first"].spiking[0].hessian for each in (found, expected)]
    assert torch.equal(*pair)


@pytest.mark.parametrize(
    "step",
    [
        torch.frac,
        lambda y: y // 1,
        lambda y: torch.fmod(y, 1.0),
        lambda y: torch.div(y, 1, rounding_mode="floor"),
        lambda y: y.to(torch.int32).to(y.dtype),
    ],
    ids=["frac", "//", "fmod", "div", "to"],
)
def test_rounding_outside_of_a_neuron_needs_its_decay_said(step):
    class Rounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 8)

        def forward(self, x):
            return step(self.first(x))

    with pytest.raises(UnknownNeuron, match=r"layer 'first': its output meets the operation"):
        calibrate(Rounded().eval(), [batch()])


def through_an_alias(y):
    memory = torch.zeros(y.shape)
    memory.detach()[:3].copy_(y[:3])
    memory.data[3:] = y[3:]
    return memory


def through_a_list_of_steps(y):
    memory = torch.zeros(y.shape)
    for step, row in enumerate(memory.unbind()):
        row.add_(y[step])
    return memory


def through_data(y):
    other = torch.zeros(1)
    other.data = y
    return other


@pytest.mark.parametrize(
    "between", [through_an_alias, through_a_list_of_steps, through_data, copy.deepcopy]
)
def test_what_is_written_into_a_tensor_is_found_by_every_view_of_it(between):
    found = calibrate(Between(between).eval(), [batch()])
    assert str(found) == str(calibrate(Between(lambda y: y).eval(), [batch()]))


def test_a_line_between_two_values_is_a_sum_of_them():
    def line(y):
        rows = [torch.linspace(row[0], row[-1], 8) for row in y.flatten(0, 1)]
        return torch.stack(rows).view(y.shape)

    assert calibrate(Between(line).eval(), [batch()])["first"].facts.neuron == "spike"


def test_a_question_for_nan_takes_no_neuron_from_a_layer():
    def checked(y):
        assert not y.isnan().any()
        return y

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(6, 8)

        def forward(self, x):
            return checked(self.last(x))

    assert calibrate(Last().eval(), [batch()])["last"].facts.neuron is None


@pytest.mark.parametrize(
    "fire",
    [
        lambda v: torch.sign(torch.relu(v - 1.0)),
        lambda v: v.clamp(0.0, 1.9).int().to(v.dtype),
        lambda v: (nn.functional.hardtanh(v, 0.0, 2.0) > 1.0).to(v.dtype),
    ],
    ids=["sign", "int", "gt"],
)
def test_an_own_neuron_that_rectifies_before_it_fires_needs_its_decay_said(fire):
    def own(y):
        v, spikes = torch.zeros_like(y[0]), []
        for step in y:
            v = 0.5 * v + step
            spikes.append(fire(v))
            v = v * (1.0 - spikes[-1])
        return torch.stack(spikes)

    with pytest.raises(UnknownNeuron, match=r"layer 'first': its output meets the operation"):
        calibrate(Between(own).eval(), [batch()])


def test_a_tensor_that_only_has_a_layers_shape_is_no_sum_of_it():
    found, expected = (
        calibrate(Between(between).eval(), [batch()])
        for between in (torch.zeros_like, lambda y: torch.zeros(6, 3, 8))
    )
    assert found["first"].facts.neuron is None
    assert str(found) == str(expected)


def steep_sigmoid(v):
    return torch.sigmoid(50.0 * (v - 1.0))


def steep_clamp(v):
    return (50.0 * (v - 1.0)).clamp(0.0, 1.0)


class Steep(nn.Module):
    """A leaky neuron of the user that fires by a steep function, in steps or over a sequence."""

    def __init__(self, fire, stepped, resets):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        self.fire, self.stepped, self.resets = fire, stepped, resets

    def forward(self, x):
        v, total = torch.zeros(()), 0.0
        currents = (self.first(now) for now in x) if self.stepped else self.first(x).unbind(0)
        for current in currents:
            v = 0.75 * v + current
            spikes = self.fire(v)
            v = v * (1.0 - spikes) if self.resets == "hard" else v - spikes
            total = total + self.second(spikes)
        return total


@pytest.mark.parametrize("fire", [steep_sigmoid, steep_clamp, torch.tanh])
@pytest.mark.parametrize("stepped", [True, False], ids=["steps", "sequence"])
@pytest.mark.parametrize("resets", ["hard", "soft"])
def test_the_decay_of_a_neuron_that_fires_by_a_steep_function_has_to_be_said(fire, stepped, resets):
    net, x = Steep(fire, stepped, resets).eval(), torch.rand(4, 5, 6)
    with pytest.raises(UnknownNeuron, match=r"layer .first.: its output meets .* gave before"):
        calibrate(net, [x])
    found = calibrate(net, [x], traces={"first": neurons.Trace(0.75)})
    assert {*found} == {"first", "second"}


@pytest.mark.parametrize(
    "between",
    [
        nn.functional.silu,
        lambda y: y * torch.sigmoid(y),
        lambda y: nn.functional.glu(torch.cat([y, y], -1)),
        lambda y: y + torch.relu(y),
        lambda y: torch.sigmoid(y).clamp(0.1, 0.9),
        lambda y: 0.5 * y * (1.0 + torch.tanh(0.8 * (y + 0.04 * y**3))),
    ],
    ids=["silu", "gate", "glu", "residual", "twice", "gelu"],
)
def test_functions_of_a_layers_output_are_no_neuron(between):
    class Float(Between):
        def forward(self, x):
            return self.last(self.between(self.first(x)))

    found = calibrate(Float(between).eval(), [batch()])
    assert {*found} == {"first", "last"}
