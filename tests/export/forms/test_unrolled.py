"""Few-spike neurons as comparisons side by side: the spikes inside are the neuron's, to the bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spikeloom import SpikingLayer, neurons, run
from spikeloom.export import NotExpressible, Verdict, read, run_nir, to_nir
from spikeloom.export.building.comparison import signals_of
from spikeloom.export.forms.candidates import candidates
from spikeloom.export.forms.node_groups import Layer
from spikeloom.kernel.neuron import Neuron
from tests.export.readers import with_nirtorch

TABLE = neurons.FewSpike([4.0, 2.0, 1.0, -0.25], [4.0, 2.0, 1.0, 0.5], [1.0, -2.0, 0.5, 0.75])
STEEP = neurons.FewSpike([2.0, 0.5, 0.25, 0.125], [1.5, 0.5, 0.25, 0.0], [8.0, 4.0, 2.0, 1.0])
BINARY = [4.0, 2.0, 1.0]
RANGES = torch.tensor([0.5, 1.0, 1.25])


def gated(tie: str, **arguments) -> neurons.HG:
    edges, origins, constants = [-1.0, 0.0], [-4.0, -0.5, 0.25], [0.5, 0.0, -1.0]
    return neurons.HG(edges, [TABLE, STEEP, TABLE], origins, constants, tie=tie, **arguments)


NEURONS = {
    "FewSpike": TABLE,
    "FewSpike, on the threshold": neurons.FewSpike(BINARY, BINARY, BINARY, tie="ge"),
    "OAT, one range": neurons.OAT(4, 1.0),
    "OAT, one spike": neurons.OAT(1, 1.0, 2.0),
    "OAT, odd ranges": neurons.OAT(5, 0.3, 3.7, tie="ge"),
    "OAT, three ranges of each neuron": neurons.OAT(4, RANGES, 8.0, between=(3 * RANGES,)),
    "OAT, unit spikes": neurons.OAT(4, 1.0, 4.0, spikes="unit"),
    "OAT, codes": neurons.OAT(4, 1.0, 4.0, spikes="code", tie="ge"),
    "LinearHG": neurons.LinearHG([-16.0, 0.0, 16.0], [-16.0, 8.0], [16.0, 0.0], 4),
    "a fitted HG": neurons.fit_hg("gelu", -16, 16, 4, segments=4),
    **{
        f"OAT, {tie}, {rounding}": neurons.OAT(4, 1.0, 4.0, tie=tie, rounding=rounding)
        for tie in ("gt", "ge")
        for rounding in ("truncate", "nearest")
    },
    **{f"HG, {tie}": gated(tie) for tie in ("gt", "ge")},
    "HG, held, at zero below": neurons.LinearHG(
        [-2.0, 0.0, 2.0], [0.0, 2.0], [0.0, 0.0], 3, strict=False
    ),
    **{f"HG, held, {tie}": gated(tie, low=-3, high=5, strict=False) for tie in ("gt", "ge")},
}


def values(neuron: Neuron) -> Tensor:
    """A grid with all thresholds and edges, zeros of both signs, and the floats beside them."""
    grid = torch.arange(-128, 129) / 16
    ranges = [getattr(neuron, "params", {}).get(name) for name in ("normal", "outlier")]
    special = [float(torch.as_tensor(r).max()) for r in ranges if r is not None]
    special += [*getattr(neuron, "boundaries", ()), -0.0, 1e-30]
    marks = torch.cat([grid, torch.tensor(special), -torch.tensor(special)])
    beside = [np.nextafter(marks.numpy(), np.float32(end)) for end in (-np.inf, np.inf)]
    x = torch.cat([marks, *map(torch.from_numpy, beside)])
    return x[: len(x) // 3 * 3].reshape(-1, 1, 3)


def graph_of(neuron: Neuron, shape: tuple[int, ...] = (3,)):
    (piece,) = candidates(neuron, neuron.params, Layer(shape, 1e-4))
    assert piece.verdict == Verdict.SUBGRAPH
    return piece.graph(shape, shape)


def spikes_in(graph, x: Tensor, steps: int) -> Tensor:
    """What the K comparisons send, whichever range they belong to."""
    signals = signals_of(graph, x, 1e-4)
    sent = [
        sum(y for name, y in signals.items() if name.endswith(f"_y_{k}"))
        for k in range(1, steps + 1)
    ]
    constants = [y for name, y in signals.items() if name.endswith("_constant")]
    sent[0] = sent[0] + sum(constants)
    return torch.stack(sent)


@pytest.mark.parametrize("name", NEURONS)
def test_every_spike_is_the_neurons_own(name):
    neuron = NEURONS[name]
    x, graph = values(neuron), graph_of(neuron)
    expected, _ = run(neuron, x[None])
    if name.startswith("HG, held"):  # there the whole code is one constant
        inside = ((x >= neuron.low) & (x <= neuron.high)).expand_as(expected)
        assert torch.equal(spikes_in(graph, x, neuron.steps)[inside], expected[inside])
    else:
        assert torch.equal(spikes_in(graph, x, neuron.steps), expected)
    assert torch.equal(run_nir(graph, x), run(neuron, x[None], reduce="sum")[0])


@pytest.mark.parametrize("name", NEURONS)
def test_an_independent_reader_computes_the_same(name):
    neuron = NEURONS[name]
    x, graph = values(neuron), graph_of(neuron)
    # It adds in an order of its own, which matters where the sum of spikes is rounded.
    torch.testing.assert_close(with_nirtorch(graph, x), run_nir(graph, x), rtol=1e-6, atol=1e-6)
    if name.startswith("OAT, g"):
        assert torch.equal(with_nirtorch(graph, x), run_nir(graph, x))


quarters = st.integers(-16, 16).map(lambda n: n / 4)


@settings(max_examples=20, deadline=None)
@given(
    tables=st.lists(st.lists(st.tuples(quarters, quarters, quarters), min_size=2, max_size=2),
                    min_size=1, max_size=3),
    edges=st.lists(quarters, min_size=2, max_size=2, unique=True).map(sorted),
    origins=st.lists(quarters, min_size=3, max_size=3),
    tie=st.sampled_from(("gt", "ge")),
)  # fmt: skip
def test_any_tables_on_a_grid_fire_alike(tables, edges, origins, tie):
    rows = [neurons.FewSpike(*zip(*table, strict=True)) for table in tables]
    count = len(rows)
    neuron = neurons.HG(edges[: count - 1], rows, origins[:count], origins[:count], tie=tie)
    x = (torch.arange(-24, 24) / 4).reshape(-1, 1, 3)
    graph = graph_of(neuron)
    assert torch.equal(spikes_in(graph, x, 2), run(neuron, x[None])[0])


def test_a_map_of_neurons_is_written_like_a_row_of_them():
    neuron, x = neurons.OAT(4, torch.tensor([[[1.0]], [[2.0]]]), 8.0), torch.randn(3, 2, 2, 2, 2)
    graph, report = to_nir(SpikingLayer(neuron), x, on_inexact="subgraph")
    assert report.mismatch == 0
    assert torch.equal(run_nir(graph, x), run(neuron, x[None], reduce="sum")[0])


def test_a_trained_range_is_the_one_that_is_written():
    layer = SpikingLayer(neurons.OAT(4, nn.Parameter(torch.tensor(1.0)), 8.0))
    layer.normal.data.fill_(2.0)
    x = torch.linspace(-3, 3, 32).reshape(4, 2, 4)
    graph, _ = to_nir(layer, x, on_inexact="subgraph")
    assert torch.equal(run_nir(graph, x), run(neurons.OAT(4, 2.0, 8.0), x[None], reduce="sum")[0])


def test_the_file_reads_back_and_says_what_a_step_is(tmp_path):
    x = torch.randn(4, 2, 3)
    net = nn.Sequential(SpikingLayer(neurons.OAT(4, 1.0, 4.0)))
    _, report = to_nir(net, x, on_inexact="subgraph", path=tmp_path / "net.nir")
    expected, _ = run(neurons.OAT(4, 1.0, 4.0), x[None], reduce="sum")
    assert torch.equal(run_nir(read(tmp_path / "net.nir"), x), expected)
    assert report.column("note") == ["a step carries a complete value"]
    assert any("Each step of the file carries a complete value" in note for note in report.notes)


def test_a_fitted_range_is_said_to_end():
    _, report = to_nir(
        nn.Sequential(SpikingLayer(NEURONS["LinearHG"])),
        torch.randn(2, 2, 3),
        on_inexact="subgraph",
    )
    assert "outside the declared range" in report.column("note")[0]


def test_without_a_flag_it_is_refused_with_the_flag_that_allows_it():
    with pytest.raises(NotExpressible, match='on_inexact="subgraph"'):
        to_nir(nn.Sequential(SpikingLayer(neurons.OAT(4, 1.0))), torch.randn(2, 2, 3))


def test_too_many_nodes_are_refused_with_their_number():
    many = neurons.fit_hg("gelu", -4, 4, 16, segments=64)
    with pytest.raises(NotExpressible, match=r"it takes \d+ nodes, more than 2000"):
        to_nir(nn.Sequential(SpikingLayer(many)), torch.randn(2, 2, 3), on_inexact="subgraph")


def test_a_users_own_neuron_that_sums_first_is_refused():
    def begin(x, state, p):
        return (x,)

    def step(x, state, p):
        (v,) = state
        return v, (0.5 * v,)

    with pytest.raises(NotExpressible, match="sums its whole input before its first spike"):
        to_nir(SpikingLayer(Neuron(step, begin=begin, steps=3)), torch.randn(2, 2, 3))
