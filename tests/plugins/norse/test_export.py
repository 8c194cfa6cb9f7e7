"""Norse's export call with our exporter behind it; H numbers are those of its conformance list."""

import nir
import norse.torch as snn
import pytest
import torch
from norse.torch import LIFBoxParameters
from torch import nn

from spikeloom.export import NotExpressible, run_nir
from spikeloom.plugins import norse as loom
from tests.plugins.exchange import begins_like, sample, weighted

DT = 0.001


def p_of(rate):
    return LIFBoxParameters(tau_mem_inv=torch.tensor(rate))


def net_of(lif):
    return snn.SequentialState(
        nn.Linear(6, 20),
        lif(p_of(500.0)),
        nn.Linear(20, 12, bias=False),
        lif(p_of(250.0)),
        nn.Linear(12, 4),
        lif(p_of(500.0)),
    )


def read_by_norse(graph, x):
    state, spikes = None, []
    net = snn.from_nir(graph, dt=DT)
    with torch.no_grad():
        for now in x:
            y, state = net(now, state)
            spikes.append(y)
    return torch.stack(spikes)


def test_the_call_is_the_host_s():
    assert begins_like(loom.to_nir, snn.to_nir)


@pytest.mark.readers
@pytest.mark.parametrize("grid", [False, True], ids=["float", "grid"])
@pytest.mark.parametrize("lif", [loom.LIFBox, loom.LIFBoxCell, snn.LIFBoxCell])
def test_norse_reads_the_same_spikes(lif, grid):
    """H 16 and 17: with its own time step, of 1 ms."""
    net, x = weighted(net_of(lif), grid), sample(4, 6, grid=grid)
    graph = loom.to_nir(net, x if lif is loom.LIFBox else x[0])
    assert graph.report.mismatch == 0 and graph.report.dt == DT
    assert graph.nodes["1"].tau[0] == pytest.approx(1 / 500)
    with torch.no_grad():
        spikes = net(x)[0] if lif is loom.LIFBox else snn.Lift(net)(x)[0]
    assert 0.02 < spikes.mean() < 0.98
    assert torch.equal(read_by_norse(graph, x), spikes)


def test_another_time_step_stretches_the_time_constants():
    net, x = weighted(net_of(loom.LIFBox), True), sample(4, 6, grid=True)
    graph = loom.to_nir(net, x, dt=1e-4)
    assert graph.nodes["1"].tau[0] == pytest.approx(1e-4 / (DT * 500))
    with torch.no_grad():
        assert torch.equal(run_nir(graph, x, 1e-4), net(x)[0])


def test_a_reset_that_norse_would_drop_is_refused():
    from norse.torch.functional.reset import reset_subtract

    p = LIFBoxParameters(tau_mem_inv=torch.tensor(500.0), reset_method=reset_subtract)
    net = snn.SequentialState(nn.Linear(6, 4), loom.LIFBoxCell(p))
    with pytest.raises(NotExpressible, match=r"1 \(LIFBoxCell\) is SUBGRAPH"):
        loom.to_nir(weighted(net, False), sample(4, 6, grid=False)[0])


@pytest.mark.parametrize("lif", [loom.LIFBox, loom.LIFBoxCell])
def test_a_single_module_has_the_name_of_the_model(lif):
    x = 20 * torch.rand(*((9,) if lif is loom.LIFBox else ()), 4, 3)
    assert "lif" in loom.to_nir(lif(), x, "lif").nodes
    assert "norse" in loom.to_nir(lif(), x).nodes


def test_the_graph_can_be_written_with_its_report(tmp_path):
    graph = loom.to_nir(weighted(net_of(loom.LIFBoxCell), True), torch.rand(2, 6))
    nir.write(tmp_path / "net.nir", graph)
    assert nir.read(tmp_path / "net.nir").nodes.keys() == graph.nodes.keys()
