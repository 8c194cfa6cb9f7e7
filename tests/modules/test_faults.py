"""Modules whose manners once went unnoticed: what every part of the package makes of them."""

import pytest
import torch
from spikingjelly.activation_based import neuron as host
from torch import nn

import spikeloom
from spikeloom import compress, export, neurons, plugins, verify
from spikeloom.hosted import made


class Keeps(nn.Module):
    """Keeps its state, and puts it back to rest by a name of its own."""

    def __init__(self, neuron):
        super().__init__()
        self.neuron, self.state = neuron, None

    def forward(self, x):
        y, self.state = spikeloom.run(self.neuron, x, self.state)
        return y

    def reset_states(self):
        self.state = None


class BatchFirst(nn.Module):
    """Takes ``[batch, T, *]``."""

    def __init__(self, neuron):
        super().__init__()
        self.neuron = neuron

    def forward(self, x):
        return spikeloom.run(self.neuron, x.transpose(0, 1))[0].transpose(0, 1)


def network(make):
    torch.manual_seed(0)
    neuron = make(neurons.LIF(v_threshold=0.5))
    return nn.Sequential(nn.Linear(3, 4), neuron, nn.Linear(4, 2)).eval()


def sample():
    return 3 * torch.rand(8, 5, 3, generator=torch.Generator().manual_seed(1))


def test_a_module_that_keeps_its_state_under_an_unknown_name_is_refused():
    with pytest.raises(TypeError, match=r"make: .*Keeps.*goes on from its last call.*reset="):
        made(Keeps, neurons.LIF())


def test_an_imported_graph_refuses_a_make_whose_axes_are_others():
    graph, _ = export.to_nir(network(spikeloom.SpikingLayer)[:2], sample())
    with pytest.raises((TypeError, ValueError), match=r"make: .*BatchFirst.*\[T, batch, \*\]"):
        export.from_nir(graph, make=BatchFirst)


def test_calibration_refuses_a_module_of_unknown_axes_and_says_how_to_state_them():
    with pytest.raises(ValueError, match=r"'1'.*BatchFirst.*register\(BatchFirst"):
        compress.calibrate(network(BatchFirst), [sample().transpose(0, 1)])


class OnlyMade(host.LIFNode):
    """Made with other defaults; the same neuron."""

    def __init__(self):
        super().__init__(step_mode="m")


def test_a_subclass_that_only_has_a_constructor_is_exported_as_its_base():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), OnlyMade()).eval()
    graph, report = export.to_nir(net, 4 * sample())
    assert report.mismatch == 0 and report.column("kind") == ["Linear", "OnlyMade"]
    host.LIFNode.reset(net[1])
    assert torch.equal(export.from_nir(graph)(4 * sample()), net(4 * sample()))


class Called(nn.Module):
    """Two layers of neurons, called by their forward or by their ``sequence``."""

    def __init__(self, by_sequence):
        super().__init__()
        self.a, self.b, self.by_sequence = nn.Linear(6, 8), nn.Linear(8, 3), by_sequence
        self.lif, self.out = (
            plugins.snntorch.Leaky(beta=0.5, reset_mechanism="zero", time_first=not by_sequence)
            for _ in range(2)
        )

    def forward(self, x):
        for weight, neuron in ((self.a, self.lif), (self.b, self.out)):
            call = neuron.sequence if self.by_sequence else neuron
            x = call(weight(x))[0]
        return x


def test_neurons_called_by_their_sequence_have_rows_of_their_own():
    torch.manual_seed(0)
    plain, other = Called(False).eval(), Called(True).eval()
    other.load_state_dict(plain.state_dict())
    x = 3 * torch.rand(10, 4, 6)
    expected, found = verify.count_energy(plain, x), verify.count_energy(other, x)
    assert found.rows == expected.rows and found.column("module") == ["a", "lif", "b", "out"]
    assert verify.check_mfi(other, x).violations == verify.check_mfi(plain, x).violations
