"""A NIR graph made plain: one level, checked, and in an order in which it can be run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import nir
import numpy as np

from spikeloom.export.graph.dynamics import NEURONS, STATEFUL
from spikeloom.export.graph.extension import is_extension
from spikeloom.export.graph.torch_layers import STATELESS

__all__ = ["Edge", "Group", "Plan", "delayed_edges", "first_out_of_order", "plan"]

MAX_NODES = 10_000
MAX_DEPTH = 16

Edge = tuple[str, str]


@dataclass(frozen=True)
class Group:
    """Nodes that run together: one node, or those of a feedback loop.

    Attributes:
        nodes: Node names; in a loop, each step runs them in this order.
        delayed: The edges that carry the value of the previous step; none outside loops.
    """

    nodes: tuple[str, ...]
    delayed: frozenset[Edge] = frozenset()


@dataclass(frozen=True)
class Plan:
    """How to run a graph.

    Attributes:
        nodes: Every node by its full name, those of nested graphs as ``outer.inner``.
        edges: Between those, in the order of the graph.
        sources: For each node the nodes whose outputs it sums, in the order of the edges.
        groups: What runs after what.
        input: Name of the only Input.
        output: Name of the only Output.
        shape: Shape of the input without time and batch.
    """

    nodes: dict[str, nir.NIRNode]
    edges: tuple[Edge, ...]
    sources: dict[str, tuple[str, ...]]
    groups: tuple[Group, ...]
    input: str
    output: str
    shape: tuple[int, ...]


def plan(graph: nir.NIRGraph, max_nodes: int = MAX_NODES) -> Plan:
    """Check a graph and order it.

    A loop needs a place where a step ends. NIR does not name one; here it is the loop's entry:
    among nodes that reach each other, an edge that leads into a node which is also fed from
    outside carries the value of the previous step (0 at first). What then remains in circles is
    treated in the same way.

    Args:
        graph: The graph; nested graphs are unfolded.
        max_nodes: Larger graphs are refused.

    Raises:
        TypeError: If it is no NIRGraph.
        ValueError: If it has no single input or output, an edge leads nowhere, a node has no
            input or no consumer, a loop holds no state, or there are too many nodes.
    """
    if not isinstance(graph, nir.NIRGraph):
        raise TypeError(
            f"graph: must be a nir.NIRGraph, got {type(graph).__name__}; export.read makes one of "
            f"a file, and export.to_nir returns (graph, report)"
        )
    nodes: dict[str, nir.NIRNode] = {}
    edges: list[Edge] = []
    _unfold(graph, "", nodes, edges, max_nodes, 0)
    if len(edges) > 100 * max_nodes:
        raise ValueError(f"graph: has {len(edges)} edges, more than {100 * max_nodes}")
    _check_edges(nodes, edges)
    start = _the_only(nodes, edges, nir.Input)
    end = _the_only(nodes, edges, nir.Output)
    sources: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target in edges:
        sources[target].append(source)
    _check_reach(nodes, edges, start, end)
    _check_loops(nodes, sources)
    shape = nodes[start].input_type["input"]
    if shape is None:
        raise ValueError(f"graph: input {start!r} does not state its shape")
    return Plan(
        nodes,
        tuple(edges),
        {name: tuple(found) for name, found in sources.items()},
        tuple(_groups(sources)),
        start,
        end,
        tuple(int(size) for size in np.atleast_1d(shape)),
    )


def _unfold(
    graph: nir.NIRGraph,
    prefix: str,
    nodes: dict[str, nir.NIRNode],
    edges: list[Edge],
    max_nodes: int,
    depth: int,
) -> None:
    """Collect the nodes and edges of a graph and of the graphs nested in it."""
    if depth > MAX_DEPTH:
        raise ValueError(f"graph: {prefix} is nested more than {MAX_DEPTH} deep")
    doors: dict[str, Edge] = {}
    for name, node in graph.nodes.items():
        full = f"{prefix}{name}"
        if isinstance(node, nir.NIRGraph) and not is_extension(node):
            _unfold(node, f"{full}.", nodes, edges, max_nodes, depth + 1)
            inner = list(node.nodes.items())
            inlets = [key for key, value in inner if isinstance(value, nir.Input)]
            outlets = [key for key, value in inner if isinstance(value, nir.Output)]
            if len(inlets) != 1 or len(outlets) != 1:
                raise ValueError(f"graph: nested graph {full!r} needs one Input and one Output")
            doors[name] = (f"{full}.{inlets[0]}", f"{full}.{outlets[0]}")
        elif full in nodes:
            raise ValueError(f"graph: two nodes are called {full!r}")
        else:
            nodes[full] = node
        if len(nodes) > max_nodes:
            raise ValueError(
                f"graph: has more than {max_nodes} nodes; raise max_nodes if that is meant"
            )
    for source, target in graph.edges:
        for end in (source, target):
            if end not in graph.nodes:
                raise ValueError(
                    f"graph: edge {source!r} -> {target!r} names {end!r}, which is no node"
                )
        tail = doors[source][1] if source in doors else f"{prefix}{source}"
        head = doors[target][0] if target in doors else f"{prefix}{target}"
        edges.append((tail, head))


def _check_edges(nodes: dict[str, nir.NIRNode], edges: list[Edge]) -> None:
    seen: set[Edge] = set()
    for edge in edges:
        if edge in seen:
            raise ValueError(f"graph: edge {edge[0]!r} -> {edge[1]!r} occurs twice")
        seen.add(edge)
    for name, node in nodes.items():
        if type(node) not in (*NEURONS, *STATELESS, nir.Delay, nir.NIRGraph):
            raise ValueError(
                f"graph: node {name!r} is a {type(node).__name__}, which is no NIR primitive"
            )


def _the_only(nodes: dict[str, nir.NIRNode], edges: list[Edge], kind: type) -> str:
    """The graph's own Input or Output, not one of a nested graph, which is a passage."""
    far_end = 1 if kind is nir.Input else 0
    inside = {edge[far_end] for edge in edges}
    found = [name for name, node in nodes.items() if type(node) is kind and name not in inside]
    if len(found) != 1:
        named = ", ".join(map(repr, found)) or "none"
        raise ValueError(f"graph: needs exactly one {kind.__name__}, found {named}")
    return found[0]


def _check_reach(nodes: dict[str, nir.NIRNode], edges: list[Edge], start: str, end: str) -> None:
    """Every node must hang on the input and lead to the output."""
    followers = _adjacent(nodes, edges)
    leaders = _adjacent(nodes, [(target, source) for source, target in edges])
    fed, used = _reachable(start, followers), _reachable(end, leaders)
    for name in nodes:
        if name not in fed:
            raise ValueError(f"graph: node {name!r} gets no input")
        if name not in used:
            raise ValueError(f"graph: node {name!r} is a dead end, it leads to no output")


def _check_loops(nodes: dict[str, nir.NIRNode], sources: dict[str, list[str]]) -> None:
    stateless = {
        name for name, node in nodes.items() if not isinstance(node, (*STATEFUL, nir.NIRGraph))
    }
    reduced = {name: [s for s in sources[name] if s in stateless] for name in stateless}
    for component in _components(reduced):
        if len(component) > 1 or component[0] in reduced[component[0]]:
            circle = " -> ".join(component)
            raise ValueError(f"graph: the loop {circle} holds no state, its value is undefined")


def _adjacent(nodes: Iterable[str], edges: Iterable[Edge]) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {name: [] for name in nodes}
    for tail, head in edges:
        result[tail].append(head)
    return result


def _reachable(start: str, neighbours: dict[str, list[str]]) -> set[str]:
    seen, waiting = {start}, [start]
    while waiting:
        for name in neighbours[waiting.pop()]:
            if name not in seen:
                seen.add(name)
                waiting.append(name)
    return seen


def first_out_of_order(edges: Iterable[Edge], start: str, end: str) -> str | None:
    """The first node that runs before its sources in a reader that runs nodes as it meets them.

    The reader follows edges depth first, in their order, and runs each node once where it first
    comes by. What has not run in this step counts with its value of the previous one.

    Args:
        edges: In the order of the file.
        start: The Input.
        end: The Output, from which the reader takes what ran last.

    Returns:
        The node's name; None if the reader does what is meant.
    """
    edges = list(edges)
    names = dict.fromkeys(name for edge in edges for name in edge)
    followers = _adjacent(names, edges)
    place: dict[str, int] = {}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name not in place:
            place[name] = len(place)
            waiting += reversed(followers[name])
    delayed = delayed_edges(edges)
    for tail, head in sorted(edges, key=lambda edge: place.get(edge[1], 0)):
        late = place.get(tail, len(place)) >= place.get(head, 0)
        if late != ((tail, head) in delayed):
            return head
    return None if place.get(end) == len(place) - 1 else end


def delayed_edges(edges: Iterable[Edge]) -> set[Edge]:
    """The edges that carry the value of the previous step, by the rule of :func:`plan`.

    Args:
        edges: In the order of the file.
    """
    edges = list(edges)
    names = dict.fromkeys(name for edge in edges for name in edge)
    sources = _adjacent(names, [(head, tail) for tail, head in edges])
    return {edge for group in _groups(sources) for edge in group.delayed}


def _groups(sources: dict[str, list[str]]) -> Iterator[Group]:
    for component in _components(sources):
        delayed: set[Edge] = set()
        order = tuple(_order(component, sources, delayed))
        yield Group(order, frozenset(delayed))


def _order(
    component: list[str], sources: dict[str, list[str]], delayed: set[Edge]
) -> Iterator[str]:
    """The nodes of a component as they run in a step; collects the edges that wait a step."""
    members = set(component)
    inside = {name: [s for s in sources[name] if s in members] for name in sorted(component)}
    if not any(inside.values()):
        yield from component
        return
    entries = {name for name in component if len(inside[name]) < len(sources[name])}
    delayed.update((source, name) for name in entries for source in inside[name])
    rest = {name: [] if name in entries else found for name, found in inside.items()}
    for part in _components(rest):
        yield from _order(part, rest, delayed)


def _components(sources: dict[str, list[str]]) -> Iterator[list[str]]:
    """Strongly connected components, sources first (Tarjan, without recursion)."""
    index: dict[str, int] = {}
    low: dict[str, float] = {}
    stack: list[str] = []
    for root in sources:
        if root in index:
            continue
        path = [(root, iter(sources[root]))]
        index[root] = len(index)
        low[root] = index[root]
        stack.append(root)
        while path:
            name, waiting = path[-1]
            for source in waiting:
                if source not in index:
                    index[source] = len(index)
                    low[source] = index[source]
                    stack.append(source)
                    path.append((source, iter(sources[source])))
                    break
                low[name] = min(low[name], low[source])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[name])
                if low[name] == index[name]:
                    component: list[str] = []
                    while not component or component[-1] != name:
                        component.append(stack.pop())
                        low[component[-1]] = math.inf
                    yield component[::-1]
