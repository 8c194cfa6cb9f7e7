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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from spikeloom.export.forms.node_groups import FAR, Layer, Piece, Wiring
from spikeloom.export.forms.spiking import strict_threshold
from spikeloom.neurons.forms import Code, Codes, Table

__all__ = ["unrolled"]


def unrolled(form: Codes, layer: Layer) -> list[Piece]:
    """A few-spike neuron, or its decoder, as a subgraph of one step.

    Args:
        form: The codes whose spikes are summed.
        layer: The layer.

    Raises:
        Refused: If it takes too many nodes.
    """
    w = Wiring()
    x = w.add("x", layer.scale(1.0))
    wires = _Wires(layer, w, x)
    terms = [term for code in form.codes for term in wires.code(code)]
    y = w.add("y", layer.scale(1.0), *terms)
    note = "a step carries a complete value"
    if form.bounded:
        note += "; outside the declared range, where the neuron gives NaN, the file gives a number"
    return [w.piece(x, y, note, "use fewer steps or ranges")]


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

    def _constant(self, name: str, constant: Any, shut: list[str]) -> str:
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
