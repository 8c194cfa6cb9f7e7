"""What a NIR graph consists of: as a table, and as a picture."""

from __future__ import annotations

import os
from typing import Any

import nir
import numpy as np

from spikeloom.pictures import drawn
from spikeloom.report import Report

__all__ = ["describe", "draw"]

COLUMNS = ("node", "kind", "input", "output", "parameters", "feeds")
# Fields that describe a node's place and not what it computes.
GENERAL = frozenset({"input_type", "output_type", "metadata", "nodes", "edges"})
# A figure's inches for a node.
WIDTH, HEIGHT = 1.6, 0.85
# An arrow begins and ends at a node's box: points from its centre.
SHRINK = {"shrinkA": 17, "shrinkB": 17}


def describe(graph: nir.NIRGraph) -> Report:
    """The nodes of a NIR graph: what they are, their shapes and parameters, and what they feed.

    Args:
        graph: For example from :func:`spikeloom.export.read`; nested graphs have dotted names.

    Returns:
        A report with a row for each node. An array is shown by its shape, and by its range.

    Example:
        >>> import nir, numpy
        >>> from spikeloom import export
        >>> fc = nir.Linear(weight=numpy.eye(2, dtype="float32"))
        >>> print(export.describe(nir.NIRGraph.from_list(fc)))
        NIR graph
        node    kind    input  output  parameters           feeds
        ------  ------  -----  ------  -------------------  ------
        input   Input   2      2                            linear
        linear  Linear  2      2       weight [2, 2] 0...1  output
        output  Output  2      2
        3 nodes, 2 edges, 4 parameters
    """
    if not isinstance(graph, nir.NIRGraph):
        raise TypeError(f"graph: must be a nir.NIRGraph, got {type(graph).__name__}")
    report = Report("NIR graph", COLUMNS)
    size, edges = _add_nodes(report, graph, "")
    report.notes.append(f"{len(report.rows)} nodes, {edges} edges, {size:,} parameters")
    report.notes += [f"{key}: {value}" for key, value in (graph.metadata or {}).items()]
    return report


def _add_nodes(report: Report, graph: nir.NIRGraph, prefix: str) -> tuple[int, int]:
    """Rows for a graph and for those inside it; how many parameters and edges they have."""
    size, edges = 0, len(graph.edges)
    order = _depths(graph)
    for name, node in ((name, graph.nodes[name]) for name in order):
        fed = {target for source, target in graph.edges if source == name}
        feeds = ", ".join(target for target in order if target in fed)
        shapes = (_shape(node.input_type), _shape(node.output_type))
        arrays = {} if isinstance(node, nir.NIRGraph) else _arrays(node)
        shown = ", ".join(f"{key} {_range(value)}" for key, value in arrays.items())
        report.add(prefix + name, type(node).__name__, *shapes, shown, feeds)
        size += sum(value.size for value in arrays.values())
        if isinstance(node, nir.NIRGraph):
            inner_size, inner_edges = _add_nodes(report, node, f"{prefix}{name}.")
            size, edges = size + inner_size, edges + inner_edges
    return size, edges


def _arrays(node: nir.NIRNode) -> dict[str, np.ndarray]:
    return {
        key: value
        for key, value in vars(node).items()
        if key not in GENERAL and isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    }


def _range(array: np.ndarray) -> str:
    """A shape and a range; one value stands for all that are equal."""
    shape = f"{list(array.shape)} " if array.ndim else ""
    if not array.size:
        return f"{shape}empty"
    least, most = array.min(), array.max()
    return f"{shape}{least:.4g}" if least == most else f"{shape}{least:.4g}...{most:.4g}"


def _shape(types: dict[str, Any] | None) -> str:
    """The shape of a node's only port; several ones are named."""
    ports = {key: "x".join(map(str, np.ravel(value))) for key, value in (types or {}).items()}
    if len(ports) == 1:
        return next(iter(ports.values()))
    return ", ".join(f"{key} {shape}" for key, shape in ports.items())


def draw(graph: nir.NIRGraph, path: str | os.PathLike[str] | None = None) -> Any:
    """Draw the nodes of a NIR graph and what they feed, from the input at the top downwards.

    Args:
        graph: The graph; a nested one is drawn as a single node.
        path: Save the picture there, in the format of its suffix.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: If matplotlib is missing.
        TypeError: If it is no NIRGraph.
    """
    if not isinstance(graph, nir.NIRGraph):
        raise TypeError(f"graph: must be a nir.NIRGraph, got {type(graph).__name__}")
    places = _places(graph)
    columns = max(x for x, _ in places.values()) - min(x for x, _ in places.values()) + 1
    rows = 1 - min(y for _, y in places.values())
    with drawn("draw", (WIDTH * columns + 0.6, HEIGHT * rows), path) as figure:
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set(xlim=_around([x for x, _ in places.values()]), ylim=(0.5 - rows, 0.5))
        for source, target in graph.edges:
            # A node feeds itself and those above it on a curve, beside the way down.
            is_down = places[target][1] < places[source][1]
            shape = f"arc3,rad={0.0 if is_down else 0.5}"
            arrow = {"arrowstyle": "->", "color": "0.4", "connectionstyle": shape} | SHRINK
            axes.annotate("", places[target], places[source], arrowprops=arrow)
        box = {"boxstyle": "round,pad=0.4", "fc": "white", "ec": "0.4"}
        for name, (x, y) in places.items():
            label = f"{name}\n{type(graph.nodes[name]).__name__}"
            axes.text(x, y, label, ha="center", va="center", fontsize=8, bbox=box)
    return figure


def _around(values: list[float]) -> tuple[float, float]:
    return min(values) - 0.6, max(values) + 0.6


def _places(graph: nir.NIRGraph) -> dict[str, tuple[float, float]]:
    """A row for each distance from the inputs, its nodes side by side."""
    rows: dict[int, list[str]] = {}
    for name, depth in _depths(graph).items():
        rows.setdefault(depth, []).append(name)
    return {
        name: (column - (len(names) - 1) / 2, -float(row))
        for row, names in rows.items()
        for column, name in enumerate(names)
    }


def _depths(graph: nir.NIRGraph) -> dict[str, int]:
    """How many edges lead from an input to each node, in that order.

    The outputs come last, and with them what no input reaches. NIR does not keep the order of
    edges, so that of the nodes decides among equals.
    """
    inputs = [name for name, node in graph.nodes.items() if isinstance(node, nir.Input)]
    outputs = {name for name, node in graph.nodes.items() if isinstance(node, nir.Output)}
    found, level, depth = dict.fromkeys(inputs, 0), {*inputs}, 0
    while level:
        depth += 1
        level = {target for source, target in graph.edges if source in level} - {*found} - outputs
        found |= dict.fromkeys(level, depth)
    depths = {name: found.get(name, depth) for name in graph.nodes}
    return dict(sorted(depths.items(), key=lambda item: item[1]))
