"""snn-mlir, which makes C of a graph: what it takes a neuron for, and the target written for it."""

import nir
import pytest
import torch
from torch import nn

from spikeloom import Recurrent, SpikingLayer, neurons
from spikeloom.export import NotExpressible, run_nir, to_nir

X = torch.randint(0, 9, (100, 2, 8), generator=torch.Generator().manual_seed(0)) / 2
DT = {"IF": 1.0}
NEURONS = {
    "LIF": lambda: neurons.LIF(tau=4.0),
    "above the threshold": lambda: neurons.LIF(tau=4.0, fires_at_threshold=False),
    "LIFBox": lambda: neurons.LIFBox(250.0, v_th=0.55),  # no potential lies on it
    "Leaky": lambda: neurons.Leaky(0.5, reset_mechanism="zero"),
    "IF": lambda: neurons.IF(2.0),
    "CubaLIF": lambda: neurons.CubaLIF(500.0, 250.0),
}


def network(neuron, readout=True):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 5), SpikingLayer(neuron), nn.Linear(5, 3, bias=False))
    for parameter in net.parameters():
        parameter.data = torch.randint(-4, 5, parameter.shape) / 4
    return net if readout else net[:2]


def as_snn_mlir(layers, x):
    """What the generated C computes of the layers that snn-mlir reads, in a plain loop."""
    states = {}
    steps = []
    for now in x.double():
        for number, layer in enumerate(layers):
            if hasattr(layer, "cur_decay"):
                i, v = states.get(number, (0.0, 0.0))
                i = layer.cur_decay * i + now
                v = layer.vol_decay * v + i
                now = (v > layer.threshold).double()
                states[number] = (i, torch.where(now > 0, 0.0, v))
            elif hasattr(layer, "decay"):
                v = layer.decay * states.get(number, 0.0) + now
                now = (v > layer.threshold).double()
                states[number] = torch.where(now > 0, 0.0, v)
            else:
                now = now @ torch.as_tensor(layer.weights).double().T
                if layer.bias is not None:
                    now = now + torch.as_tensor(layer.bias).double()
        steps.append(now)
    return torch.stack(steps)


@pytest.mark.parametrize("name", NEURONS)
def test_the_file_for_snn_mlir_is_read_as_it_is_meant(name):
    net = network(NEURONS[name]())
    graph, report = to_nir(net, X, dt=DT.get(name), target="snn-mlir")
    assert report.mismatch == 0.0
    with torch.no_grad():
        expected = net(X)
    torch.testing.assert_close(run_nir(graph, X), expected)
    snn_mlir = pytest.importorskip("snn_mlir")
    assert snn_mlir.check(graph).ok
    found = as_snn_mlir(list(snn_mlir.parse_graph(graph)), X)
    assert 0 < net[1](net[0](X)).mean() < 1
    assert torch.equal(found.float(), expected)


def test_a_leaky_neuron_of_the_portable_file_is_misread():
    graph, _ = to_nir(network(neurons.LIF(tau=4.0), readout=False), X)
    snn_mlir = pytest.importorskip("snn_mlir")
    (decay,) = [layer.decay for layer in snn_mlir.parse_graph(graph) if hasattr(layer, "decay")]
    assert decay == 0.0


def test_a_leaky_neuron_counts_its_potential_in_units_of_its_input():
    graph, _ = to_nir(network(neurons.LIF(tau=4.0), readout=False), X, target="snn-mlir")
    (node,) = [node for node in graph.nodes.values() if isinstance(node, nir.LIF)]
    assert (node.r == 4.0).all()
    assert node.v_threshold == pytest.approx(4.0)


REFUSED = {
    "reset elsewhere": (neurons.LIFBox(v_reset=-0.5), "its v_reset is not 0"),
    "IF at another time step": (neurons.IF(), "its r is not 1; use dt=1"),
    "potentials out": (neurons.LI(250.0), "takes for the time step"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_snn_mlir_does_not_take_is_refused(name):
    neuron, said = REFUSED[name]
    with pytest.raises(NotExpressible, match=said):
        to_nir(network(neuron), X, target="snn-mlir")


def test_a_recurrent_layer_is_refused():
    net = nn.Sequential(nn.Linear(8, 5), Recurrent(neurons.LIF(), 5))
    with pytest.raises(NotExpressible, match="for snn-mlir: it has an edge back to it"):
        to_nir(net, X, target="snn-mlir")
