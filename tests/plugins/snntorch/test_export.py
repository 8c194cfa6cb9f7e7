"""snnTorch's export call with our exporter behind it; H as in its conformance list."""

import nir
import pytest
import snntorch
import torch
from snntorch.export_nir import export_to_nir as theirs
from torch import nn

from spikeloom.export import NotExpressible, run_nir
from spikeloom.plugins import snntorch as loom
from tests.export.readers import with_snntorch
from tests.plugins.exchange import begins_like, runs_without_nir, sample, weighted

ZERO = {"reset_mechanism": "zero", "init_hidden": True}


def net_of():
    return nn.Sequential(
        nn.Linear(6, 20),
        loom.Leaky(0.5, **ZERO),
        nn.Linear(20, 12, bias=False),
        snntorch.Leaky(0.75, learn_beta=True, **ZERO),
        nn.Linear(12, 4),
        loom.Leaky(0.5, threshold=2.0, output=True, **ZERO),
    )


def spikes_of(net, x):
    loom.reset(net)
    with torch.no_grad():
        return torch.stack([net(now)[0] for now in x])


def test_the_call_is_the_host_s():
    assert begins_like(loom.export_to_nir, theirs)


@pytest.mark.readers
@pytest.mark.parametrize("grid", [False, True], ids=["float", "grid"])
def test_snntorch_reads_the_same_spikes(grid):
    """H 27: also with beta and threshold as single numbers, where its own exporter fails."""
    net, x = weighted(net_of(), grid), sample(4, 6, grid=grid)
    graph = loom.export_to_nir(net, x[0])
    assert graph.report.mismatch == 0 and graph.report.dt == 1e-4
    spikes = spikes_of(net, x)
    assert 0.02 < spikes.mean() < 0.98
    assert torch.equal(with_snntorch(graph, x), spikes)


def test_a_step_without_batch_gives_the_same_graph():
    net, x = weighted(net_of(), True), sample(4, 6, grid=True)
    graph = loom.export_to_nir(net, x[0, 0])
    assert torch.equal(run_nir(graph, x), spikes_of(net, x))
    assert list(graph.nodes["input"].input_type["input"]) == [6]


def test_a_network_over_time_is_followed():
    net = nn.Sequential(nn.Linear(6, 4), loom.Leaky(0.5, time_first=True, **ZERO))
    net, x = weighted(net, True), sample(4, 6, grid=True)
    with torch.no_grad():
        assert torch.equal(run_nir(loom.export_to_nir(net, x), x), net(x))


@pytest.mark.parametrize("mechanism", ["subtract", "none"])
@pytest.mark.parametrize("leaky", [loom.Leaky, snntorch.Leaky], ids=["ours", "snntorch's"])
def test_a_reset_that_snntorch_would_write_as_another_is_refused(leaky, mechanism):
    """H 28: with the share of wrong spikes."""
    net = nn.Sequential(nn.Linear(6, 4), leaky(0.5, reset_mechanism=mechanism, init_hidden=True))
    with pytest.raises(NotExpressible, match=r"1 \(Leaky\) is SUBGRAPH.*% of the output differs"):
        loom.export_to_nir(weighted(net, False), sample(4, 6, grid=False)[0])


def test_a_single_module_has_the_name_of_the_model():
    alone = loom.Leaky(0.5, reset_mechanism="zero")
    assert "lif" in loom.export_to_nir(alone, 3 * torch.rand(4, 3), "lif").nodes
    assert "snntorch" in loom.export_to_nir(alone, 3 * torch.rand(4, 3)).nodes


class WithArguments(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.lif = nn.Linear(6, 4), loom.Leaky(0.5, **ZERO)

    def forward(self, x, used, unused=None):
        return self.lif(self.fc(x) if used else x)


def test_further_arguments_reach_the_network():
    net, x = weighted(WithArguments(), True), sample(4, 6, grid=True)
    graph = loom.export_to_nir(net, x[0], "snntorch", [True, None])
    assert set(graph.nodes) == {"fc", "lif", "input", "output"}
    with torch.no_grad():
        expected = torch.stack([net(now, True) for now in x])
    assert torch.equal(run_nir(graph, x), expected)
    assert net.forward.__func__ is WithArguments.forward
    with pytest.raises(ValueError, match="forward takes 2 more arguments, got 3"):
        loom.export_to_nir(net, x[0], model_fwd_args=[True, None, 1])


@pytest.mark.parametrize("dims", [[0], (-2,)])
def test_the_batch_may_be_named_as_ignored(dims):
    graph = loom.export_to_nir(weighted(net_of(), True), torch.rand(1, 6), ignore_dims=dims)
    assert list(graph.nodes["input"].input_type["input"]) == [6]


def test_an_axis_of_the_signal_cannot_be_ignored():
    with pytest.raises(ValueError, match=r"ignore_dims: .* first 1 axes .*got \[1\]"):
        loom.export_to_nir(net_of(), torch.rand(1, 6), ignore_dims=[1])


def test_the_graph_can_be_written_with_its_report(tmp_path):
    graph = loom.export_to_nir(weighted(net_of(), True), torch.rand(2, 6))
    nir.write(tmp_path / "net.nir", graph)
    assert nir.read(tmp_path / "net.nir").nodes.keys() == graph.nodes.keys()


def test_nir_is_missed_only_when_it_is_called():
    """H 29."""
    done = runs_without_nir(
        "import torch\n"
        "from spikeloom.plugins import snntorch as loom\n"
        "assert loom.to_host(loom.Leaky(0.5), torch.rand(2, 3))\n"
        "loom.export_to_nir(loom.Leaky(0.5), torch.rand(2, 3))"
    )
    assert done.stderr.strip().endswith(
        'ImportError: spikeloom.export needs nir: pip install "spikeloom[nir]"'
    )
