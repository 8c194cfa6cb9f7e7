"""Programs made of others: with a state recorded, with the outputs summed over time."""

from __future__ import annotations

from dataclasses import replace

from spikeloom.kernel.graph import Expr, Graph
from spikeloom.kernel.trace import Program

__all__ = ["recording", "summing"]


def recording(program: Program, state: int) -> Program:
    """The same program with one state, as it is after each step, as one more output."""
    return replace(program, outputs=(*program.outputs, program.next[state]))


def summing(program: Program) -> Program:
    """The same program with its outputs summed over time into further states, and none left.

    The sums start at zero in the states ``states, states + 1, ...``; no output sequence exists.
    """
    graph = Graph(program.nodes)
    sums = [graph.add("v", program.states + i) for i in range(len(program.outputs))]
    totals = [total + Expr(graph, y) for total, y in zip(sums, program.outputs, strict=True)]
    begin = program.begin and (*program.begin, *(total.number for total in sums))
    return replace(
        program,
        nodes=tuple(graph.nodes),
        states=program.states + len(sums),
        outputs=(),
        next=(*program.next, *(total.number for total in totals)),
        begin=begin,
    )
