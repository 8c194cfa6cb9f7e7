"""What snn-mlir, which makes C of a graph, takes a leaky neuron of ours for."""

import nir
import pytest
import torch
from torch import nn

from spikeloom import SpikingLayer, neurons
from spikeloom.export import run_nir, to_nir

X = torch.randint(0, 9, (50, 2, 8), generator=torch.Generator().manual_seed(0)) / 2


def written():
    """A network whose neurons have a time constant of 4 steps, as a graph."""
    torch.manual_seed(0)
    neuron = neurons.LIF(tau=4.0, fires_at_threshold=False)
    graph, _ = to_nir(nn.Sequential(nn.Linear(8, 3), SpikingLayer(neuron)), X)
    return graph


def scaled(graph):
    """The graph with potentials counted in units in which an input of 1 adds 1."""
    for node in graph.nodes.values():
        if isinstance(node, nir.LIF):
            steps = node.tau / graph.metadata["dt"]
            node.r, node.v_threshold = node.r * steps, node.v_threshold * steps
    return graph


def decay_read(graph):
    snn_mlir = pytest.importorskip("snn_mlir")
    (found,) = [layer.decay for layer in snn_mlir.parse_graph(graph) if hasattr(layer, "decay")]
    return found


def test_a_leaky_neuron_as_it_is_written_is_misread():
    assert decay_read(written()) == 0.0


def test_a_leaky_neuron_in_other_units_keeps_its_leak():
    assert decay_read(scaled(written())) == pytest.approx(1 - 1 / 4)


def test_a_neuron_fires_the_same_spikes_in_either_units():
    spikes = run_nir(written(), X)
    assert spikes.any() and torch.equal(run_nir(scaled(written()), X), spikes)
