"""Extensions: nested graphs that name a neuron of spikeloom's own, and nothing else."""

import sys
from importlib import metadata

import nir
import numpy as np
import pytest
import torch
from torch import nn

from spikeloom import Neuron, SpikingLayer, export, neurons
from spikeloom.export.graph.extension import neuron_in, node_of

HOSTILE = """
from spikeloom import Neuron

class Trojan(Neuron):
    def __init__(self):
        super().__init__(lambda x, state, p: (x, state), state=())

    def settings(self):
        return {}
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An installed package that offers a neuron under a name that a file may hold."""
    (tmp_path / "trojan.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(tmp_path)
    offered = [metadata.EntryPoint("Trojan", "trojan:Trojan", "spikeloom.neurons")]
    monkeypatch.setattr(metadata, "entry_points", lambda *, group: offered)
    yield
    sys.modules.pop("trojan", None)


def extension(name: str, settings: str = "{}") -> nir.NIRGraph:
    graph = node_of(neurons.SignGD("gelu"), {}, (2,))
    graph.metadata = {**graph.metadata, "neuron": name, "settings": settings}
    return graph


@pytest.mark.parametrize(
    "name", ["Trojan", "surrogate", "fit_hg", "Constant", "metadata", "__doc__"]
)
def test_a_file_names_none_but_our_own_neurons(name, installed):
    with pytest.raises(ValueError, match=f"has no neuron '{name}'"):
        neuron_in(extension(name))
    assert "trojan" not in sys.modules


def test_a_hostile_file_imports_nothing(installed, tmp_path):
    inner = extension("Trojan")
    linear = nir.Linear(np.eye(2, dtype=np.float32))
    nir.write(tmp_path / "hostile.nir", nir.NIRGraph.from_list(linear, inner))
    graph = export.read(tmp_path / "hostile.nir")
    with pytest.raises(ValueError, match="Trojan"):
        export.run_nir(graph, torch.ones(3, 1, 2))
    assert "trojan" not in sys.modules


def test_a_neuron_of_another_package_is_not_written_as_an_extension(installed):
    neuron = neurons.Trojan()
    assert node_of(neuron, {}, (2,)) is None
    net = nn.Sequential(nn.Linear(2, 2), SpikingLayer(neuron))
    with pytest.raises(export.NotExpressible, match="no step that NIR can state"):
        export.to_nir(net, torch.rand(3, 1, 2), on_inexact="extension")


def test_every_neuron_of_ours_may_be_named():
    own = [getattr(neurons, name) for name in neurons.__all__]
    for cls in own:
        if isinstance(cls, type) and issubclass(cls, Neuron):
            with pytest.raises(ValueError, match=f"the settings of {cls.__name__} do not fit"):
                neuron_in(extension(cls.__name__, '{"no such setting": 1}'))
