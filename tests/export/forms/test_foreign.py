"""The frameworks' own modules that have no form in a file: one refusal that names them."""

import warnings

import pytest
import snntorch as snn
import torch
from torch import nn

from spikeloom import plugins
from spikeloom.export import NotExpressible, from_nir, to_nir
from spikeloom.modules import described_classes, framework_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import norse.torch as norse
    from norse.torch.functional.izhikevich import tonic_spiking
    from spikingjelly.activation_based import encoding, layer, neuron
    from spikingjelly.activation_based.base import MemoryModule

HIDDEN = {"beta": 0.5, "init_hidden": True}
# Made for 4 features.
UNTAKEN = {
    "norse LSNNCell": norse.LSNNCell,
    "norse LSNNRecurrentCell": lambda: norse.LSNNRecurrentCell(4, 4),
    "norse IzhikevichCell": lambda: norse.IzhikevichCell(tonic_spiking),
    "snntorch SLSTM": lambda: snn.SLSTM(4, 4, init_hidden=True),
    "spikingjelly PSN": lambda: neuron.PSN(T=20),
    "spikingjelly SynapseFilter": layer.SynapseFilter,
    "spikingjelly NeuNorm": lambda: layer.NeuNorm(4, 1, 1),
    "spikingjelly PoissonEncoder": encoding.PoissonEncoder,
    "spikingjelly DropConnectLinear": lambda: layer.DropConnectLinear(4, 4),
}
LAST = {
    "norse": norse.LIFBoxCell,
    "snntorch": lambda: snn.Leaky(reset_mechanism="zero", **HIDDEN),
    "spikingjelly": neuron.IFNode,
}


def network(name: str, last: bool) -> nn.Module:
    host = name.split()[0]
    sequential = norse.SequentialState if host == "norse" else nn.Sequential
    modules = [nn.Linear(3, 4), UNTAKEN[name]()]
    return sequential(*modules, *([] if last else [nn.Linear(4, 2), LAST[host]()]))


@pytest.mark.parametrize(
    ("name", "last"),
    # A PSN takes sequences only.
    [(name, last) for name in UNTAKEN for last in (True, False) if last or "PSN" not in name],
)
def test_a_module_of_a_framework_without_a_form_is_named_once(name, last):
    torch.manual_seed(0)
    kind = name.split()[1]
    with pytest.raises(NotExpressible) as caught:
        to_nir(network(name, last), 8 * torch.rand(20, 5, 3))
    (offence,) = caught.value.offences
    assert (offence.module, offence.kind, offence.verdict) == ("1", kind, "UNSUPPORTED")
    assert kind in offence.reason and framework_of(type(UNTAKEN[name]()))[0].title in offence.reason


@pytest.mark.parametrize("name", [name for name in UNTAKEN if "PSN" not in name])
def test_the_call_under_the_hosts_name_says_the_same(name):
    torch.manual_seed(0)
    host = name.split()[0]
    module = getattr(plugins, host)
    export = module.to_nir if host == "norse" else module.export_to_nir
    given = torch.rand(5, 3)
    with pytest.raises(NotExpressible) as caught:
        export(network(name, last=True), 8 * given)
    assert [offence.module for offence in caught.value.offences] == ["1"]


@pytest.mark.parametrize(
    "make",
    [lambda: snn.Alpha(alpha=0.75, **HIDDEN), neuron.QIFNode, neuron.KLIFNode],
    ids=["Alpha", "QIFNode", "KLIFNode"],
)
def test_a_known_neuron_without_a_form_is_refused_as_such(make):
    net = nn.Sequential(nn.Linear(3, 4), make())
    with pytest.raises(NotExpressible, match="is no step that NIR can state") as caught:
        to_nir(net, 4 * torch.rand(20, 5, 3))
    assert [offence.module for offence in caught.value.offences] == ["1"]
    taken = described_classes(framework_of(type(net[1]))[0])
    assert type(net[1]).__name__ not in taken


def never(z, v, *others):
    """A reset method that resets nothing."""
    return v


@pytest.mark.parametrize(
    ("module", "kind", "said"),
    [
        (lambda: snn.Leaky(state_quant=lambda v: v, **HIDDEN), "Leaky", "state_quant=False"),
        (
            lambda: norse.LIFBoxCell(norse.LIFBoxParameters(reset_method=never)),
            "LIFBoxCell",
            "reset_value",
        ),
    ],
    ids=["Leaky", "LIFBoxCell"],
)
def test_a_taken_class_with_settings_that_nir_has_not_is_named(module, kind, said):
    net = norse.SequentialState(nn.Linear(3, 4), module())
    with pytest.raises(NotExpressible) as caught:
        to_nir(net, torch.rand(20, 5, 3))
    (offence,) = caught.value.offences
    assert (offence.module, offence.kind) == ("1", kind)
    assert said in offence.remedy


class Mine(neuron.LIFNode):
    """A subclass of a class that is taken, with a step of its own."""

    def single_step_functional_forward(self, inputs, states):
        return super().single_step_functional_forward(tuple(-x for x in inputs), states)


class Filter(MemoryModule):
    """A module of the user's own, built of what a file can state."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lif = nn.Linear(3, 4), neuron.LIFNode()

    def single_step_forward(self, x):
        return self.lif(self.fc(x))


def test_a_subclass_of_a_frameworks_neuron_is_named_with_its_base():
    with pytest.raises(NotExpressible) as caught:
        to_nir(nn.Sequential(nn.Linear(3, 4), Mine()), torch.rand(20, 5, 3))
    (offence,) = caught.value.offences
    assert (offence.module, offence.kind) == ("1", "Mine")
    assert "LIFNode" in offence.reason and "LIFNode" in offence.remedy


def test_a_module_of_the_users_own_is_looked_into():
    torch.manual_seed(0)
    graph, report = to_nir(Filter(), 4 * torch.rand(20, 5, 3))
    assert sorted(type(node).__name__ for node in graph.nodes.values()) == [
        "Affine",
        "Input",
        "LIF",
        "Output",
    ]
    assert report.mismatch == 0.0


def test_a_container_of_a_framework_is_looked_into():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(3, 4), layer.ElementWiseRecurrentContainer(neuron.IFNode(), torch.add)
    )
    x = 2 * torch.rand(20, 5, 3)
    graph, report = to_nir(net, x, target="nir")
    assert report.mismatch == 0.0
    spikes = from_nir(graph)(x)
    assert 0 < spikes.mean() < 1
