"""A module is taken for its class, or for its neuron, only if it does nothing else."""

import types

import pytest
import torch
from torch import Tensor, nn

from spikeloom import SpikingLayer, neurons, plugins, run
from spikeloom.export import NotExpressible, to_nir

# On zeros all of these compute what their classes do.
ZEROS = torch.zeros(5, 2, 3)


class Halved(SpikingLayer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / 2)


class Block(nn.Module):
    """Its weights and a neuron's description, under a name that modules of neurons use."""

    def __init__(self) -> None:
        super().__init__()
        self.neuron, self.fc = neurons.LIF(), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return run(self.neuron, self.fc(x))[0]


def patched() -> nn.Module:
    layer = nn.Linear(3, 3)
    layer.forward = types.MethodType(lambda self, x: (x @ self.weight.T).abs(), layer)
    return layer


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Halved(neurons.LIF()), "is a SpikingLayer with a forward of its own"),
        (Block(), "holds layers of its own beside the neuron"),
        (patched(), "its forward was replaced on the module itself"),
    ],
)
def test_a_module_that_does_more_than_its_class_is_refused(module, reason):
    with pytest.raises(NotExpressible, match=reason):
        to_nir(nn.Sequential(module), ZEROS)


def test_a_host_neuron_with_a_step_of_its_own_is_refused():
    pytest.importorskip("spikingjelly")

    class Inverted(plugins.spikingjelly.LIFNode):
        def multi_step_forward(self, x: Tensor) -> Tensor:
            return super().multi_step_forward(-x)

    with pytest.raises(NotExpressible, match="a LIFNode with a multi_step_forward of its own"):
        to_nir(Inverted(step_mode="m"), ZEROS)


def test_a_subclass_that_adds_nothing_is_its_base():
    class Renamed(SpikingLayer):
        pass

    assert to_nir(Renamed(neurons.LIF()), ZEROS)[1].mismatch == 0


def test_a_weight_that_is_computed_is_refused_with_the_remedy():
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    with pytest.raises(NotExpressible, match="remove_parametrizations"):
        to_nir(layer, ZEROS)


class Returning(nn.Module):
    def __init__(self, what) -> None:
        super().__init__()
        self.fc, self.spike, self.what = nn.Linear(3, 3), SpikingLayer(neurons.LIF()), what

    def forward(self, x: Tensor) -> object:
        y = self.fc(x)
        return self.what(y, self.spike(y))


def test_a_second_output_is_reported():
    report = to_nir(Returning(lambda y, s: {"spikes": s, "drive": y}), ZEROS)[1]
    assert "The model returns 2 signals, of which the file gives the first." in report.notes


def test_a_list_of_steps_is_no_output():
    x = torch.zeros(3, 3, 3)  # T, batch and features alike, so that a step has the lead's shape
    with pytest.raises(ValueError, match="the output must be one tensor"):
        to_nir(Returning(lambda y, s: list(s)), x)


def test_a_pool_without_channels_is_refused():
    with pytest.raises(NotExpressible, match="takes 3 axes"):
        to_nir(nn.AvgPool2d(2), torch.zeros(3, 2, 4, 4))
