"""Recurrent layers as graphs with an edge back."""

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import export, neurons

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


def test_a_bias_that_returns_is_refused_with_a_remedy():
    with pytest.raises(export.NotExpressible, match="put the bias into the layer before it"):
        export.to_nir(network(neurons.LIF(tau=2.0), bias=True), drive())
