"""LIFRecurrent beside Norse's own."""

import copy

import norse.torch as host
import pytest
import torch
from torch import nn

from spikeloom import export
from spikeloom.plugins import norse as loom
from tests.plugins.norse.test_drop_ins import by_steps

T, BATCH, FEATURES, N = 16, 3, 4, 5
PAIRS = {
    "LIFRecurrent": (loom.LIFRecurrent, host.LIFRecurrent),
    "LIFRecurrentCell": (loom.LIFRecurrentCell, host.LIFRecurrentCell),
}


def drive(seed, dtype=torch.float32):
    x = torch.randn(T, BATCH, FEATURES, generator=torch.Generator().manual_seed(seed))
    return (x.mul(8).round() / 8 + 0.25).to(dtype)


def pair(name, seed, autapses=False, **settings):
    """Ours and Norse's with the same weights, in eighths, so that their sums are exact."""
    draw = torch.Generator().manual_seed(seed)
    tau = torch.tensor([0.1, 0.3, 0.5, 0.8])[torch.randint(0, 4, (2,), generator=draw)] / 0.001
    p = host.LIFParameters(
        tau_syn_inv=tau[0],
        tau_mem_inv=tau[1],
        v_leak=torch.tensor(0.25 * (seed % 2)),
        v_reset=torch.tensor(-0.125 * (seed % 3)),
        alpha=torch.tensor(10.0),
    )
    weights = {
        key: nn.Parameter(torch.randint(-8, 17, shape, generator=draw) / 8)
        for key, shape in (("input_weights", (N, FEATURES)), ("recurrent_weights", (N, N)))
    }
    return [
        cls(FEATURES, N, p, autapses=autapses, **copy.deepcopy(weights), **settings)
        for cls in PAIRS[name]
    ]


def run(module, x):
    over_time = isinstance(module, (loom.LIFRecurrent, host.LIFRecurrent))
    return module(x) if over_time else by_steps(module, x)


@pytest.mark.parametrize("autapses", [False, True])
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("seeds", [range(12), pytest.param(range(12, 200), marks=pytest.mark.slow)])
def test_spikes_states_and_gradients_are_norses_own(name, autapses, seeds):
    fired = []
    for seed in seeds:
        x, results = drive(seed), []
        for module in pair(name, seed, autapses):
            given = x.clone().requires_grad_()
            y, state = run(module, given)
            wanted = (given, module.input_weights, module.recurrent_weights)
            total = (y * torch.linspace(0.5, 1.5, y.numel()).reshape(y.shape)).sum()
            results.append(((y, *state), torch.autograd.grad(total, wanted)))
        (found, gradients), (expected, theirs) = results
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other), seed
        for one, other in zip(gradients, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
        fired.append(found[0].mean())
    assert 0.05 < torch.stack(fired).mean() < 0.95


def test_states_are_handed_over_and_recorded_as_norses():
    x = drive(1)
    ours, theirs = pair("LIFRecurrent", 1, record_states=True)
    y, states = ours(x)
    expected, their_states = theirs(x)
    assert type(states) is type(their_states)
    for found, wanted in zip((y, *states), (expected, *their_states), strict=True):
        assert torch.equal(found, wanted)
    last, _ = pair("LIFRecurrent", 1)
    first, state = last(x[:5])
    second, _ = last(x[5:], state)
    assert torch.equal(torch.cat([first, second]), y)


def test_the_diagonal_stays_without_effect_and_without_a_gradient():
    ours, _ = pair("LIFRecurrent", 2)
    expected, _ = ours(drive(2))
    with torch.no_grad():
        ours.recurrent_weights.fill_diagonal_(4.0)
    again = copy.deepcopy(ours)
    y, _ = again(drive(2))
    assert torch.equal(y, expected)
    y.sum().backward()
    assert not again.recurrent_weights.grad.diagonal().any()
    assert again.recurrent_weights.grad.any()


@pytest.mark.parametrize("name", PAIRS)
def test_it_goes_to_norses_own_and_into_a_file(name):
    ours, _ = pair(name, 6)
    net = host.SequentialState(ours, nn.Linear(N, 2))
    native = loom.to_host(net)
    assert type(native[0]) is PAIRS[name][1]
    x, over_time = drive(4), name == "LIFRecurrent"
    graph = loom.to_nir(net, x if over_time else x[0])
    assert graph.report.mismatch == 0.0
    with torch.no_grad():
        expected, _ = net(x) if over_time else by_steps(net, x)
    torch.testing.assert_close(export.run_nir(graph, x), expected)


def test_each_sequence_of_a_batch_may_end_by_itself():
    ours, _ = pair("LIFRecurrent", 5)
    x, lengths = drive(5), [16, 3, 0]
    y, state = ours(x, lengths=lengths)
    for i, length in enumerate(lengths):
        expected, alone = ours(x[:length, i : i + 1])
        assert torch.equal(y[:length, i : i + 1], expected) and not y[length:, i].any()
        for found, wanted in zip(state, alone, strict=True):
            assert torch.equal(found[i : i + 1], wanted)


def test_defaults_are_drawn_as_norses():
    drawn = []
    for cls in PAIRS["LIFRecurrent"]:
        torch.manual_seed(0)
        drawn.append(cls(FEATURES, N))
    ours, theirs = drawn
    assert torch.equal(ours.input_weights, theirs.input_weights)
    assert torch.equal(ours.recurrent_weights, theirs.recurrent_weights)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert ours.neuron.program is not None, ours.neuron.reason


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: loom.LIFRecurrent(3, 2, input_weights=torch.ones(3, 2)), ValueError, r"\[2, 3\]"),
        (lambda: loom.LIFRecurrent(3, 2)(torch.ones(4, 1, 2)), ValueError, "3 features, got"),
        (lambda: loom.LIFRecurrent(3, 2, host.LIParameters()), TypeError, "LIFParameters"),
        (
            lambda: loom.LIFRecurrent(3, 2, record_states=True)(torch.ones(4, 1, 3), lengths=[1]),
            ValueError,
            "not with record_states=True",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make()
