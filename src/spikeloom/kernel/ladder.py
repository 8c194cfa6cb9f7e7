"""Ladders: chains of selects by ascending edges, computed by a search in registers.

A step that chooses a piece of a table writes one comparison and one select an edge and a column:

    chosen = where(x >= 1, 5, where(x >= 0, 3, 2))

Where a CPU permutes whole registers, the number of edges that ``x`` has reached is found by halving
instead, and that number picks the entry of every column. The values are the same, to the bit.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from spikeloom.kernel.graph import Node, resolve
from spikeloom.kernel.llvm_text import Lanes

__all__ = ["LADDER", "Ladder", "entry", "reached", "with_ladders"]

# The operation that takes the place of a chain; its operands are a Ladder and a node.
LADDER = "ladder"
# Edges below which a chain is as fast, and above which a search is not worth its registers.
FEWEST, MOST = 6, 255
# Values that one instruction permutes: a register of 512 bits, and two of them.
REGISTER = 16


class Ladder(NamedTuple):
    """A column of a table, by the number of edges that a value has reached.

    Attributes:
        how: ``ge`` if a value on an edge has reached it, else ``gt``.
        edges: In ascending order.
        entries: The column, one more than there are edges.
    """

    how: str
    edges: tuple[float, ...]
    entries: tuple[float, ...]


class _Rung(NamedTuple):
    """One select of a chain: what it compares, with which edge, and what it chooses."""

    source: int
    how: str
    edge: float
    entry: float
    below: int


@lru_cache(maxsize=256)
def with_ladders(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """The graph, every chain of at least :data:`FEWEST` edges replaced by a ladder.

    Chains that ask the same of the same value have the same edges, so that it is searched once.

    Args:
        nodes: The graph; numbers stay what they are.
    """
    chains = _chains(nodes)
    shared: dict[tuple[int, str], set[float]] = defaultdict(set)
    for source, how, steps, _ in chains.values():
        shared[source, how].update(edge for edge, _ in steps)
    found = list(nodes)
    for number, (source, how, steps, first) in chains.items():
        edges = tuple(sorted(shared[source, how]))
        if FEWEST <= len(edges) <= MOST:
            ladder = Ladder(how, edges, _entries(edges, dict(steps), first))
            found[number] = (LADDER, ladder, source)
    return tuple(found)


_Chain = tuple[int, str, list[tuple[float, float]], float]


def _chains(nodes: Sequence[Node]) -> dict[int, _Chain]:
    """The longest chain that ends in each select: its source, comparison, rungs, first entry."""
    chains: dict[int, _Chain] = {}
    inner: set[int] = set()
    for number in range(len(nodes)):
        rung = _rung(nodes, number)
        if rung is None:
            continue
        below = resolve(nodes, rung.below)
        chain = chains.get(below)
        step = (rung.edge, rung.entry)
        same = chain is not None and chain[:2] == (rung.source, rung.how)
        if chain is not None and same and chain[2][-1][0] < rung.edge:
            chains[number] = (rung.source, rung.how, [*chain[2], step], chain[3])
            inner.add(below)
        elif nodes[below][0] == "const":
            chains[number] = (rung.source, rung.how, [step], float(nodes[below][1]))
    return {number: chain for number, chain in chains.items() if number not in inner}


def _rung(nodes: Sequence[Node], number: int) -> _Rung | None:
    """The select at this node, if it chooses a number by comparing with one."""
    if nodes[number][0] != "where":
        return None
    condition, chosen, below = (resolve(nodes, operand) for operand in nodes[number][1:])
    how, *compared = nodes[condition]
    if how not in ("ge", "gt") or nodes[chosen][0] != "const":
        return None
    source, edge = (resolve(nodes, operand) for operand in compared)
    if nodes[edge][0] != "const" or nodes[source][0] == "const":
        return None
    return _Rung(source, how, float(nodes[edge][1]), float(nodes[chosen][1]), below)


def _entries(
    edges: tuple[float, ...], steps: dict[float, float], first: float
) -> tuple[float, ...]:
    """The column for all edges; those that do not change it repeat its entry."""
    column = [first]
    for edge in edges:
        column.append(steps.get(edge, column[-1]))
    return tuple(column)


# --- Instructions ---


def reached(lanes: Lanes, ladder: Ladder, x: str) -> str:
    """How many edges the values have reached, in each lane; none for NaN.

    Args:
        lanes: Sixteen of float32.
        ladder: Its edges.
        x: The values.
    """
    size = 1 << len(ladder.edges).bit_length()
    # No finite value reaches an edge at infinity; beyond the last edge all entries are the last.
    starts = [0.0, *ladder.edges, *[float("inf")] * (size - 1 - len(ladder.edges))]
    count, step = lanes.integer(0), size
    while step > 1:
        edge = _permuted(lanes, starts[step // 2 :: step], count)
        beyond = lanes.compare(f"o{ladder.how}", x, edge)
        more = lanes.cast("zext", beyond, lanes.bool, lanes.int)
        count = lanes.int_op("or", lanes.int_op("shl", count, lanes.integer(1)), more)
        step //= 2
    return count


def entry(lanes: Lanes, ladder: Ladder, count: str) -> str:
    """The column's entry for each lane.

    Args:
        lanes: Sixteen of float32.
        ladder: The column.
        count: What :func:`reached` found for its edges.
    """
    size = 1 << len(ladder.edges).bit_length()
    last = [ladder.entries[-1]] * (size - len(ladder.entries))
    return _permuted(lanes, [*ladder.entries, *last], count)


def _permuted(lanes: Lanes, table: Sequence[float], index: str) -> str:
    """The entries of a table, a power of two of them, at these places."""
    if len(set(map(_bits, table))) == 1:
        return lanes.number(table[0])
    if len(table) > 2 * REGISTER:
        half = len(table) // 2
        low, high = (_permuted(lanes, part, index) for part in (table[:half], table[half:]))
        bit = lanes.int_op("and", index, lanes.integer(half))
        upper = lanes.f.value(f"icmp ne {lanes.int} {bit}, {lanes.integer(0)}")
        return lanes.select(upper, high, low)
    vector, places = lanes.type, (lanes.int, index)
    if len(table) > REGISTER:
        parts = [(vector, lanes.numbers(table[i : i + REGISTER])) for i in (0, REGISTER)]
        return lanes.f.call(vector, "llvm.x86.avx512.vpermi2var.ps.512", parts[0], places, parts[1])
    repeated = [*table] * (REGISTER // len(table))
    row = (vector, lanes.numbers(repeated))
    return lanes.f.call(vector, "llvm.x86.avx512.permvar.sf.512", row, places)


def _bits(value: float) -> bytes:
    # 0 and -0 are equal.
    return struct.pack("d", value)
