"""SpikingJelly's export call with our exporter behind it; H as in its conformance list."""

import nir
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.nir_exchange import export_to_nir as theirs
from torch import nn

from spikeloom.export import NotExpressible, read, run_nir
from spikeloom.plugins import spikingjelly as loom
from tests.export.readers import with_spikingjelly
from tests.plugins.exchange import begins_like, runs_without_nir, sample, weighted


def net_of(step_mode="m"):
    net = nn.Sequential(
        layer.Linear(6, 20),
        loom.LIFNode(tau=2.0),
        layer.Linear(20, 12, bias=False),
        neuron.LIFNode(tau=4.0, decay_input=False),
        layer.Linear(12, 4),
        loom.ParametricLIFNode(init_tau=2.0),
    )
    functional.set_step_mode(net, step_mode)
    return net


def test_the_call_is_the_host_s():
    assert begins_like(loom.export_to_nir, theirs)


@pytest.mark.readers
@pytest.mark.parametrize("grid", [False, True], ids=["float", "grid"])
def test_spikingjelly_reads_the_same_spikes(grid):
    """H 31."""
    net, x = weighted(net_of(), grid), sample(4, 6, grid=grid)
    graph = loom.export_to_nir(net, x)
    with torch.no_grad():
        spikes = net(x)
    assert 0.02 < spikes.mean() < 0.98
    assert graph.report.mismatch == 0
    assert torch.equal(with_spikingjelly(graph, x), spikes)


@pytest.mark.parametrize("dt", [1e-4, 1e-3])
def test_the_file_is_written_for_its_time_step(dt, tmp_path):
    net, x = weighted(net_of(), False), sample(4, 6, grid=False)
    graph = loom.export_to_nir(net, x, tmp_path / "net.nir", dt)
    again = read(tmp_path / "net.nir")
    assert again.nodes["1"].tau[0] == pytest.approx(2 * dt)
    assert graph.report.dt == dt
    with torch.no_grad():
        assert torch.equal(run_nir(again, x, dt), net(x))


@pytest.mark.parametrize("grid", [False, True], ids=["float", "grid"])
def test_one_step_is_enough_for_a_network_that_takes_steps(grid):
    net, x = weighted(net_of("s"), grid), sample(4, 6, grid=grid)
    graph = loom.export_to_nir(net, x[0])
    assert "sample of shape [50, 4, 6]" in str(graph.report)
    with torch.no_grad():
        spikes = torch.stack([net(now) for now in x])
    assert torch.equal(run_nir(graph, x), spikes)


def test_what_nir_cannot_say_is_refused_and_nothing_written(tmp_path):
    net = nn.Sequential(
        nn.Linear(6, 4), loom.LIFNode(v_reset=None), nn.Linear(4, 4), loom.SignGDNode("gelu")
    )
    path = tmp_path / "net.nir"
    with pytest.raises(NotExpressible) as caught:
        loom.export_to_nir(net, torch.rand(2, 6), path)
    assert [offence.module for offence in caught.value.offences] == ["1", "3"]
    assert not path.exists()


def test_further_arguments_reach_the_exporter():
    net = weighted(nn.Sequential(nn.Linear(6, 4), loom.LIFNode(v_reset=None)), True)
    graph = loom.export_to_nir(net, torch.rand(2, 6), on_inexact="subgraph", target="nir", steps=9)
    assert graph.report.target == "nir"
    assert {"LI", "Threshold"} <= {type(node).__name__ for node in graph.nodes.values()}
    assert "[9, 2, 6]" in str(graph.report)


def test_the_graph_can_be_written_with_its_report(tmp_path):
    graph = loom.export_to_nir(weighted(net_of("s"), True), torch.rand(2, 6))
    nir.write(tmp_path / "net.nir", graph)
    assert nir.read(tmp_path / "net.nir").nodes.keys() == graph.nodes.keys()


def test_nir_is_missed_only_when_it_is_called():
    done = runs_without_nir(
        "import torch\n"
        "from spikeloom.plugins import spikingjelly as loom\n"
        "assert loom.to_host(loom.LIFNode(), torch.rand(2, 3))\n"
        "loom.export_to_nir(loom.LIFNode(), torch.rand(2, 3))"
    )
    assert done.stderr.strip().endswith(
        'ImportError: spikeloom.export needs nir: pip install "spikeloom[nir]"'
    )


@pytest.mark.parametrize("cls", [neuron.ParametricLIFNode, loom.ParametricLIFNode])
@pytest.mark.parametrize("init_tau", [2.0, 3.3])
@pytest.mark.parametrize("decay_input", [True, False])
def test_parametric_neurons_are_exported(decay_input, init_tau, cls):
    node = cls(init_tau, decay_input, step_mode="m")
    net, x = weighted(nn.Sequential(nn.Linear(6, 4), node), True), sample(4, 6, grid=True)
    graph = loom.export_to_nir(net, x)
    with torch.no_grad():
        assert torch.equal(run_nir(graph, x), net(x))
