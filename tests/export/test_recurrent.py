"""Recurrent layers as graphs with an edge back."""

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import export, neurons
from tests.export.readers import READERS

T, BATCH, N = 100, 2, 8


def network(neuron, bias=False):
    torch.manual_seed(0)
    first, last = nn.Linear(6, N), nn.Linear(N, 3)
    layer = spikeloom.Recurrent(neuron, N, bias)
    for module in (first, layer, last):
        for parameter in module.parameters():
            parameter.data = torch.randint(-12, 17, parameter.shape) / 8
    return nn.Sequential(first, layer, last, spikeloom.SpikingLayer(neurons.LIF())).eval()


def drive():
    torch.manual_seed(1)
    return (torch.rand(T, BATCH, 6) < 0.4).float()


NEURONS = {
    "LIF": lambda: neurons.LIF(tau=2.0),
    "IF": lambda: neurons.IF(),
    "LIFBox": lambda: neurons.LIFBox(500.0),
    "graded": lambda: neurons.Leaky(0.5, reset_mechanism="zero", graded_spikes_factor=0.5),
    "soft reset": lambda: neurons.LIF(tau=2.0, v_reset=None),
}


@pytest.mark.parametrize("name", NEURONS)
def test_a_layer_is_written_with_an_edge_back_and_read_back_fires_alike(name, tmp_path):
    net, x = network(NEURONS[name]()), drive()
    how = "subgraph" if name == "soft reset" else "raise"
    graph, _ = export.to_nir(net, x, on_inexact=how)
    assert any(target == "1.recurrent" for _, target in graph.edges)
    export.write(tmp_path / "net.nir", graph)
    found = export.run_nir(export.read(tmp_path / "net.nir"), x)
    with torch.no_grad():
        expected = net(x)
        net[1].weight.zero_()
        assert not torch.equal(net(x), expected)
    assert 0 < expected.mean() < 1
    assert torch.equal(found, expected)


@pytest.mark.parametrize("first", [True, False], ids=["behind weights", "at the input"])
def test_a_bias_that_returns_is_added_before_the_neuron_from_the_first_step_on(first):
    net, x = network(neurons.LIF(tau=2.0), bias=True), drive()
    if not first:
        net, x = net[1:], torch.cat([x, x[..., :2]], -1)
    graph, _ = export.to_nir(net, x)
    kinds = sorted(type(node).__name__ for node in graph.nodes.values())
    assert kinds == sorted(["Affine", "Affine", "Input", "LIF", "LIF", "Linear", "Output"])
    with torch.no_grad():
        assert torch.equal(export.run_nir(graph, x), net(x))


@pytest.mark.parametrize("reader", ["nirtorch", "spikingjelly", "norse"])
@pytest.mark.parametrize("name", ["LIF", "IF", "LIFBox"])
def test_other_readers_of_a_recurrent_graph_fire_alike(name, reader):
    net, x = network(NEURONS[name]()), drive()
    graph, _ = export.to_nir(net, x)
    with torch.no_grad():
        assert torch.equal(READERS[reader](graph, x), net(x))


def test_snntorchs_reader_stops_at_an_edge_back_and_its_profile_says_so():
    net, x = network(neurons.LIF(tau=2.0)), drive()
    graph, report = export.to_nir(net, x)
    assert any("snntorch does not read the file" in note for note in report.notes)
    with pytest.raises(AttributeError):
        READERS["snntorch"](graph, x)
    with pytest.raises(export.NotExpressible, match="has an edge back to it; read it with"):
        export.to_nir(net, x, target="snntorch")
