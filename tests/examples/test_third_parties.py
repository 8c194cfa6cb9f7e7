"""Hosts and neurons that other packages bring by entry points."""

import sys
from importlib import metadata

import pytest

from spikeloom import neurons, plugins
from spikeloom.plugins import adapter

NEURONS = """
from spikeloom import Neuron

def echo(gain=2.0):
    return Neuron(lambda x, state, p: (p.gain * x, state), params={"gain": gain}, name="echo")
"""

HOST = """
from torch import nn
from spikeloom import Neuron, neurons
from spikeloom.plugins.adapter import Describing, component

class Layer(Describing, nn.Module):
    def __init__(self, *args, **settings):
        super().__init__()
        self.neuron = self._described(args, settings)

@component("LIF", "a paper", host="abacus")
class LIF(Layer, describes=neurons.LIF):
    pass

def make(neuron):
    return Layer(neuron)
"""


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """Packages with entry points, as if they were installed; forgotten afterwards."""
    (tmp_path / "their_neurons.py").write_text(NEURONS)
    (tmp_path / "their_host.py").write_text(HOST)
    monkeypatch.syspath_prepend(tmp_path)
    plugins.components()  # each host is listed when it is imported, which happens only once
    monkeypatch.setattr(adapter, "_components", list(adapter._components))
    offered = [
        metadata.EntryPoint("Echo", "their_neurons:echo", "spikeloom.neurons"),
        metadata.EntryPoint("abacus", "their_host", "spikeloom.hosts"),
    ]
    monkeypatch.setattr(
        metadata, "entry_points", lambda *, group: [p for p in offered if p.group == group]
    )
    yield offered
    for name in ("their_neurons", "their_host"):
        sys.modules.pop(name, None)


def test_a_neuron_of_another_package_is_one_of_ours(third_party):
    neuron = neurons.Echo(gain=3.0)
    assert repr(neuron) == "echo(gain=3.0)"
    assert plugins.norse.make(neuron).neuron is neuron


def test_an_unknown_neuron_is_named_beside_those_there_are(third_party):
    with pytest.raises(AttributeError, match=r"no neuron 'Eccho'; there are .*LIF.*Echo"):
        _ = neurons.Eccho


def test_inspection_asks_no_other_package(monkeypatch):
    def refuse(*, group):
        raise AssertionError(group)

    monkeypatch.setattr(metadata, "entry_points", refuse)
    assert not hasattr(neurons, "__wrapped__")


def test_a_host_of_another_package_is_one_of_ours(third_party):
    assert plugins.hosts()[-1] == "abacus"
    (listed,) = (c for c in plugins.components() if c.host == "abacus")
    assert listed.cls is plugins.abacus.LIF
    assert plugins.abacus.make(neurons.LIF()).neuron.name == "LIF"


def test_an_unknown_host_is_named_beside_those_there_are(third_party):
    with pytest.raises(AttributeError, match=r"no host 'abakus'; there are .*norse, abacus"):
        _ = plugins.abakus


def test_a_host_that_cannot_be_imported_is_left_out_and_said(third_party):
    third_party.append(metadata.EntryPoint("lost", "there_is_no_such_module", "spikeloom.hosts"))
    with pytest.warns(RuntimeWarning, match=r"lost .* is left out: .*there_is_no_such_module"):
        found = plugins.components()
    assert {"spikingjelly", "abacus"} <= {component.host for component in found}
