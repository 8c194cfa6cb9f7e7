r"""Few-spike neurons as NIR nodes, their K steps side by side in one.

A few-spike neuron receives a complete value and sends K weighted spikes. In the file there is a
Threshold for each of the K comparisons, all in one time step, and the output is the weighted sum of
its spikes: a step of the file carries a value in and the decoded value out.

What a spike subtracts reaches the comparisons after it through a chain of sums of two terms, so
every reader rounds as the neuron does. Each range of values has comparisons of its own. Those of a
range that the value is not in are held silent by two gates with the largest weight there is; a gate
that is shut adds nothing, so the comparisons of the right range are not disturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from spikeloom.export.forms.pieces import FAR, Layer, Params, Piece, Wiring, number
from spikeloom.export.forms.spiking import strict_threshold
from spikeloom.kernel.call import run
from spikeloom.kernel.neuron import Neuron, tensor_of
from spikeloom.neurons.few_spike import OAT, FewSpike
from spikeloom.neurons.gated import HG, LinearHG

__all__ = ["UNROLLED", "unrolled"]

Numbers = Any  # a number, or an array with one for each neuron


@dataclass(frozen=True)
class Edge:
    """Where a range of values ends and the next begins.

    Attributes:
        value: The place.
        upper: Whether a value on it belongs to the upper range.
    """

    value: Numbers
    upper: bool


@dataclass(frozen=True)
class Table:
    """What a neuron does with the values of one range.

    Attributes:
        theta: The threshold of each step.
        h: What its spike subtracts.
        d: What its spike is worth.
        origin: What is subtracted from the value first.
        constant: What is added to the output.
    """

    theta: Sequence[Numbers] = ()
    h: Sequence[Numbers] = ()
    d: Sequence[Numbers] = ()
    origin: Numbers = 0.0
    constant: Numbers = 0.0


@dataclass(frozen=True)
class Code:
    """A value's spikes: a table for each range, and the edges between them.

    Attributes:
        sign: -1 if it reads the negated value.
        edges: In ascending order.
        tables: One more than edges.
        at_threshold: Whether a spike is fired at the threshold, not only above.
    """

    sign: float
    edges: Sequence[Edge]
    tables: Sequence[Table]
    at_threshold: bool


def unrolled(neuron: Neuron, params: Params, layer: Layer) -> list[Piece]:
    """A few-spike neuron, or its decoder, as a subgraph of one step.

    Args:
        neuron: The description, of a class in :data:`UNROLLED`.
        params: Its parameters with their present values.
        layer: The layer.

    Raises:
        Refused: If it takes too many nodes.
    """
    w = Wiring()
    x = w.add("x", layer.scale(1.0))
    wires = _Wires(layer, w, x)
    terms = [term for code in UNROLLED[type(neuron)](neuron, params) for term in wires.code(code)]
    y = w.add("y", layer.scale(1.0), *terms)
    note = "a step carries a complete value"
    if isinstance(neuron, HG) and neuron.strict and (neuron.low, neuron.high) != (None, None):
        note += "; outside the declared range, where the neuron gives NaN, the file gives a number"
    return [w.piece(x, y, note, "use fewer steps or ranges")]


# --- The tables of each class ------------------------------------------------------------------


def _few_spike(neuron: FewSpike, params: Params) -> list[Code]:
    theta, h, d = (_rows(params[name]) for name in ("theta", "h", "d"))
    return [Code(1.0, (), (Table(theta, h, d),), neuron.tie == "ge")]


def _oat(neuron: OAT, params: Params) -> list[Code]:
    """Magnitudes, once of the value and once of the negated value.

    One of the two lies below every threshold. Beyond the outermost range every step fires, as
    at its end.
    """
    ranges = [number(name, params[name]).astype(np.float32) for name in neuron.ranges]
    halves = [np.float32(0.5**k) for k in range(1, neuron.steps + 1)]
    codes = []
    for sign in (1.0, -1.0):
        tables = []
        for reach in ranges:
            theta = [reach * half for half in halves]
            worths: dict[str, Sequence[Numbers]] = {
                "weighted": theta,
                "unit": [1.0] * neuron.steps,
                "code": [2.0 ** (neuron.steps - k) for k in range(1, neuron.steps + 1)],
            }
            begin = -0.5 * theta[-1] if neuron.rounding == "nearest" else 0.0
            tables.append(Table(theta, theta, [sign * d for d in worths[neuron.spikes]], begin))
        edges = [Edge(reach, neuron.tie == "gt") for reach in ranges[:-1]]
        codes.append(Code(sign, edges, tables, neuron.tie == "ge"))
    return codes


def _hg(neuron: HG, params: Params) -> list[Code]:
    """The ranges, and a constant on each side where the value is held at an end."""
    names = ("theta", "h", "d", "origins", "constants")
    rows = zip(*(_rows(params[name]) for name in names), strict=True)
    tables = [Table(theta, h, d, o[0], c[0]) for theta, h, d, o, c in rows]
    edges = [Edge(value, neuron.tie == "gt") for value in neuron.boundaries]
    if neuron.low is not None and not neuron.strict:
        tables.insert(0, Table(constant=_at(neuron, params, neuron.low)))
        edges.insert(0, Edge(neuron.low, upper=True))
    if neuron.high is not None and not neuron.strict:
        tables.append(Table(constant=_at(neuron, params, neuron.high)))
        edges.append(Edge(neuron.high, upper=False))
    return [Code(1.0, edges, tables, neuron.tie == "ge")]


def _linear_hg(neuron: LinearHG, params: Params) -> list[Code]:
    table = neuron.as_table()
    return _hg(table, table.params)


UNROLLED: dict[type, Callable[[Any, Params], list[Code]]] = {
    FewSpike: _few_spike,
    OAT: _oat,
    HG: _hg,
    LinearHG: _linear_hg,
}


def _rows(parameter: Any) -> list[Any]:
    """The numbers of a table."""
    tensor = tensor_of(parameter)
    assert tensor is not None
    return tensor.detach().cpu().float().tolist()


def _at(neuron: HG, params: Params, value: float) -> float:
    """What a neuron makes of one value."""
    y, _ = run(neuron, torch.tensor([[value]]), params=dict(params), reduce="sum")
    return float(y)


# --- The nodes ---------------------------------------------------------------------------------


@dataclass
class _Wires:
    """Puts codes together, node by node, in the order in which a step runs them."""

    layer: Layer
    w: Wiring
    x: str

    def code(self, code: Code) -> Iterator[str]:
        """Write a code; its tables' terms, which sum to the output."""
        layer, side = self.layer, "plus" if code.sign > 0 else "minus"
        value = self.x if code.sign > 0 else self._minus_x()
        for i, table in enumerate(code.tables):
            if not table.theta and not np.any(table.constant):
                continue
            shut = []
            if i > 0:
                edge = code.edges[i - 1]
                below = strict_threshold(-np.asarray(edge.value, np.float32), not edge.upper)
                opposite = self._minus_x() if code.sign > 0 else self.x
                shut.append(self._gate(f"{side}_below_{i}", layer.threshold(below), opposite))
            if i < len(code.edges):
                edge = code.edges[i]
                beyond = strict_threshold(np.asarray(edge.value, np.float32), edge.upper)
                shut.append(self._gate(f"{side}_beyond_{i}", layer.threshold(beyond), value))
            yield from self._table(f"{side}_{i}", table, value, shut, code.at_threshold)

    def _gate(self, name: str, condition: Any, value: str) -> str:
        """Far below zero where a condition holds."""
        self.w.add(name, condition, value)
        return self.w.add(f"{name}_shut", self.layer.scale(-FAR), name)

    def _table(
        self, name: str, table: Table, value: str, shut: list[str], at_threshold: bool
    ) -> Iterator[str]:
        w, layer = self.w, self.layer
        begin = [value]
        if np.any(table.origin):
            begin.append(
                w.add(f"{name}_origin", layer.scale(-np.asarray(table.origin)), self._one())
            )
        left = w.add(f"{name}_v_1", layer.scale(1.0), *begin, *shut) if table.theta else ""
        constant = np.any(table.constant)
        for k, (theta, h, d) in enumerate(zip(table.theta, table.h, table.d, strict=True), 1):
            fires = layer.threshold(strict_threshold(np.asarray(theta), at_threshold))
            z = w.add(f"{name}_z_{k}", fires, left)
            yield w.add(f"{name}_y_{k}", layer.scale(d), z)
            if k == 1 and constant:
                yield self._constant(name, table.constant, shut)
            if k < len(table.theta):
                reset = w.add(f"{name}_h_{k}", layer.scale(-np.asarray(h)), z)
                left = w.add(f"{name}_v_{k + 1}", layer.scale(1.0), left, reset)
        if constant and not table.theta:
            yield self._constant(name, table.constant, shut)

    def _constant(self, name: str, constant: Numbers, shut: list[str]) -> str:
        """A spike that always fires within its range."""
        self.w.add(f"{name}_within", self.layer.threshold(0.5), self._one(), *shut)
        return self.w.add(f"{name}_constant", self.layer.scale(constant), f"{name}_within")

    def _one(self) -> str:
        """A node that is always 1."""
        if "one" not in self.w.nodes:
            nothing = self.w.add("nothing", self.layer.scale(0.0), self.x)
            self.w.add("one", self.layer.threshold(-0.5), nothing)
        return "one"

    def _minus_x(self) -> str:
        """The negated value."""
        if "minus_x" not in self.w.nodes:
            self.w.add("minus_x", self.layer.scale(-1.0), self.x)
        return "minus_x"
