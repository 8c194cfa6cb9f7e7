"""Our modules inside Norse's; H numbers are those of Norse's conformance list."""

import norse.torch as snn
import pytest
import torch
from norse.torch.functional.regularization import spike_accumulator, voltage_accumulator
from norse.torch.module.regularization import RegularizationCell
from torch import nn

import spikeloom
from spikeloom.kernel.vocabulary import fire
from spikeloom.plugins import norse
from spikeloom.plugins.contract import adaptive, grid, lif, same

PAIRS = {
    "LIFBox": (norse.LIFBoxCell, norse.LIFBox),
    "LIF": (lambda: norse.make_cell(lif()), lambda: norse.make(lif())),
    "own": (lambda: norse.make_cell(adaptive()), lambda: norse.make(adaptive())),
}
EVERY = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


def network(*neurons):
    torch.manual_seed(0)
    layers = [nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)]
    mixed = [part for pair in zip(layers, neurons, strict=False) for part in pair]
    return snn.SequentialState(*mixed, layers[2])


def currents(*shape):
    """Inputs strong enough for LIFBox's small dt / tau."""
    return grid(*shape) * 4


@EVERY
def test_a_lifted_cell_a_sequence_and_a_loop_are_equal(pair):
    """H 4."""
    cell, sequence = (make() for make in pair)
    x = currents(9, 2, 3)
    whole, last = sequence(x)
    assert 0 < whole.mean() < 1
    lifted, state = snn.Lift(cell)(x)
    same(lifted, whole)
    same(state, last)
    state, outputs = None, []
    for now in x:
        y, state = cell(now, state)
        outputs.append(y)
    same(torch.stack(outputs), whole)
    same(state, last)


@EVERY
def test_a_lifted_cell_continues_from_a_state(pair):
    """H 4 and 5."""
    cell, sequence = (make() for make in pair)
    x = currents(9, 2, 3)
    whole, last = sequence(x)
    first, state = snn.Lift(cell)(x[:4])
    second, state = sequence(x[4:], state)
    same(torch.cat([first, second]), whole)
    same(state, last)


@EVERY
def test_a_network_of_sequences_equals_a_lifted_network_of_cells(pair):
    """H 4 and 6."""
    x = currents(6, 2, 3)
    sequences = network(pair[1](), pair[1]())
    cells = network(pair[0](), pair[0]())
    assert sequences.stateful_layers == [False, True, False, True, False]
    y, state = sequences(x)
    lifted, last = snn.Lift(cells)(x)
    torch.testing.assert_close(lifted, y)  # matrix products of other shapes may round otherwise
    for one, other in zip(state, last, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(tuple(other), tuple(one))


@EVERY
def test_sequential_states_mix_with_convolutions_and_torch_rnns(pair):
    """H 4."""
    torch.manual_seed(0)
    net = snn.SequentialState(
        snn.Lift(nn.Conv2d(1, 2, 3)),
        pair[1](),
        nn.Flatten(2),
        nn.RNN(8, 4),
        pair[1](),
        nn.Linear(4, 2),
    )
    x = currents(5, 3, 1, 4, 4).requires_grad_()
    y, state = net(x)
    assert y.shape == (5, 3, 2)
    assert state[1].v.shape == (3, 2, 2, 2)
    assert state[3].shape == (1, 3, 4)
    assert state[4].v.shape == (3, 4)
    y.sum().backward()
    assert x.grad.isfinite().all()


def test_a_state_list_makes_the_round_trip():
    """H 5 and 6."""
    net = network(norse.LIFBox(), norse.make(adaptive()))
    x = currents(8, 2, 3)
    whole, last = net(x)
    first, state = net(x[:3])
    assert state[1]._fields == ("v",)
    assert state[3]._fields == ("v", "a")
    second, state = net(x[3:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(tuple(state[3]), tuple(last[3]))


def test_hidden_outputs_are_returned():
    """H 6."""
    torch.manual_seed(0)
    net = snn.SequentialState(nn.Linear(3, 4), norse.LIFBox(), return_hidden=True)
    x = currents(6, 2, 3)
    (linear, spikes), _ = net(x)
    same(spikes, norse.LIFBox()(linear)[0])


@EVERY
def test_recurrent_sequential_feeds_outputs_back(pair):
    """H 6."""
    torch.manual_seed(0)
    cell, linear = pair[0](), nn.Linear(3, 3)
    net = snn.RecurrentSequential(cell, linear)
    x = currents(5, 2, 3)
    outputs, state, cache, own = [], None, torch.zeros(2, 3), None
    for now in x:
        y, state = net(now, state)
        outputs.append(y)
        spikes, own = cell(now + cache, own)
        cache = linear(spikes)
        torch.testing.assert_close(y, cache)
    same(tuple(state.state[0]), tuple(own))


@EVERY
def test_forward_state_hooks_see_the_states(pair):
    """H 6."""
    net, seen = network(pair[1](), pair[1]()), []
    net.register_forward_state_hooks(lambda module, inputs, output: seen.append(output[1]))
    _, state = net(currents(4, 2, 3))
    assert seen == [state[1], state[3]]
    net.remove_forward_state_hooks()
    net(currents(4, 2, 3))
    assert len(seen) == 2


@EVERY
def test_regularization_cells_accumulate(pair):
    """H 8."""
    cell = pair[0]()
    spikes, voltages = (
        RegularizationCell(spike_accumulator),
        RegularizationCell(voltage_accumulator),
    )
    x, state, total, potential = currents(6, 2, 3), None, 0, 0
    for now in x:
        z, state = cell(now, state)
        z, count = spikes(z, state)
        z, voltage = voltages(z, state)
        total, potential = total + z.sum(), potential + state.v
    assert count == total > 0
    same(voltage, potential)


def test_negative_spikes_are_counted_by_their_magnitude():
    """H 8."""

    def ternary(x, state, p):
        (v,) = state
        v = v + x
        s = fire(v - 1.0) - fire(-v - 1.0)
        return s, (v - s,)

    cell = norse.make_cell(spikeloom.Neuron(ternary))
    plain, magnitude = RegularizationCell(), RegularizationCell(norse.magnitude_accumulator)
    state = None
    for _ in range(3):
        z, state = cell(torch.tensor([1.0, -1.0, 0.25]), state)
        z, count = plain(z, state)
        z, activity = magnitude(z, state)
    assert count == 0
    assert activity == 6


@pytest.mark.parametrize("name", ["LIFBox", "own"])
def test_a_network_compiles_into_one_graph(name):
    """H 15."""
    pair = PAIRS[name]
    for net, x in (
        (network(pair[0](), pair[0]()), currents(2, 3)),
        (network(pair[1](), pair[1]()), currents(4, 2, 3)),
    ):
        torch._dynamo.reset()
        assert torch._dynamo.explain(net)(x).graph_break_count == 0
        y, state = torch.compile(net, fullgraph=True, backend="aot_eager")(x)
        expected, last = net(x)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(tuple(state[1]), tuple(last[1]))
