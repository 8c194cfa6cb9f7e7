"""The reference interpreter against hand-written recurrences."""

import itertools
import tracemalloc

import nir
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom import SpikingLayer
from spikeloom.export import from_nir, run_nir
from spikeloom.export.graph.execution_plan import first_out_of_order
from tests.export.readers import HOST_READERS

DT = 1e-4
F = np.float32


def chain(*nodes: nir.NIRNode) -> nir.NIRGraph:
    return nir.NIRGraph.from_list(*nodes)


def drawn(*shape: int, low: float = 0.0, high: float = 2.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(F)


def looped(step, x: torch.Tensor, *state) -> torch.Tensor:
    """Run a hand-written step in float64 over time."""
    outputs = []
    for now in x.double():
        y, *state = step(now, *state)
        outputs.append(y)
    return torch.stack(outputs)


def t(array) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array)).double()


SIGNAL = torch.from_numpy(drawn(30, 4, 5, seed=1))
K, R = drawn(5, low=1.5, high=5, seed=2), drawn(5, low=0.5, seed=3)
LEAK, THR = drawn(5, low=-0.2, high=0.2, seed=4), drawn(5, low=0.3, high=0.8, seed=5)
RESET = drawn(5, low=-0.3, high=0.1, seed=6)
TAU = (K * DT).astype(F)


def test_lif_is_euler_with_the_decision_after_the_update():
    node = nir.LIF(tau=TAU, r=R, v_leak=LEAK, v_threshold=THR, v_reset=RESET)

    def step(x, v):
        h = v + (t(R) * x + t(LEAK) - v) * DT / t(TAU)
        s = (h > t(THR)).double()
        return s, torch.where(s > 0, t(RESET), h)

    expected = looped(step, SIGNAL, torch.zeros(4, 5).double())
    assert 0.1 < expected.mean() < 0.9
    torch.testing.assert_close(run_nir(chain(node), SIGNAL.double()), expected)


def test_if_integrates_r_dt():
    node = nir.IF(r=R / F(DT) / 4, v_threshold=THR, v_reset=RESET)

    def step(x, v):
        h = v + t(R) / 4 * x
        s = (h > t(THR)).double()
        return s, torch.where(s > 0, t(RESET), h)

    expected = looped(step, SIGNAL, torch.zeros(4, 5).double())
    assert 0.1 < expected.mean() < 0.9
    torch.testing.assert_close(run_nir(chain(node), SIGNAL.double()), expected)


def test_cuba_lif_filters_its_input_first():
    synapse = (2 * TAU).astype(F)
    node = nir.CubaLIF(
        tau_syn=synapse, tau_mem=TAU, r=R, v_leak=LEAK, v_threshold=THR, v_reset=RESET, w_in=2.0
    )

    def step(x, v, i):
        i = i + (2.0 * x - i) * DT / t(synapse)
        h = v + (t(R) * i + t(LEAK) - v) * DT / t(TAU)
        s = (h > t(THR)).double()
        return s, torch.where(s > 0, t(RESET), h), i

    zero = torch.zeros(4, 5).double()
    expected = looped(step, SIGNAL, zero, zero)
    assert 0.1 < expected.mean() < 0.95
    torch.testing.assert_close(run_nir(chain(node), SIGNAL.double()), expected)


def test_li_and_cuba_li_give_out_the_potential():
    li = nir.LI(tau=TAU, r=R, v_leak=LEAK)
    cuba = nir.CubaLI(tau_syn=TAU, tau_mem=TAU, r=R, v_leak=LEAK, w_in=R)

    def li_step(x, v):
        v = v + (t(R) * x + t(LEAK) - v) * DT / t(TAU)
        return v, v

    def cuba_step(x, v, i):
        i = i + (t(R) * x - i) * DT / t(TAU)
        v = v + (t(R) * i + t(LEAK) - v) * DT / t(TAU)
        return v, v, i

    zero = torch.zeros(4, 5).double()
    for node, step, states in ((li, li_step, 1), (cuba, cuba_step, 2)):
        expected = looped(step, SIGNAL, *[zero] * states)
        y = run_nir(chain(node), SIGNAL.double())
        torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-6)


def test_i_threshold_and_scale():
    expected = (SIGNAL.cumsum(0) * 2 > 7).float()
    one = np.ones(5, F)
    graph = chain(nir.I(r=one / F(DT)), nir.Scale(scale=2 * one), nir.Threshold(threshold=7 * one))
    assert torch.equal(run_nir(graph, SIGNAL), expected)


def test_a_threshold_does_not_fire_on_equality():
    graph = chain(nir.Threshold(threshold=np.ones(3, F)))
    x = torch.tensor([[[0.5, 1.0, 1.0000001]]])
    assert run_nir(graph, x).flatten().tolist() == [0, 0, 1]


def test_delays_are_rounded_to_steps_and_differ_by_neuron():
    graph = chain(nir.Delay(delay=np.array([0.0, 1e-4, 2.4e-4, 9.0], F)))
    x = torch.arange(1.0, 6.0)[:, None, None].expand(5, 2, 4)
    y = run_nir(graph, x)
    assert y[:, 0].T.tolist() == [[1, 2, 3, 4, 5], [0, 1, 2, 3, 4], [0, 0, 1, 2, 3], [0] * 5]


def test_affine_and_linear_act_on_the_last_axis():
    weight, bias = drawn(3, 5, seed=7), drawn(3, seed=8)
    expected = SIGNAL @ torch.from_numpy(weight).T
    torch.testing.assert_close(run_nir(chain(nir.Linear(weight=weight)), SIGNAL), expected)
    y = run_nir(chain(nir.Affine(weight=weight, bias=bias)), SIGNAL)
    torch.testing.assert_close(y, expected + torch.from_numpy(bias))


def test_a_stack_of_matrices_applies_one_to_each_row():
    weight = drawn(2, 3, 5, seed=9)
    x = torch.from_numpy(drawn(4, 6, 2, 5, seed=10))
    y = run_nir(chain(nir.Linear(weight=weight)), x)
    torch.testing.assert_close(y, torch.einsum("ros,tbrs->tbro", torch.from_numpy(weight), x))


def test_convolutions_and_pools():
    x = torch.from_numpy(drawn(3, 2, 4, 6, 6, seed=11))
    weight, bias = drawn(4, 2, 3, 3, seed=12), drawn(4, seed=13)
    conv = nir.Conv2d(
        input_shape=None, weight=weight, stride=2, padding=1, dilation=1, groups=2, bias=bias
    )
    two = np.array([2, 2])
    pool = {"kernel_size": two, "stride": np.array([1, 1]), "padding": np.array([0, 0])}
    graph = nir.NIRGraph(
        nodes={
            "input": nir.Input(input_type=np.array([4, 6, 6])),
            "conv": conv,
            "mean": nir.AvgPool2d(**pool),
            "sum": nir.SumPool2d(**pool),
            "flatten": nir.Flatten(input_type=np.array([4, 1, 1]), start_dim=0),
            "output": nir.Output(output_type=np.array([4])),
        },
        edges=[
            ("input", "conv"),
            ("conv", "mean"),
            ("mean", "sum"),
            ("sum", "flatten"),
            ("flatten", "output"),
        ],
    )
    y = torch.nn.functional.conv2d(
        x.flatten(0, 1), torch.from_numpy(weight), torch.from_numpy(bias), 2, 1, 1, 2
    )
    y = torch.nn.functional.avg_pool2d(torch.nn.functional.avg_pool2d(y, 2, 1), 2, 1) * 4
    torch.testing.assert_close(run_nir(graph, x), y.flatten(1).unflatten(0, (3, 2)))


def test_conv1d_with_same_padding():
    x, weight = torch.from_numpy(drawn(3, 2, 2, 7)), drawn(3, 2, 3, seed=1)
    node = nir.Conv1d(
        input_shape=7, weight=weight, stride=1, padding="same", dilation=1, groups=1,
        bias=np.zeros(3, F),
    )  # fmt: skip
    expected = torch.nn.functional.conv1d(x.flatten(0, 1), torch.from_numpy(weight), padding=1)
    torch.testing.assert_close(run_nir(chain(node), x).flatten(0, 1), expected)


def loop(nodes: dict[str, nir.NIRNode], *edges: tuple[str, str], size: int = 1) -> nir.NIRGraph:
    shape = np.array([size])
    ends = {"input": nir.Input(input_type=shape), "output": nir.Output(output_type=shape)}
    return nir.NIRGraph(nodes={**ends, **nodes}, edges=list(edges))


def soft_reset(threshold: float = 1.0) -> nir.NIRGraph:
    one = np.ones(1, F)
    return loop(
        {
            "v": nir.I(r=one / F(DT)),
            "fire": nir.Threshold(threshold=threshold * one),
            "back": nir.Scale(scale=-threshold * one),
        },
        ("input", "v"),
        ("back", "v"),
        ("v", "fire"),
        ("fire", "back"),
        ("fire", "output"),
    )


def test_feedback_carries_the_value_of_the_previous_step():
    x = torch.tensor([0.75, 0.75, 0.75, 0.75, 2.5, 0.0, 0.0])[:, None, None]
    # v: .75 1.5* 1.25* 1.0 3.5* 2.5* 1.5*
    assert run_nir(soft_reset(), x).flatten().tolist() == [0, 1, 1, 0, 1, 1, 1]


def test_a_node_may_feed_itself():
    one = np.ones(1, F)
    graph = loop(
        {"lif": nir.IF(r=one / F(DT), v_threshold=one)},
        ("input", "lif"),
        ("lif", "lif"),
        ("lif", "output"),
    )
    x = torch.tensor([2.0, 0.5, 0.25, 0.5])[:, None, None]
    # a spike adds 1 at the next step
    assert run_nir(graph, x).flatten().tolist() == [1, 1, 1, 1]


def test_two_populations_that_excite_each_other_both_wait_a_step():
    one = np.ones(1, F)
    neuron = {"r": one / F(DT), "v_threshold": one}
    graph = loop(
        {"a": nir.IF(**neuron), "b": nir.IF(**neuron), "half": nir.Scale(scale=one / 2)},
        ("input", "a"),
        ("input", "half"),
        ("half", "b"),
        ("a", "b"),
        ("b", "a"),
        ("b", "output"),
    )
    x = torch.tensor([1.5, 0.5, 0.0, 0.0])[:, None, None]
    # a: 1.5* .5 1* no: 1.0 ; b: .75 (.75+.25+1=2.0)* 0 ...
    assert run_nir(graph, x).flatten().tolist() == [0, 1, 0, 0]


def test_nested_loops_run():
    one = np.ones(1, F)
    inner = soft_reset()
    graph = loop(
        {"inner": inner, "gain": nir.Scale(scale=one / 2)},
        ("input", "inner"),
        ("inner", "gain"),
        ("gain", "inner"),
        ("inner", "output"),
    )
    v, back, outer, expected = 0.0, 0.0, 0.0, []
    x = [0.75, 0.75, 0.75, 0.0, 0.0, 0.5]
    for now in x:
        v = v + now + outer + back
        s = float(v > 1)
        back, outer = -s, s / 2
        expected.append(s)
    assert run_nir(graph, torch.tensor(x)[:, None, None]).flatten().tolist() == expected


def test_the_result_does_not_depend_on_the_order_of_nodes_and_edges():
    rng = np.random.default_rng(0)
    n = 3
    one = np.ones(n, F)
    nodes = {
        "in": nir.Affine(weight=rng.normal(size=(n, n)).astype(F), bias=one),
        "lif": nir.LIF(tau=2e-4 * one, r=one, v_leak=0 * one, v_threshold=one / 2),
        "rec": nir.Linear(weight=rng.normal(size=(n, n)).astype(F)),
        "out": nir.Linear(weight=rng.normal(size=(n, n)).astype(F)),
    }
    edges = [("input", "in"), ("in", "lif"), ("lif", "rec"), ("rec", "lif"), ("lif", "out")]
    edges.append(("out", "output"))
    x = torch.from_numpy(rng.normal(size=(20, 2, n)).astype(F)) * 3
    first = run_nir(loop(nodes, *edges, size=n), x)
    assert first.any()
    for _ in range(5):
        shuffled = dict(rng.permutation(list(nodes.items())).tolist())
        again = loop(shuffled, *map(tuple, rng.permutation(edges).tolist()), size=n)
        torch.testing.assert_close(run_nir(again, x), first)


def test_an_imported_network_trains():
    torch.manual_seed(0)
    one = np.ones(4, F)
    graph = chain(
        nir.Affine(weight=drawn(4, 5), bias=0 * one),
        nir.LIF(tau=2e-4 * one, r=one, v_leak=0 * one, v_threshold=one),
        nir.Linear(weight=drawn(2, 4)),
    )
    network = from_nir(graph)
    before = [parameter.clone() for parameter in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    loss = network(SIGNAL).mean(0).square().mean()
    loss.backward()
    optimizer.step()
    assert all((p != old).any() for p, old in zip(network.parameters(), before, strict=True))
    assert network(SIGNAL).mean(0).square().mean() < loss


def test_make_is_given_every_neuron_of_the_graph():
    made = []

    def make(neuron):
        made.append(neuron.name)
        return SpikingLayer(neuron)

    one = np.ones(2, F)
    lif = nir.LIF(tau=2e-4 * one, r=one, v_leak=0 * one, v_threshold=one)
    run_nir(chain(lif, nir.IF(r=one / F(DT), v_threshold=one)), torch.ones(2, 1, 2), make=make)
    assert made == ["LIF", "IF"]


@pytest.mark.parametrize("T", [0, 1])
def test_short_sequences(T):
    one = np.ones(2, F)
    graph = chain(nir.Delay(delay=one), nir.LI(tau=one / 64, r=one, v_leak=0 * one))
    assert run_nir(graph, torch.ones(T, 3, 2)).shape == (T, 3, 2)
    assert run_nir(soft_reset(), torch.ones(T, 3, 1)).shape == (T, 3, 1)


def test_an_empty_batch_gives_an_empty_output():
    assert run_nir(soft_reset(), torch.ones(4, 0, 1)).shape == (4, 0, 1)


# --- bad graphs and inputs -------------------------------------------------------------------

ONE = np.ones(2, F)


def test_the_input_must_have_the_shape_of_the_graph():
    graph = chain(nir.Threshold(threshold=ONE))
    with pytest.raises(ValueError, match=r"takes \[T, batch, 2\], got \[4, 1, 3\]"):
        run_nir(graph, torch.ones(4, 1, 3))
    with pytest.raises(TypeError, match=r"x: .*floating-point.*int64; x.float\(\) makes one"):
        run_nir(graph, torch.ones(4, 1, 2).long())


@pytest.mark.parametrize("dt", [0.0, -1.0, float("nan"), "1e-4", True])
def test_a_wrong_time_step_is_named(dt):
    graph = chain(nir.Threshold(threshold=ONE))
    with pytest.raises(ValueError, match=r"^dt: must be a positive number of seconds, got [^;]*$"):
        run_nir(graph, torch.ones(4, 1, 2), dt=dt)
    graph.metadata = {"dt": dt}
    with pytest.raises(ValueError, match=r"metadata\['dt'\].*; pass dt to run it with another"):
        run_nir(graph, torch.ones(4, 1, 2))


def test_a_time_constant_below_one_step_names_the_node():
    graph = chain(nir.LI(tau=5e-5 * ONE, r=ONE, v_leak=ONE))
    with pytest.raises(ValueError, match=r"node 'li' .* shorter than the time step"):
        run_nir(graph, torch.ones(1, 1, 2))


@pytest.mark.parametrize("tau", [np.inf, np.nan])
def test_infinite_time_constants_are_refused(tau):
    graph = chain(nir.LI(tau=tau * ONE, r=ONE, v_leak=ONE))
    with pytest.raises(ValueError, match=r"node 'li' .*tau: must be finite"):
        run_nir(graph, torch.ones(1, 1, 2))


def test_parameters_that_are_not_finite_name_the_node():
    graph = chain(nir.Linear(weight=np.full((2, 2), np.nan, F)))
    with pytest.raises(ValueError, match=r"node 'linear' .*finite numbers"):
        run_nir(graph, torch.ones(1, 1, 2))


def test_a_bias_of_another_shape_names_the_node():
    graph = chain(nir.Affine(weight=np.ones((2, 2), F), bias=np.ones(3, F)))
    with pytest.raises(ValueError, match=r"node 'affine' .*bias"):
        run_nir(graph, torch.ones(1, 1, 2))


def test_a_loop_without_a_state_is_undefined():
    graph = loop(
        {"a": nir.Scale(scale=np.ones(1, F)), "b": nir.Scale(scale=np.ones(1, F))},
        ("input", "a"),
        ("a", "b"),
        ("b", "a"),
        ("b", "output"),
    )
    with pytest.raises(ValueError, match=r"the loop .* holds no state"):
        run_nir(graph, torch.ones(2, 1, 1))


def unchecked(nodes: dict[str, nir.NIRNode], *edges: tuple[str, str]) -> nir.NIRGraph:
    return nir.NIRGraph(nodes=nodes, edges=list(edges), type_check=False)


ENDS = {
    "input": nir.Input(input_type=np.array([2])),
    "output": nir.Output(output_type=np.array([2])),
}
SCALE = nir.Scale(scale=ONE)


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        (ENDS, [("input", "ghost"), ("input", "output")], "names 'ghost', which is no node"),
        (ENDS, [("input", "output")] * 2, "'input' -> 'output' occurs twice"),
        ({"output": ENDS["output"]}, [], "exactly one Input, found none"),
        (
            {**ENDS, "other": ENDS["input"]},
            [("input", "output"), ("other", "output")],
            "exactly one Input, found 'input', 'other'",
        ),
        (
            {**ENDS, "s": SCALE},
            [("input", "output"), ("input", "s")],
            "'s' is a dead end",
        ),
        ({**ENDS, "s": SCALE}, [("input", "output"), ("s", "output")], "'s' gets no input"),
        ({**ENDS, "s": SCALE}, [("input", "s")], "'input' is a dead end"),
    ],
)
def test_broken_graphs_are_refused(nodes, edges, message):
    with pytest.raises(ValueError, match=message):
        run_nir(unchecked(nodes, *edges), torch.ones(1, 1, 2))


def test_a_foreign_node_class_is_named():
    class Soft(nir.Threshold):
        pass

    graph = unchecked({**ENDS, "soft": Soft(threshold=ONE)}, ("input", "soft"), ("soft", "output"))
    with pytest.raises(ValueError, match="'soft' is a Soft, which is no NIR primitive"):
        run_nir(graph, torch.ones(1, 1, 2))


def test_shapes_that_do_not_fit_name_the_node():
    graph = unchecked(
        {**ENDS, "fc": nir.Linear(weight=np.ones((2, 3), F))}, ("input", "fc"), ("fc", "output")
    )
    with pytest.raises(ValueError, match=r"node 'fc' \(Linear\) with input \[2\]"):
        run_nir(graph, torch.ones(1, 1, 2))


def test_something_else_than_a_graph_is_refused():
    with pytest.raises(TypeError, match=r"must be a nir\.NIRGraph, got Scale"):
        run_nir(SCALE, torch.ones(1, 1, 2))


def test_a_graph_that_contains_itself_is_refused():
    graph = chain(SCALE)
    graph.nodes["again"] = graph
    with pytest.raises(ValueError, match="nested more than 16 deep"):
        run_nir(graph, torch.ones(1, 1, 2))


@pytest.mark.timeout(20)
def test_a_graph_of_a_million_nodes_is_refused_at_once():
    nodes = {**ENDS, **{f"s{i}": SCALE for i in range(1_000_000)}}
    graph = unchecked(nodes, ("input", "output"))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more than 10000 nodes"):
            run_nir(graph, torch.ones(1, 1, 2))
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.timeout(60)
def test_a_chain_of_ten_thousand_nodes_is_planned_without_recursion():
    names = ["input", *(f"s{i}" for i in range(9_000)), "output"]
    graph = unchecked({name: ENDS.get(name, SCALE) for name in names}, *itertools.pairwise(names))
    assert torch.equal(run_nir(graph, torch.ones(1, 1, 2)), torch.ones(1, 1, 2))


@st.composite
def wirings(draw) -> nir.NIRGraph:
    """Some nodes in a row, and edges that skip some of them."""
    count = draw(st.integers(1, 5))
    names = ["input", *(f"n{i}" for i in range(count)), "output"]
    edges = list(itertools.pairwise(names))
    skips = [(a, b) for a, b in itertools.combinations(names[:-1], 2) if (a, b) not in edges]
    edges += draw(st.lists(st.sampled_from(skips), unique=True)) if skips else []
    nodes = {f"n{i}": nir.Linear(weight=np.full((1, 1), i + 2, F)) for i in range(count)}
    return loop(nodes, *draw(st.permutations(edges)))


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=100, deadline=None, derandomize=True)
@given(wirings())
def test_a_reader_that_runs_nodes_as_it_meets_them_is_foreseen(graph):
    x = torch.ones(1, 1, 1)
    try:
        alike = torch.equal(HOST_READERS["norse"](graph, x), run_nir(graph, x))
    except ValueError:  # it found no input for a node
        alike = False
    assert alike == (first_out_of_order(graph.edges, "input", "output") is None)


def test_feedback_that_is_read_late_is_in_order():
    edges = [("input", "a"), ("a", "back"), ("back", "a"), ("a", "output")]
    assert first_out_of_order(edges, "input", "output") is None
    edges = [("input", "a"), ("a", "output"), ("a", "back"), ("back", "a")]
    assert first_out_of_order(edges, "input", "output") == "output"


def test_an_input_that_is_no_tensor_is_named_with_a_way_out():
    graph = chain(nir.Threshold(threshold=np.ones(5, F)))
    with pytest.raises(TypeError, match=r"x: must be a torch\.Tensor .* got ndarray; .*from_numpy"):
        run_nir(graph, SIGNAL.numpy())


@pytest.mark.parametrize(
    ("make", "message"),
    [("norse", "make: must be a function"), (lambda neuron: neuron, "make: must return")],
)
def test_a_make_that_makes_no_module_is_named(make, message):
    with pytest.raises(TypeError, match=message):
        from_nir(chain(nir.LIF(tau=TAU, r=R, v_leak=LEAK, v_threshold=THR)), make=make)


@pytest.mark.parametrize("given", ["net.nir", (None, None)])
def test_what_is_no_graph_is_refused_with_the_call_that_makes_one(given):
    with pytest.raises(TypeError, match=r"export\.read makes one of a file"):
        from_nir(given)
