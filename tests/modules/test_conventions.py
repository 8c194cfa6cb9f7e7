"""Modules whose conventions once went unnoticed: what every part of the package makes of them."""

import pytest
import torch
from spikingjelly.activation_based import neuron as host
from torch import nn

import spikeloom
from spikeloom import compress, export, neurons, plugins, verify
from spikeloom.hosted import made
from spikeloom.modules import Conventions, neuron_of, override_of, registry, takes_steps


class Keeps(nn.Module):
    """Keeps its state, and resets it by a name of its own."""

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


@pytest.fixture
def register(monkeypatch):
    """Registers for the length of a test."""
    monkeypatch.setattr(registry, "_conventions", dict(registry._conventions))
    yield registry.register
    registry._bases.clear()


def network(make):
    torch.manual_seed(0)
    neuron = make(neurons.LIF(v_threshold=0.5))
    return nn.Sequential(nn.Linear(3, 4), neuron, nn.Linear(4, 2)).eval()


def sample():
    return 3 * torch.rand(8, 5, 3, generator=torch.Generator().manual_seed(1))


def test_a_module_that_keeps_its_state_under_an_unknown_name_is_refused():
    with pytest.raises(TypeError, match=r"make: .*Keeps.*keeps its state from.* call.*reset="):
        made(Keeps, neurons.LIF())


def test_an_imported_graph_refuses_a_make_whose_axes_are_others():
    graph, _ = export.to_nir(network(spikeloom.SpikingLayer)[:2], sample())
    with pytest.raises((TypeError, ValueError), match=r"make: .*BatchFirst.*\[T, batch, \*\]"):
        export.from_nir(graph, make=BatchFirst)


def test_calibration_refuses_a_module_of_unknown_axes_and_says_how_to_state_them():
    with pytest.raises(ValueError, match=r"'1'.*BatchFirst.*register\(BatchFirst"):
        compress.calibrate(network(BatchFirst), [sample().transpose(0, 1)])


def test_calibration_of_a_registered_batch_first_module_is_that_of_its_time_first_form(register):
    register(BatchFirst, Conventions(batch_first=lambda module: True))
    plain, turned = network(spikeloom.SpikingLayer), network(BatchFirst)
    expected = compress.calibrate(plain, [sample()])
    found = compress.calibrate(turned, [sample().transpose(0, 1).contiguous()])
    assert str(found) == str(expected) and found["0"].facts.steps == 8
    compress.quantize(plain, expected, bits=2)
    compress.quantize(turned, found, bits=2)
    assert torch.equal(turned[0].weight, plain[0].weight)


def test_a_registered_reset_is_called_before_every_use(register):
    register(Keeps, Conventions(reset="reset_states", keeps_state=lambda module: True))
    graph, _ = export.to_nir(network(spikeloom.SpikingLayer)[:2], sample())
    net, expected = (
        export.from_nir(graph, make=Keeps),
        network(spikeloom.SpikingLayer)[:2](sample()),
    )
    for _ in range(2):
        assert torch.equal(net(sample()), expected)


def test_a_name_that_no_method_has_is_refused_when_it_is_registered():
    with pytest.raises(ValueError, match="Keeps has no method 'reset_state'"):
        registry.register(Keeps, Conventions(reset="reset_state"))


def test_a_batch_first_module_is_refused_by_the_exporter_and_by_a_recipe(register):
    register(BatchFirst, Conventions(batch_first=lambda module: True))
    with pytest.raises(export.NotExpressible, match=r"takes \[batch, T, \*\]"):
        export.to_nir(network(BatchFirst), sample())
    with pytest.raises(TypeError, match=r"make: .*BatchFirst, which takes a sequence \[batch, T"):
        made(BatchFirst, neurons.LIF())


class Halved(spikeloom.SpikingLayer):
    """A neuron of the user's own: half of its input arrives."""

    def forward(self, x):
        return super().forward(x / 2)


def test_a_neuron_with_a_forward_of_its_own_is_taken_for_no_other():
    layer = Halved(neurons.LIF())
    assert override_of(layer) == "is a SpikingLayer with a forward of its own"
    assert neuron_of(layer) is None and takes_steps(layer) is False
    with pytest.raises(compress.UnknownNeuron, match="Halved is a SpikingLayer with a forward"):
        compress.linear_response(layer)


class Normed(nn.Module):
    """A norm of each step's features, and a neuron."""

    def __init__(self, neuron):
        super().__init__()
        self.norm, self.neuron = nn.BatchNorm2d(3), neuron

    def forward(self, x):
        return self.neuron(self.norm(x.flatten(0, 1)).unflatten(0, (8, 5)))


def test_folding_replaces_no_neuron_with_a_forward_of_its_own():
    torch.manual_seed(0)
    x = 3 * torch.rand(8, 5, 3, 2, 2)
    for make, result in ((spikeloom.SpikingLayer, "folded"), (Halved, "remains")):
        net = Normed(make(neurons.LIF(v_threshold=0.5))).eval()
        net.norm.weight.data.uniform_(0.5, 2)
        net.norm.running_mean.uniform_()
        folded = verify.fold_norms(net)
        assert folded.report.column("result") == [result]
        assert torch.equal(folded(x), net(x))


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
