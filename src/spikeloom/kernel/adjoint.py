"""The reverse sweep: from a program's graph to the graph of its gradients.

One table holds the whole calculus: a row per operation gives, for the gradient ``g`` that arrives
at ``y = op(a, ...)``, what flows to each operand (None where nothing does).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from spikeloom.kernel.graph import CONDITIONS, LEAVES, Expr, Graph, Node, operands, schedule
from spikeloom.kernel.trace import Program

Row = Callable[..., tuple[Any, ...]]


def _sign(a: Expr) -> Expr:
    return (a > 0).select(1.0, (a < 0).select(-1.0, 0.0))


ADJOINT: dict[str, Row] = {
    "add": lambda g, y, a, b: (g, g),
    "sub": lambda g, y, a, b: (g, -g),
    "mul": lambda g, y, a, b: (g * b, g * a),
    # 1 / b first: a shared divisor is then inverted once, outside the loop over neurons.
    "div": lambda g, y, a, b: (g * (1.0 / b), -(g * (y * (1.0 / b)))),
    "neg": lambda g, y, a: (-g,),
    "abs": lambda g, y, a: (g * _sign(a),),
    "sqrt": lambda g, y, a: (g * (0.5 / y),),
    "exp": lambda g, y, a: (g * y,),
    "log": lambda g, y, a: (g / a,),
    "erf": lambda g, y, a: (g * ((2.0 / math.sqrt(math.pi)) * (-(a * a)).exp()),),
    "where": lambda g, y, c, a, b: (None, c.select(g, 0.0), c.select(0.0, g)),
    "with_nan": lambda g, y, value, source: ((source == source).select(g, 0.0), None),
    "with_grad": lambda g, y, value, *pairs: (
        None,
        *(flow for partial in pairs[1::2] for flow in (g * partial, None)),
    ),
}
# Piecewise constant, or cut on purpose: rint, floor, detach, lookup's row, every condition.


@dataclass(frozen=True, eq=False)
class Gradients:
    """Nodes that carry gradients out of one reverse sweep; None is a gradient of zero.

    Attributes:
        x: One node an input.
        v: One node a state, as it was before.
        p: Parameter name -> ``(row, gradient)`` pairs; ``row`` is the row node of a gated table,
            None for every other kind.
    """

    x: tuple[int | None, ...]
    v: tuple[int | None, ...]
    p: dict[str, tuple[tuple[int | None, int], ...]]

    @cached_property
    def roots(self) -> tuple[int, ...]:
        """Every node that must be evaluated."""
        pairs = [number for found in self.p.values() for pair in found for number in pair]
        return tuple(n for n in (*self.x, *self.v, *pairs) if n is not None)


@dataclass(frozen=True, eq=False)
class Adjoint:
    """The gradient graph of a program.

    Attributes:
        nodes: The program's nodes and those of the sweep; leaves ``gy`` and ``gw`` are the
            gradients that arrive at the outputs and at the next states.
        step: The gradients of one step.
        begin: The gradients of the beginning, or None.
        history: The states that must be recomputed, because the sweep depends on their past.
        kept: The nodes whose past values the sweep starts from, at each step: one value through
            which all of its dependence on the states passes (a charged potential, say) if there
            is one, otherwise the states of ``history``.
    """

    nodes: tuple[Node, ...]
    step: Gradients
    begin: Gradients | None
    history: tuple[int, ...]
    kept: tuple[int, ...]


def learned(program: Program, gradient: Adjoint) -> list[tuple[str, str]]:
    """The ``(name, kind)`` of the parameters that receive a gradient."""
    found = {*gradient.step.p, *(gradient.begin.p if gradient.begin else ())}
    return [(name, kind) for name, kind in program.params if name in found]


@lru_cache(maxsize=1024)
def adjoint(program: Program, wanted: frozenset[tuple[str, Any]]) -> Adjoint:
    """Differentiate a program.

    Args:
        program: The traced neuron.
        wanted: Leaves whose gradient is asked for, ``("x", i)`` and ``("p", name)``; states are
            always among them, because the sweep runs through them.
    """
    graph = Graph(program.nodes)
    wanted = wanted | {("v", i) for i in range(program.states)}
    gws = [graph.add("gw", i) for i in range(program.states)]
    gys = [graph.add("gy", i) for i in range(len(program.outputs))]
    begin = None
    if program.begin is not None:
        begin = _sweep(graph, program, zip(program.begin, gws, strict=True), wanted)
    seeds = [*zip(program.outputs, gys, strict=True), *zip(program.next, gws, strict=True)]
    step = _sweep(graph, program, seeds, wanted)
    nodes = tuple(graph.nodes)
    history = _history(program, nodes, step.roots)
    bottleneck = _bottleneck(program, nodes, step.roots) if history else None
    kept = tuple(program.leaf("v", i) for i in history) if bottleneck is None else (bottleneck,)
    return Adjoint(nodes, step, begin, history, kept)


def _sweep(
    graph: Graph, program: Program, seeds: Iterable[tuple[int, Expr]], wanted: frozenset[Any]
) -> Gradients:
    """Run the graph backwards from the seeds and collect what reaches the wanted leaves."""
    differentiable = _differentiable(program.nodes, wanted)
    arrived: dict[int, Expr] = {}
    tables: dict[str, list[tuple[int | None, int]]] = {}

    def flow(target: int, g: Expr) -> None:
        if target in differentiable:
            arrived[target] = arrived[target] + g if target in arrived else g

    for root, g in seeds:
        flow(root, g)
    for number in reversed(range(len(program.nodes))):
        if number not in arrived:
            continue
        node, g = program.nodes[number], arrived[number]
        if node[0] == "lookup":
            tables.setdefault(node[1], []).append((node[2], g.number))
        elif node[0] in ADJOINT:
            values = [Expr(graph, operand) for operand in node[1:]]
            flows = ADJOINT[node[0]](g, Expr(graph, number), *values)
            for operand, part in zip(node[1:], flows, strict=True):
                if part is not None:
                    flow(operand, part)

    def leaf(*name: Any) -> int | None:
        g = arrived.get(program.leaf(*name))
        return None if g is None else g.number

    plain = ((name, leaf("p", name)) for name, _ in program.params)
    parameters = {name: ((None, g),) for name, g in plain if g is not None}
    return Gradients(
        tuple(leaf("x", i) for i in range(program.inputs)),
        tuple(leaf("v", i) for i in range(program.states)),
        {**parameters, **{name: tuple(pairs) for name, pairs in tables.items()}},
    )


def _differentiable(nodes: tuple[Node, ...], wanted: frozenset[Any]) -> set[int]:
    """The nodes through which a gradient reaches a wanted leaf."""
    found: set[int] = set()
    for number, node in enumerate(nodes):
        if node[0] == "lookup":
            reaches = ("p", node[1]) in wanted
        else:
            reaches = node in wanted or any(operand in found for operand in _passed(node))
        if reaches:
            found.add(number)
    return found


def _passed(node: Node) -> tuple[int, ...]:
    """The operands that a gradient passes to."""
    if node[0] not in ADJOINT:
        return ()
    passed = {"where": node[2:], "with_nan": node[1:2], "with_grad": node[2::2]}
    return passed.get(node[0], node[1:])


def reach(program: Program) -> tuple[frozenset[int], ...]:
    """For each output and each last state, which of the program's leaves its gradient reaches.

    Args:
        program: The traced neuron.

    Returns:
        Numbers of :attr:`Program.leaves`, outputs first.
    """
    results = (*program.outputs, *program.next)
    reached: list[set[int]] = [set() for _ in results]
    for number, leaf in enumerate(program.leaves):
        found = _reaching(program, leaf)
        for place, result in enumerate(results):
            if result in found:
                reached[place].add(number)
    return tuple(map(frozenset, reached))


def _reaching(program: Program, leaf: Node) -> set[int]:
    """The nodes of a step, at any time, whose gradient reaches a leaf."""
    wanted = {leaf}
    if program.begin is not None:
        begun = _differentiable(program.nodes, frozenset(wanted))
        # The states of a step are no leaves then, but what the beginning has made of them.
        wanted = {node for node in wanted if node[0] == "p"}
        wanted |= {("v", i) for i, first in enumerate(program.begin) if first in begun}
    while True:
        found = _differentiable(program.nodes, frozenset(wanted))
        carried = {("v", i) for i, after in enumerate(program.next) if after in found}
        if carried <= wanted:
            return found
        wanted |= carried


def _history(program: Program, nodes: tuple[Node, ...], roots: tuple[int, ...]) -> tuple[int, ...]:
    """States that the sweep reads, and states that those need in turn."""
    needed: set[int] = set()
    ahead = list(roots)
    seen: set[int] = set()
    while ahead:
        number = ahead.pop()
        if number in seen:
            continue
        seen.add(number)
        node = nodes[number]
        if node[0] == "v" and node[1] not in needed:
            needed.add(node[1])
            ahead.append(program.next[node[1]])
        ahead.extend(operands(node))
    return tuple(sorted(needed))


def _bottleneck(program: Program, nodes: tuple[Node, ...], roots: tuple[int, ...]) -> int | None:
    """The forward value that alone spares the sweep the states, and the most of its work."""
    found: dict[int, int] = {}
    for number in schedule(nodes, roots):
        if number >= len(program.nodes) or nodes[number][0] in LEAVES | CONDITIONS:
            continue
        rest = schedule(nodes, roots, frozenset({number}))
        if not any(nodes[other][0] == "v" for other in rest):
            found[number] = len(rest)
    return min(found, key=lambda number: found[number]) if found else None
