"""Sequences of different lengths in every framework's own manner: as if each ran alone."""

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import neurons
from spikeloom.plugins import norse, snntorch, spikingjelly

T, BATCH, N = 10, 4, 3
LENGTHS = [10, 0, 6, 1]


def drive():
    x = 2 * torch.randn(T, BATCH, N, generator=torch.Generator().manual_seed(0)) + 0.5
    return (x * 8).round() / 8


def by_layer(module, x, **lengths):
    return module(x, **lengths), ()


def by_sequence(module, x, **lengths):
    return module.sequence(x, **lengths)


def by_snntorch(module, x, **lengths):
    spk, *states = module(x, **lengths)
    return spk, states


def by_spikingjelly(module, x, **lengths):
    module.reset()
    return module(x, **lengths), [*module._memories.values()]


def recurrent():
    weight = torch.tensor([[0.0, 1.0, 0.5], [-1.0, 0.25, 0.0], [0.5, 0.0, -0.5]])
    return spikeloom.Recurrent(neurons.LIF(), weight)


def all_to_all():
    layer = snntorch.RLeaky(0.5, linear_features=N, time_first=True)
    layer.recurrent.weight.data = torch.eye(N).flip(0) / 2
    layer.recurrent.bias.data.fill_(0.25)
    return layer


HIDDEN = {"init_hidden": True, "output": True, "time_first": True}
CASES = {
    "SpikingLayer": (lambda: spikeloom.SpikingLayer(neurons.Synaptic(0.5, 0.75)), by_layer),
    "Recurrent": (recurrent, by_sequence),
    "spikingjelly": (lambda: spikingjelly.LIFNode(step_mode="m"), by_spikingjelly),
    "spikingjelly two states": (
        lambda: spikingjelly.CUBALIFNode(step_mode="m"),
        by_spikingjelly,
    ),
    "snntorch": (lambda: snntorch.Synaptic(0.5, 0.75, time_first=True), by_snntorch),
    "snntorch hidden": (lambda: snntorch.Leaky(0.5, **HIDDEN), by_snntorch),
    "snntorch one to one": (
        lambda: snntorch.RLeaky(0.5, V=-0.5, all_to_all=False, time_first=True),
        by_snntorch,
    ),
    "snntorch all to all": (all_to_all, by_snntorch),
    "norse": (lambda: norse.LIF(), lambda module, x, **lengths: module(x, **lengths)),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_states_are_those_of_each_sequence_alone(name):
    make, run = CASES[name]
    y, states = run(make(), drive(), lengths=LENGTHS)
    assert y.any()
    for i, length in enumerate(LENGTHS):
        expected, alone = run(make(), drive()[:length, i : i + 1])
        assert torch.equal(y[:length, i : i + 1], expected)
        assert not y[length:, i].any()
        for found, wanted in zip(states, alone, strict=True):
            assert torch.equal(found[i : i + 1], wanted)


def test_recorded_membranes_stay_where_their_sequences_ended():
    x = drive()
    _, _, mem, found = snntorch.Synaptic(0.5, 0.75).sequence(x, record=True, lengths=LENGTHS)
    node = spikingjelly.LIFNode(step_mode="m", store_v_seq=True)
    node(x, lengths=LENGTHS)
    module = norse.LIF(record_states=True)
    _, states = module(x, lengths=LENGTHS)
    _, last = norse.LIF()(x, lengths=LENGTHS)
    for sequence, end in ((found, mem), (node.v_seq, node.v), *zip(states, last, strict=True)):
        for i, length in enumerate(LENGTHS):
            assert (sequence[max(length - 1, 0) :, i] == end[i]).all()


def test_the_gradient_of_a_recurrent_weight_is_the_sum_of_each_sequences():
    layer = recurrent()
    layer.weight = nn.Parameter(layer.weight.double())
    x = drive().double()
    (found,) = torch.autograd.grad(layer(x, lengths=LENGTHS).sum(), layer.weight)
    each = [layer(x[:length, i : i + 1]) for i, length in enumerate(LENGTHS)]
    (expected,) = torch.autograd.grad(sum(y.sum() for y in each), layer.weight)
    assert expected.any()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


class Negated(spikingjelly.LIFNode):
    """A node with a step of its own."""

    def single_step_functional_forward(self, inputs, states):
        return super().single_step_functional_forward(tuple(-x for x in inputs), states)


def test_ways_of_running_that_cannot_end_early_are_refused():
    x = drive()
    with pytest.raises(TypeError, match="Negated has a step of its own"):
        Negated(step_mode="m")(x, lengths=LENGTHS)
    with pytest.raises(TypeError, match="takes one step at each call; call sequence"):
        snntorch.Leaky(0.5)(x[0], lengths=LENGTHS)
    with pytest.raises(ValueError, match="takes the steps one by one with record=True"):
        all_to_all().sequence(x, record=True, lengths=LENGTHS)
    with pytest.raises(ValueError, match=r"lengths: each must lie in 0\.\.10"):
        norse.LIF()(x, lengths=[11, 1, 1, 1])
