"""Filters, ternary spikes, sign gradient descent, and neurons that only spikeloom reads."""

import nir
import numpy as np
import pytest
import torch
from torch import nn

from spikeloom import Neuron, SpikingLayer, neurons, run
from spikeloom.export import NotExpressible, Verdict, read, run_nir, to_nir
from spikeloom.neurons import Constant, Exponential

T = 24


def net_of(neuron: Neuron) -> nn.Module:
    return nn.Sequential(SpikingLayer(neuron))


def grid(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(T, 3, *shape, generator=generator).mul(4).round().div(4)


@pytest.mark.parametrize(
    ("neuron", "kind"),
    [
        (neurons.Trace(0.5), nir.LI),
        (neurons.Trace(0.9), nir.LI),
        (neurons.Trace(0.0), nir.LI),
        (neurons.Trace(1.0), nir.I),
        (neurons.Trace(torch.tensor([0.0, 0.25, 0.5, 0.75])), nir.LI),
        (neurons.Trace(0.5, synaptic_decay=0.75), nir.CubaLI),
    ],
)
def test_a_trace_is_one_node(neuron, kind):
    graph, report = to_nir(net_of(neuron), grid(4))
    assert isinstance(graph.nodes["0"], kind)
    assert report.column("verdict") == [Verdict.EXACT]
    expected, _ = run(neuron, grid(4))
    torch.testing.assert_close(run_nir(graph, grid(4)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unit_spikes", [False, True])
def test_ternary_spikes_without_memory_are_an_exact_subgraph(unit_spikes):
    neuron = neurons.ElasticBiSpike(0.75, decay=0.0, unit_spikes=unit_spikes)
    graph, report = to_nir(net_of(neuron), grid(4), on_inexact="subgraph")
    expected, _ = run(neuron, grid(4))
    assert report.mismatch == 0
    assert expected.unique().numel() == 3
    torch.testing.assert_close(run_nir(graph, grid(4)), expected)


@pytest.mark.parametrize("reset", ["released", "symmetric"])
def test_ternary_spikes_with_memory_are_only_near_and_the_error_is_stated(reset):
    neuron = neurons.ElasticBiSpike(1.0, reset=reset)
    with pytest.raises(NotExpressible, match=r"is APPROXIMATE.*% of the output differs") as caught:
        to_nir(net_of(neuron), grid(4))
    (offence,) = caught.value.offences
    graph, report = to_nir(net_of(neuron), grid(4), on_inexact="approximate")
    expected, _ = run(neuron, grid(4))
    different = (run_nir(graph, grid(4)) - expected).abs().gt(1e-4).float().mean()
    assert 0 < report.mismatch == pytest.approx(float(different))
    assert offence.error == pytest.approx(report.mismatch)


def test_a_membrane_that_grows_has_nothing_near_it():
    with pytest.raises(NotExpressible, match="grows instead of leaking"):
        to_nir(net_of(neurons.ElasticBiSpike(5.0)), grid(4), on_inexact="approximate")


def test_a_single_step_uses_no_memory_and_is_exact():
    x = grid(4)[:1]
    for alpha in (0.75, torch.tensor([0.75])):
        neuron = neurons.ElasticBiSpike(alpha)
        graph, report = to_nir(net_of(neuron), x, on_inexact="subgraph")
        assert report.column("verdict") == [Verdict.SUBGRAPH]
        assert "sequences of one step" in report.column("note")[0]
        assert torch.equal(run_nir(graph, x), run(neuron, x)[0])


@pytest.mark.parametrize("alpha", [0.75, 1.0, 1.99999988, 0.3, 1e-6])
def test_ternary_spikes_next_to_their_threshold_are_the_neurons_own(alpha):
    neuron = neurons.ElasticBiSpike(alpha, decay=0.0)
    half = np.float32(max(alpha, 1e-5) / 2)
    near = [half]
    for _ in range(3):
        near = [np.nextafter(near[0], np.float32(0)), *near, np.nextafter(near[-1], np.float32(9))]
    x = torch.tensor([near, [-value for value in near]]).reshape(2, 1, 7)
    graph, _ = to_nir(net_of(neuron), x, on_inexact="subgraph")
    assert torch.equal(run_nir(graph, x), run(neuron, x)[0])


def test_a_descent_without_nodes_is_refused_unless_extensions_are_allowed():
    neuron = neurons.SignGD("gelu", Constant(0.1))
    with pytest.raises(NotExpressible, match="no gelu to compare"):
        to_nir(net_of(neuron), grid(4), on_inexact="subgraph")
    graph, report = to_nir(net_of(neuron), grid(4), on_inexact="extension")
    assert report.column("verdict") == [Verdict.EXTENSION]
    assert torch.equal(run_nir(graph, grid(4)), run(neuron, grid(4))[0])


EXTENDED = [
    neurons.ElasticBiSpike(0.8, reset="symmetric"),
    neurons.ElasticBiSpike(torch.linspace(0.5, 1, T)),
    neurons.SignGD("elu", Exponential(0.3, 0.9), scale=torch.ones(4), alpha=0.5),
    neurons.SignGD("tanh", [0.5] * T),
    neurons.SignTracker(Exponential(0.3, 0.9), T, function="softplus", beta=2.0),
]


@pytest.mark.parametrize("neuron", EXTENDED, ids=repr)
def test_an_extension_is_rebuilt_from_the_file(neuron, tmp_path):
    path = tmp_path / "net.nir"
    x = grid(4)
    _, report = to_nir(net_of(neuron), x, on_inexact="extension", path=path)
    expected, _ = run(neuron, x)
    assert report.mismatch == 0
    assert torch.equal(run_nir(read(path), x), expected)
    assert isinstance(nir.read(path).nodes["0"], nir.NIRGraph)
    assert "only spikeloom.export reads it" in report.column("note")[0]


def test_without_its_metadata_an_extension_is_silent():
    graph, _ = to_nir(net_of(EXTENDED[0]), grid(4), on_inexact="extension")
    graph.nodes["0"].metadata = {}
    assert not run_nir(graph, grid(4)).any()


def tampered(**metadata: str) -> nir.NIRGraph:
    graph, _ = to_nir(net_of(EXTENDED[0]), grid(4), on_inexact="extension")
    graph.nodes["0"].metadata.update(metadata)
    return graph


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"neuron": "Future"}, "has no neuron 'Future'"),
        ({"neuron": "surrogate"}, "has no neuron 'surrogate'"),
        ({"settings": "{"}, "settings of ElasticBiSpike do not fit"),
        ({"settings": "[]"}, "settings of ElasticBiSpike do not fit: they are a list, no object"),
        ({"settings": "null"}, "settings of ElasticBiSpike do not fit"),
        ({"settings": "[" * 100_000}, "settings of ElasticBiSpike do not fit"),
        ({"settings": '{"alpha": -1}'}, "alpha must be positive"),
        ({"settings": '{"alpha": {"is": "eval"}}'}, "unknown setting 'eval'"),
        ({"settings": '{"beta": 1}'}, "settings of ElasticBiSpike do not fit"),
    ],
)
def test_a_damaged_extension_is_named(metadata, message):
    with pytest.raises(ValueError, match=f"node '0'.*{message}"):
        run_nir(tampered(**metadata), grid(4))


def test_a_users_own_neuron_is_no_extension():
    def own(x, state, p):
        (v,) = state
        return v * x, (v + x,)

    with pytest.raises(NotExpressible, match="no step that NIR can state"):
        to_nir(net_of(Neuron(own)), grid(4), on_inexact="extension")


def test_an_extension_does_not_replace_an_exact_form():
    for v_reset, verdict in ((0.0, Verdict.EXACT), (None, Verdict.SUBGRAPH)):
        net = net_of(neurons.LIF(v_reset=v_reset))
        _, report = to_nir(net, grid(4), on_inexact="extension")
        assert report.column("verdict") == [verdict]
