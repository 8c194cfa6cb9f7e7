"""Chains of selects by ascending edges are searched in registers, with the same values."""

import math

import pytest
import torch

import spikeloom
from spikeloom.kernel import emit_llvm
from spikeloom.kernel.compile_cpu import permutes
from spikeloom.kernel.ladder import LADDER, with_ladders
from spikeloom.kernel.llvm_scan import Assume
from spikeloom.kernel.trace import Program
from spikeloom.kernel.vocabulary import where

PERMUTING = Assume(permutes=True)


def table(edges, *columns, beyond=lambda x, edge: x >= edge):
    """A neuron whose outputs are columns of a table."""

    def step(x, state, p):
        chosen = [column[0] for column in columns]
        for edge, *row in zip(edges, *(column[1:] for column in columns), strict=True):
            inside = beyond(x, edge)
            chosen = [
                new if new is old else where(inside, new, old)
                for new, old in zip(row, chosen, strict=True)
            ]
        return tuple(chosen), ()

    return spikeloom.Neuron(step, state=(), name="table")


def program(neuron):
    return Program.parse(neuron.program)


def around(edges):
    """Values on the edges, next to them and beyond them; NaN."""
    edges = torch.tensor(edges)
    below, above = (torch.nextafter(edges, torch.tensor(to)) for to in (-math.inf, math.inf))
    odd = torch.tensor([-math.inf, -0.0, 0.0, math.nan, math.inf])
    x = torch.cat([edges, below, above, odd])
    return x.repeat(32)[: 16 * len(x)]  # full registers


@pytest.mark.parametrize("tie", ["ge", "gt"])
@pytest.mark.parametrize("pieces", [2, 7, 15, 16, 17, 32, 33, 40, 64, 65, 130, 256, 300])
def test_a_table_has_the_entries_of_the_last_edge_that_is_reached(pieces, tie):
    torch.manual_seed(pieces)
    edges = sorted(set(torch.randn(pieces - 1).tolist()))
    columns = torch.randn(2, pieces).tolist()
    beyond = (lambda x, edge: x >= edge) if tie == "ge" else (lambda x, edge: x > edge)
    neuron, x = table(edges, *columns, beyond=beyond), around(edges)
    found, _ = spikeloom.run(neuron, x[None], implementation="llvm")
    reached = torch.stack([beyond(x, edge) for edge in edges]).sum(0)
    for y, column in zip(found, columns, strict=True):
        assert torch.equal(y[0], torch.tensor(column)[reached])


def test_columns_that_repeat_an_entry_share_the_search():
    edges = [float(edge) for edge in range(12)]
    whole = [float(entry) for entry in range(13)]
    flat = [*[0.5] * 6, *whole[6:]]
    neuron = table(edges, whole, flat)
    text = emit_llvm.forward(program(neuron), "float32", PERMUTING)
    # Four halvings, and an entry for each of the two columns.
    assert text.count("call <16 x float> @llvm.x86.avx512.permvar") == 4 - 1 + 2
    x = around(edges)
    (y, z), _ = spikeloom.run(neuron, x[None], implementation="llvm")
    (a, b), _ = spikeloom.run(neuron, x[None], implementation="eager")
    assert torch.equal(y, a) and torch.equal(z, b)


def test_only_ascending_edges_of_one_value_are_a_ladder():
    def ladders(step):
        nodes = program(spikeloom.Neuron(step, state=("v",), name="steps")).nodes
        return sum(node[0] == LADDER for node in with_ladders(nodes))

    def chained(x, order, other=None):
        chosen = 0.0
        for edge in order:
            chosen = where((x if other is None or edge < 4 else other) >= edge, edge, chosen)
        return chosen

    upwards, downwards = list(range(1, 9)), list(range(9, 1, -1))
    assert ladders(lambda x, state, p: (chained(x, upwards), state)) == 1
    assert ladders(lambda x, state, p: (chained(x, downwards), state)) == 0
    assert ladders(lambda x, state, p: (chained(x, upwards, state[0]), state)) == 0


def test_a_cpu_that_does_not_permute_registers_gets_the_chain():
    neuron = spikeloom.neurons.fit_hg("gelu", -6.0, 6.0, segments=20).decoder()
    texts = [emit_llvm.forward(program(neuron), "float32", a) for a in (Assume(), PERMUTING)]
    chain, searched = (text.count("fcmp oge <16 x float>") for text in texts)
    assert chain >= 19 and searched < 8
    assert "avx512" not in texts[0]


@pytest.mark.parametrize("function", ["gelu_tanh", "exp2", "rsqrt"])
def test_decoders_and_their_gradients_equal_the_step_on_tensors(function):
    torch.manual_seed(0)
    neuron = spikeloom.neurons.fit_hg(function, 1.0, 4.0, segments=40, strict=False)
    x = (torch.rand(8, 64) * 3.5 + 0.75).requires_grad_()
    found, expected = (
        spikeloom.run(neuron.decoder(), x, implementation=how)[0] for how in ("llvm", "eager")
    )
    assert torch.equal(found, expected)
    slopes = [torch.autograd.grad(y.sum(), x)[0] for y in (found, expected)]
    assert torch.equal(*slopes)


@pytest.mark.skipif(not permutes(), reason="this CPU does not permute whole registers")
def test_a_state_that_moves_through_a_table_stays_the_step_on_tensors():
    edges = [0.25 * i for i in range(-10, 11)]
    gains = [0.5 + i / 128 for i in range(22)]

    def step(x, state, p):
        (v,) = state
        gain = gains[0]
        for edge, entry in zip(edges, gains[1:], strict=True):
            gain = where(v >= edge, entry, gain)
        v = gain * v + x
        return v, (v,)

    neuron = spikeloom.Neuron(step, state=("v",), name="gain")
    torch.manual_seed(0)
    x = torch.randn(20, 50)
    found, expected = (spikeloom.run(neuron, x, implementation=how)[0] for how in ("llvm", "eager"))
    assert torch.equal(found, expected)
