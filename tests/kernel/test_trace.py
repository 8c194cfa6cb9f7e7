"""Tracing: what a step may do, and what it is told when it does something else."""

import pytest
import torch

import spikeloom
from spikeloom.kernel.graph import schedule
from spikeloom.kernel.trace import Program, trace
from spikeloom.neurons import IF, LIF, Leaky, LIFBox, Trace


def reason(step, **kwargs):
    return spikeloom.Neuron(step, **kwargs).reason


def test_a_program_is_the_same_after_writing_and_reading():
    for neuron in (LIF(), LIF(v_reset=None), IF(), Leaky(0.9), LIFBox(), Trace(0.5, 0.5)):
        program = Program.parse(neuron.program)
        assert program.text == neuron.program
        assert Program.parse(program.text) is program


def test_equal_expressions_are_computed_once():
    def step(x, state, p):
        return (x + state[0]) * (x + state[0]), (x + state[0],)

    program, _ = trace(step, 1, {})
    assert [node[0] for node in program.nodes] == ["x", "v", "add", "mul"]


def test_only_needed_nodes_are_scheduled():
    program = Program.parse(LIF().program)
    operations = [program.nodes[number][0] for number in schedule(program.nodes, program.outputs)]
    assert "exp" not in operations  # the surrogate serves the backward pass alone


@pytest.mark.parametrize(
    "step, message",
    [
        (lambda x, s, p: (x if x > 0 else 0 * x, s), "use where"),
        (lambda x, s, p: (x**0.5, s), "power 2 or 3, got 0.5"),
        (lambda x, s, p: (x + torch.ones(3), s), "declare tensors as parameters"),
        (lambda x, s, p: (x, s[0]), "1 states as a tuple, got Expr"),
        (lambda x, s, p: (x, (*s, *s)), "1 states as a tuple, got 2 of them"),
        (lambda x, s, p: ((x > 0) & x, s), "joins conditions"),
        (lambda x, s, p: (x.cumsum(0), s), "cumsum"),
        (lambda x, s, p: (x * p.missing, s), "missing"),
        (lambda x, s, p: (x.select(1.0, 0.0), s), "must be a comparison"),
    ],
)
def test_what_cannot_be_traced_is_explained(step, message):
    assert message in reason(step)


def test_a_gated_table_is_read_by_lookup_and_only_it_is():
    from spikeloom.kernel.vocabulary import lookup

    table = {"a": spikeloom.Gated(torch.ones(2, 3))}
    assert "read it with lookup" in reason(lambda x, s, p: (x * p.a, s), params=table)
    assert "wrap it in Gated" in reason(lambda x, s, p: (lookup(p.a, x), s), params={"a": 1.0})
    assert "must be a Gated parameter" in reason(lambda x, s, p: (lookup(x * 2, x), s))


def test_an_untraceable_step_runs_eagerly_and_says_why_it_cannot_do_more():
    neuron = spikeloom.Neuron(lambda x, s, p: (x.sinh(), s), name="odd")
    x = torch.randn(2, 3)
    y, _ = spikeloom.run(neuron, x)
    assert torch.equal(y, x.sinh())
    with pytest.raises(RuntimeError, match="not available: the step of odd cannot be traced"):
        spikeloom.run(neuron, x, implementation="llvm")


def test_an_error_of_a_step_without_a_kernel_says_why_it_has_none():
    neuron = spikeloom.Neuron(lambda x, s, p: (1.0 if x > 0 else 0.0, s))
    with pytest.raises(RuntimeError, match="ambiguous") as caught:
        spikeloom.run(neuron, torch.ones(3, 2))
    assert "use where(condition, a, b), not `if`" in "".join(caught.value.__notes__)


def test_summing_leaves_no_output_and_recording_adds_one():
    neuron = LIF()
    program = Program.parse(neuron.program)
    assert Program.parse(neuron.variant(None, True)).outputs == ()
    assert Program.parse(neuron.variant("v", False)).outputs == (*program.outputs, *program.next)
