"""Neurons behind a synaptic current, and leaky integrators, against loops in float64."""

import nir
import pytest
import torch
from torch import nn

from spikeloom import SpikingLayer, neurons, run
from spikeloom.export import NotExpressible, Verdict, run_nir, to_nir


def grid(steps=40, width=5):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(steps, 3, width, generator=generator).mul(4).round().div(4)


def loop(x, a_syn, a_mem, threshold=None, reset=0.0, leak=0.0):
    """The equations with a = dt / tau, in plain arithmetic."""
    v, i, outputs = torch.full_like(x[0].double(), leak), torch.zeros_like(x[0].double()), []
    for now in x.double():
        i = i + now
        v = v + a_mem * (leak - v + i)
        i = i - a_syn * i
        if threshold is None:
            outputs.append(v)
            continue
        s = (v > threshold).double()
        v = torch.where(s > 0, reset, v)
        outputs.append(s)
    return torch.stack(outputs)


@pytest.mark.parametrize("leak", [0.0, 0.25])
def test_cuba_lif_fires_as_a_loop(leak):
    neuron = neurons.CubaLIF(500.0, 250.0, leak, 0.75, -0.5)
    spikes, _ = run(neuron, grid())
    expected = loop(grid(), 0.5, 0.25, 0.75, -0.5, leak)
    assert 0.02 < expected.mean() < 0.9
    assert torch.equal(spikes.double(), expected)


def test_leaky_integrators_are_a_loop():
    found, _ = run(neurons.CubaLI(500.0, 250.0), grid())
    torch.testing.assert_close(found.double(), loop(grid(), 0.5, 0.25), rtol=1e-5, atol=1e-5)
    found, _ = run(neurons.LI(250.0), grid())
    torch.testing.assert_close(found.double(), loop(grid(), 1.0, 0.25), rtol=1e-5, atol=1e-5)


def test_iaf_fires_as_a_loop():
    spikes, _ = run(neurons.IAF(0.75, -0.5), grid())
    v, expected = torch.full((3, 5), -0.5), []
    for now in grid():
        v = v + now
        expected.append((v > 0.75).float())
        v = torch.where(v > 0.75, -0.5, v)
    assert torch.equal(spikes, torch.stack(expected))


def test_rest_is_where_the_potential_leaks_or_resets_to():
    assert neurons.CubaLIF(v_leak=0.5).rest == {"v": 0.5, "i": 0.0}
    assert neurons.LI(v_leak=torch.tensor(0.25)).rest == {"v": 0.25}
    assert neurons.IAF(v_reset=torch.tensor([0.5, 0.25])).rest == {"v": 0.0}


NODES = [
    (neurons.CubaLIF(500.0, 250.0, v_th=0.5), nir.CubaLIF),
    (neurons.CubaLIF(500.0, 250.0, v_th=0.5, v_reset=-0.5), nir.CubaLIF),
    (neurons.CubaLIF(500.0, 250.0, v_leak=0.25, v_th=0.5), nir.CubaLIF),
    (neurons.IAF(0.75), nir.IF),
    (neurons.IAF(0.75, -0.25), nir.IF),
    (neurons.CubaLI(500.0, 250.0), nir.CubaLI),
    (neurons.LI(250.0), nir.LI),
]


@pytest.mark.parametrize(("neuron", "kind"), NODES, ids=lambda value: str(value))
def test_each_is_one_node_of_a_file(neuron, kind):
    x = grid()
    graph, report = to_nir(nn.Sequential(SpikingLayer(neuron)), x, target="nir")
    assert isinstance(graph.nodes["0"], kind)
    assert report.column("verdict") == [Verdict.EXACT]
    expected, _ = run(neuron, x)
    torch.testing.assert_close(run_nir(graph, x), expected, rtol=1e-5, atol=1e-5)


def test_an_output_that_begins_at_a_leak_potential_is_refused():
    net = nn.Sequential(SpikingLayer(neurons.LI(250.0, v_leak=0.25)))
    with pytest.raises(NotExpressible, match=r"a potential that begins at 0\.25, in NIR at 0"):
        to_nir(net, grid())


@pytest.mark.parametrize("name", ["tau_syn_inv", "tau_mem_inv", "dt"])
def test_a_rate_that_is_not_positive_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        neurons.CubaLIF(**{name: 0.0})
