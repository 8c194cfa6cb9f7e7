"""Imported networks, written again: recurrent and nested ones, trained or not."""

import itertools

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spikeloom import SpikingLayer, neurons, plugins
from spikeloom.export import NotExpressible, Verdict, from_nir, read, run_nir, to_nir
from tests.export.graph.test_interpreter import chain, drawn, loop, soft_reset

DT = 1e-4
F = np.float32
N = 4
ONE = np.ones(N, F)
X = torch.from_numpy(drawn(40, 3, N, high=3.0, seed=8))
HOSTS = {
    "neutral": SpikingLayer,
    "spikingjelly": lambda neuron: plugins.spikingjelly.make(neuron),
    "snntorch": lambda neuron: plugins.snntorch.make(neuron),
    "norse": lambda neuron: plugins.norse.make(neuron),
}


def lif() -> nir.LIF:
    return nir.LIF(tau=2e-4 * ONE, r=ONE, v_leak=0 * ONE, v_threshold=ONE / 2)


def recurrent() -> nir.NIRGraph:
    """A layer that feeds itself through weights, and a second one behind it."""
    nodes = {
        "come": nir.Affine(weight=drawn(N, N, low=-2, seed=1), bias=drawn(N, seed=2)),
        "lif": lif(),
        "back": nir.Linear(weight=drawn(N, N, low=-2, seed=3)),
        "go": nir.Linear(weight=drawn(N, N, low=-2, seed=4)),
        "last": lif(),
    }
    edges = [("input", "come"), ("come", "lif"), ("lif", "back"), ("back", "lif"), ("lif", "go")]
    return loop(nodes, *edges, ("go", "last"), ("last", "output"), size=N)


def nested() -> nir.NIRGraph:
    """A soft reset in a graph of its own, inside a loop."""
    inner = soft_reset()
    nodes = {"inner": inner, "gain": nir.Scale(scale=np.ones(1, F) / 2)}
    edges = [("input", "inner"), ("inner", "gain"), ("gain", "inner"), ("inner", "output")]
    return loop(nodes, *edges)


GRAPHS = {
    "recurrent": recurrent,
    "a soft reset": soft_reset,
    "nested": nested,
    "current-based": lambda: chain(
        nir.Linear(weight=drawn(N, N, low=-1, seed=5)),
        nir.CubaLIF(
            tau_syn=3e-4 * ONE, tau_mem=4e-4 * ONE, r=ONE, v_leak=0 * ONE, v_threshold=ONE / 4
        ),
        nir.Delay(delay=2e-4 * ONE),
        nir.LI(tau=2e-4 * ONE, r=ONE, v_leak=0.1 * ONE),
    ),
}


def sample(graph: nir.NIRGraph) -> Tensor:
    return X[..., : int(graph.nodes["input"].input_type["input"][0])]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_survives_import_and_export(name, host, tmp_path):
    graph = GRAPHS[name]()
    x = sample(graph)
    network = from_nir(graph, make=HOSTS[host])
    again, report = to_nir(network, x, target="nir", path=tmp_path / "again.nir")
    assert report.mismatch == 0
    assert set(report.column("verdict")) == {Verdict.EXACT}
    expected = run_nir(graph, x)
    assert expected.any()
    assert torch.equal(run_nir(again, x), expected)
    assert torch.equal(run_nir(read(tmp_path / "again.nir"), x), expected)
    other = torch.from_numpy(drawn(20, 2, x.shape[2], high=5.0, seed=9))
    assert torch.equal(run_nir(again, other), run_nir(graph, other))


def test_nodes_and_edges_of_a_flat_graph_are_those_of_the_original():
    graph = recurrent()
    again, _ = to_nir(from_nir(graph), X)
    assert set(again.nodes) == set(graph.nodes)
    assert again.edges == graph.edges
    for name, node in graph.nodes.items():
        assert type(again.nodes[name]) is type(node)
        for key in ("weight", "bias", "tau", "v_threshold"):
            if hasattr(node, key):
                assert np.array_equal(getattr(again.nodes[name], key), getattr(node, key))


@pytest.mark.parametrize("host", HOSTS)
def test_a_trained_recurrent_net_is_written_with_its_new_weights(host):
    graph = recurrent()
    network = from_nir(graph, make=HOSTS[host])
    optimizer = torch.optim.SGD(network.parameters(), 0.5)
    network(X).mean(0).sub(0.5).square().mean().backward()
    optimizer.step()
    again, report = to_nir(network, X)
    assert report.mismatch == 0
    assert (again.nodes["back"].weight != graph.nodes["back"].weight).any()
    assert torch.equal(run_nir(again, X), network(X).detach())
    assert any("with its present weights" in note for note in report.notes)


def test_an_exported_time_loop_is_exported_again_after_import():
    from tests.export.test_to_nir import TimeLoop
    from tests.export.test_to_nir import drawn as weighted
    from tests.export.test_to_nir import sample as signal

    net, x = weighted(TimeLoop(), True), signal(6, grid=True)
    first, _ = to_nir(net, x)
    second, report = to_nir(from_nir(first), x)
    assert report.mismatch == 0
    assert second.edges == first.edges
    assert torch.equal(run_nir(second, x), net(x)[0])


def test_an_extension_is_allowed_by_its_flag_only():
    net = nn.Sequential(nn.Linear(N, N), SpikingLayer(neurons.SignGD("gelu")))
    graph, _ = to_nir(net, X, target="nir", on_inexact="extension")
    network = from_nir(graph)
    with pytest.raises(NotExpressible, match='on_inexact="extension"'):
        to_nir(network, X, target="nir")
    again, report = to_nir(network, X, target="nir", on_inexact="extension")
    assert Verdict.EXTENSION in report.column("verdict")
    torch.testing.assert_close(run_nir(again, X), net(X).detach())


def test_a_neuron_that_is_no_longer_its_node_is_named():
    network = from_nir(recurrent())
    network.parts["lif"] = SpikingLayer(neurons.LIF(v_threshold=3.0))
    with pytest.raises(NotExpressible, match="computes something else than the node") as caught:
        to_nir(network, X)
    assert [offence.module for offence in caught.value.offences] == ["lif"]


def test_another_time_step_is_refused():
    with pytest.raises(ValueError, match=r"imported with dt=0\.0001 s, got 0\.001"):
        to_nir(from_nir(recurrent()), X, dt=1e-3)


def test_restrictions_of_the_target_hold_for_imported_nets_too():
    graph = chain(nir.LIF(tau=2e-4 * ONE, r=2 * ONE, v_leak=0 * ONE, v_threshold=ONE))
    with pytest.raises(NotExpressible, match="as LIF for norse: its r is not 1"):
        to_nir(from_nir(graph), X)
    to_nir(from_nir(graph), X, target="nir")


def test_a_recurrent_import_inside_another_model_is_refused_with_a_way_out():
    net = nn.Sequential(nn.Linear(N, N), from_nir(recurrent()))
    with pytest.raises(NotExpressible, match="export it by itself") as caught:
        to_nir(net, X)
    assert [offence.module for offence in caught.value.offences] == ["1"]
    flat = nn.Sequential(nn.Linear(N, N), from_nir(chain(lif())))
    assert to_nir(flat, X)[1].mismatch == 0


def test_weights_on_a_grid_that_were_trained_lose_their_marks():
    marks = {"weight_bits": 4, "weight_scale": ONE, "weight_sparsity": 0.5, "about": "kept"}
    graph = chain(nir.Linear(weight=np.eye(N, dtype=F), metadata=marks), lif())
    name = "linear"
    network = from_nir(graph)
    assert to_nir(network, X)[0].nodes[name].metadata["weight_bits"] == 4
    network.part(name).weight.data += 0.25
    assert dict(to_nir(network, X)[0].nodes[name].metadata) == {"about": "kept"}


def test_every_pair_of_hosts_hands_a_recurrent_net_on():
    graph, expected = recurrent(), run_nir(recurrent(), X)
    for start, end in itertools.permutations(HOSTS, 2):
        again, _ = to_nir(from_nir(graph, make=HOSTS[start]), X)
        assert torch.equal(from_nir(again, make=HOSTS[end])(X), expected), (start, end)


def test_what_a_graph_says_about_itself_is_kept(tmp_path):
    graph = recurrent()
    graph.metadata = {"author": "someone", "mismatch": 0.5}
    again, _ = to_nir(from_nir(graph), sample(graph), target="nir", path=tmp_path / "net.nir")
    assert again.metadata["author"] == "someone"
    assert again.metadata["mismatch"] == 0
    assert read(tmp_path / "net.nir").metadata["author"] == "someone"
