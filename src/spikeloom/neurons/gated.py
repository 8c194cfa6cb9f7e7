"""Gated few-spike neurons: the range of a value chooses the table that encodes a function of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikeloom.kernel.call import run
from spikeloom.kernel.neuron import Gated, Neuron
from spikeloom.kernel.vocabulary import Surrogate, detach, fire, lookup, where, with_grad
from spikeloom.neurons.arguments import (
    checked_choice,
    checked_sequence,
    checked_steps,
    checked_surrogate,
)
from spikeloom.neurons.described import Described, Variant
from spikeloom.neurons.few_spike import TIES, FewSpike, binary_code, row_of
from spikeloom.neurons.forms import Code, Codes, Constants, Edge, Table
from spikeloom.neurons.surrogate import StraightThrough, Triangle

__all__ = ["HG", "LinearHG"]

TABLE = ("theta", "h", "d")


class HG(Described):
    r"""Hierarchically gated neuron: the range of the value chooses the few-spike table.

    .. math::
        g = \text{the range of } x,\qquad v_1 = x - o_g,\qquad
        z_k = \Theta(v_k - \theta_{g,k}) \\
        y_k = d_{g,k} z_k\;(+\,c_g \text{ at } k = 1),\qquad v_{k+1} = v_k - h_{g,k} z_k

    Args:
        boundaries: G - 1 ascending numbers between the G ranges.
        tables: G few-spike tables of the same K: :class:`FewSpike` neurons, or any objects with
            ``theta``, ``h`` and ``d`` such as SpikingJelly's ``FewSpikeTable``.
        origins: What is subtracted from the value in each range; 0 by default.
        constants: What each range adds to its output, a spike that always fires; 0 by default.
        low: Where the first range begins; None if it has no end.
        high: Where the last range ends.
        strict: Outside ``[low, high]`` the output is NaN, which :func:`spikeloom.run` refuses on
            a CPU; False holds the value at the end of the range.
        tie: ``"gt"`` spikes above a threshold, and a value on a boundary belongs to the upper
            range; ``"ge"`` spikes on the threshold too, and it belongs to the lower range.
        surrogate: The derivative of a spike, at ``v - theta``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If counts or lengths do not fit, or boundaries do not increase.

    State: ``v``, what is left to encode; ``row``, the range; ``constant``, what the next step adds.

    Example:
        >>> import torch, spikeloom
        >>> table = spikeloom.neurons.FewSpike([2.0, 1.0], [2.0, 1.0], [2.0, 1.0], tie="ge")
        >>> twice = spikeloom.neurons.FewSpike([2.0, 1.0], [2.0, 1.0], [4.0, 2.0], tie="ge")
        >>> neuron = spikeloom.neurons.HG([0.0], [table, twice], tie="ge")
        >>> spikeloom.run(neuron, torch.tensor([[-1.0, 3.0]]), reduce="sum")[0]
        tensor([0., 6.])

    Source: LAS, arXiv:2505.09659 (AAAI 2026).
    """

    unit = "theta"
    steps: int

    def __init__(
        self,
        boundaries: Sequence[float] | Tensor,
        tables: Sequence[Any],
        origins: Sequence[float] | Tensor | None = None,
        constants: Sequence[float] | Tensor | None = None,
        low: float | None = None,
        high: float | None = None,
        strict: bool = True,
        tie: str = "gt",
        surrogate: Surrogate | None = Triangle(),
    ) -> None:
        tables = checked_sequence("HG: tables", tables, "few-spike tables")
        if not tables:
            raise ValueError("HG: tables must hold at least one few-spike table")
        kept = [_table(index, table) for index, table in enumerate(tables)]
        lengths = [len(table["theta"]) for table in kept]
        if len(set(lengths)) > 1:
            raise ValueError(f"HG: all tables need the same number of steps, got {lengths}")
        self._hold(boundaries, len(kept), low, high, strict, tie)
        self.surrogate = checked_surrogate("HG", surrogate, Triangle())
        params = {name: Gated(torch.stack([t[name] for t in kept])) for name in TABLE}
        for name, values in (("origins", origins), ("constants", constants)):
            row = torch.zeros(len(kept)) if values is None else row_of(f"HG: {name}", values)
            if len(row) != len(kept):
                raise ValueError(
                    f"HG: {name} needs one number a range, {len(kept)}; got {len(row)}"
                )
            params[name] = Gated(row[:, None])
        super().__init__(
            self._step,
            begin=self._begin,
            steps=checked_steps("HG", lengths[0]),
            state=("v", "row", "constant"),
            params=params,
            name="HG",
        )

    def _hold(
        self, boundaries: Any, ranges: int, low: Any, high: Any, strict: bool, tie: str
    ) -> None:
        """Check and keep what every gate has."""
        name = type(self).__name__
        edges = _numbers(f"{name}: boundaries", boundaries)
        if len(edges) != ranges - 1:
            raise ValueError(
                f"{name}: {ranges} ranges need {ranges - 1} boundaries, got {len(edges)}"
            )
        all_edges = [e for e in (low, *edges, high) if e is not None]
        if not all(map(math.isfinite, all_edges)) or any(a >= b for a, b in pairwise(all_edges)):
            raise ValueError(f"{name}: low, boundaries and high must increase, got {all_edges}")
        self.boundaries = tuple(map(_float32, edges))
        self.low = None if low is None else _outward(low, -math.inf)
        self.high = None if high is None else _outward(high, math.inf)
        self.strict = bool(strict)
        self.tie = checked_choice(f"{name}: tie", tie, TIES)

    def _beyond(self, x: Any, edge: float) -> Any:
        return x >= edge if self.tie == "gt" else x > edge

    def _held(self, x: Any) -> Any:
        """The value within the declared range."""
        if self.low is not None:
            x = where(x < self.low, math.nan if self.strict else self.low, x)
        if self.high is not None:
            x = where(x > self.high, math.nan if self.strict else self.high, x)
        return x

    def _begin(self, x: Any, state: Any, p: Any) -> Any:
        x = self._held(x)
        # Counted from a plain zero, not from 0 * x: NaN must not become a row.
        row = where(x > 0, 0.0, 0.0)
        for edge in self.boundaries:
            row = row + where(self._beyond(x, edge), 1.0, 0.0)
        return x - lookup(p.origins, row), row, lookup(p.constants, row)

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        v, row, constant = state
        z = fire(v - lookup(p.theta, row), self.surrogate, strict=self.tie == "gt")
        y = lookup(p.d, row) * z + constant
        return y, (v - lookup(p.h, row) * z, row, 0.0 * v)

    @property
    def tables(self) -> tuple[FewSpike, ...]:
        """The few-spike table of each range."""
        rows = zip(*(self._column(name) for name in TABLE), strict=True)
        return tuple(FewSpike(theta, h, d, self.tie) for theta, h, d in rows)

    def _column(self, name: str) -> Tensor:
        table = self.params[name]
        assert isinstance(table, Gated)
        return table.values

    def check(self, x: Tensor) -> None:
        """Raise unless every value lies in the declared range.

        Args:
            x: Values, any shape.

        Raises:
            ValueError: If a value is NaN or outside ``[low, high]``.
        """
        if not x.numel():
            return
        least, most = (float(value) for value in torch.aminmax(x.detach()))
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        if not (least >= low and most <= high):
            raise ValueError(
                f"{self.name}: fitted on [{low:g}, {high:g}], got values from {least:g} to "
                f"{most:g}; fit a wider range, or pass strict=False to hold them at its ends"
            )

    def form(self, values: Constants) -> Codes:
        """The ranges, and a constant on each side where the value is held at an end."""
        names = ("theta", "h", "d", "origins", "constants")
        rows = zip(*(values.rows(name) for name in names), strict=True)
        tables = [Table(theta, h, d, o[0], c[0]) for theta, h, d, o, c in rows]
        edges = [Edge(value, self.tie == "gt") for value in self.boundaries]
        if self.low is not None and not self.strict:
            tables.insert(0, Table(constant=self._at(self.low, values)))
            edges.insert(0, Edge(self.low, upper=True))
        if self.high is not None and not self.strict:
            tables.append(Table(constant=self._at(self.high, values)))
            edges.append(Edge(self.high, upper=False))
        bounded = self.strict and (self.low, self.high) != (None, None)
        return Codes([Code(1.0, edges, tables, self.tie == "ge")], bounded)

    def _at(self, value: float, values: Constants) -> float:
        """What the neuron makes of one value."""
        y, _ = run(self, torch.tensor([[value]]), params=values.params, reduce="sum")
        return float(y)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        origins, constants = (self._column(name)[:, 0] for name in ("origins", "constants"))
        return {
            "boundaries": self.boundaries,
            "tables": self.tables,
            "origins": origins,
            "constants": constants,
            "low": self.low,
            "high": self.high,
            "strict": self.strict,
            "tie": self.tie,
            "surrogate": self.surrogate,
        }


class LinearHG(HG):
    r"""An HG whose ranges are straight pieces, each encoded in K bits.

    In the piece from :math:`l` to :math:`l + w`, over which the function rises by :math:`r`,

    .. math::
        \theta_k = h_k = w\,2^{-k},\qquad d_k = r\,2^{-k},\qquad
        y = c + r\,2^{-K} \cdot \text{code},\qquad \text{code} \in \{0, \ldots, 2^K - 1\}

    It is the :class:`HG` of these tables (:attr:`tables`), computed without looking them up:
    thresholds and weights halve from step to step. Made by :func:`spikeloom.neurons.fit_hg`.

    Args:
        edges: G + 1 ascending numbers: the ends of the G pieces.
        rises: r of each piece.
        constants: c of each piece, the output of code 0.
        steps: K, 1 to 24.
        strict: As for :class:`HG`, outside the first and last edge.
        tie: As for :class:`HG`.
        errors: The declared error of each piece, if known.
        surrogate: The derivative of a spike at the relative distance ``(v - theta) / theta``; the
            default differentiates each piece by its slope.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If counts do not fit, edges do not increase or a value is not finite.

    State: ``v``, what is left to encode; ``theta``, the next threshold; ``d``, what the next spike
    is worth; ``constant``, what the next step adds.

    Example:
        >>> import torch, spikeloom
        >>> absolute = spikeloom.neurons.LinearHG([-4.0, 0.0, 4.0], [-4.0, 4.0], [4.0, 0.0], 2)
        >>> spikeloom.run(absolute, torch.tensor([[-3.5, 0.5, 2.5]]), reduce="sum")[0]
        tensor([4., 0., 2.])
    """

    unit = ""

    def __init__(
        self,
        edges: Sequence[float] | Tensor,
        rises: Sequence[float] | Tensor,
        constants: Sequence[float] | Tensor,
        steps: int = 8,
        strict: bool = True,
        tie: str = "gt",
        errors: Sequence[float] | None = None,
        surrogate: Surrogate | None = StraightThrough(),
    ) -> None:
        ends = _numbers("LinearHG: edges", edges)
        if len(ends) < 2:
            raise ValueError(f"LinearHG: edges must be the ends of at least one piece, got {ends}")
        pieces = len(ends) - 1
        self._hold(ends[1:-1], pieces, ends[0], ends[-1], strict, tie)
        zeros = [0.0] * pieces
        columns = {
            "rises": rises,
            "constants": constants,
            "errors": zeros if errors is None else errors,
        }
        for name, column in columns.items():
            if len(row_of(f"LinearHG: {name}", column)) != pieces:
                raise ValueError(
                    f"LinearHG: {name} needs one number a piece, {pieces}; got {len(column)}"
                )
        self.rises = tuple(_float32(value) for value in rises)
        self.constants = tuple(_float32(value) for value in constants)
        self.errors = None if errors is None else tuple(map(float, errors))
        self.surrogate = checked_surrogate("LinearHG", surrogate, StraightThrough())
        Neuron.__init__(
            self,
            self._step,
            begin=self._begin,
            steps=checked_steps("LinearHG", steps),
            state=("v", "theta", "d", "constant"),
            name="LinearHG",
        )

    @property
    def edges(self) -> tuple[float, ...]:
        """The ends of the pieces."""
        assert self.low is not None and self.high is not None
        return (self.low, *self.boundaries, self.high)

    @property
    def widths(self) -> tuple[float, ...]:
        """The width of each piece."""
        return tuple(_float32(right - left) for left, right in pairwise(self.edges))

    @property
    def max_error(self) -> float | None:
        """The declared error of the worst piece; None if none was declared."""
        return None if self.errors is None else max(self.errors)

    def _piece(self, x: Any) -> tuple[Any, Any, Any, Any]:
        """Left end, width, rise and constant of the piece that holds x."""
        rows = zip(self.edges, self.widths, self.rises, self.constants, strict=False)
        chosen, *others = (list(row) for row in rows)
        for edge, row in zip(self.boundaries, others, strict=True):
            inside = self._beyond(x, edge)
            chosen = [
                new if new is old else where(inside, new, old)
                for new, old in zip(row, chosen, strict=True)
            ]
        left, width, rise, constant = chosen
        return left, width, rise, constant

    def _begin(self, x: Any, state: Any, p: Any) -> Any:
        x = self._held(x)
        left, width, rise, constant = self._piece(x)
        # 0 * x is NaN for NaN, which would otherwise be a silent constant.
        return x - left, width * 0.5, rise * 0.5, constant + 0.0 * detach(x)

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        v, theta, d, constant = state
        z = where(v > theta if self.tie == "gt" else v >= theta, 1.0, 0.0)
        slope = self.surrogate.derivative(detach(v) / detach(theta) - 1.0) / detach(theta)
        z = with_grad(z, (v, slope))
        return constant + d * z, (v - theta * z, theta * 0.5, d * 0.5, 0.0 * detach(v))

    def decoder(self) -> Neuron:
        """The sum of the spikes in closed form: a neuron of one step, without state.

        It equals ``run(self, x[None], reduce="sum")`` but for the rounding of that sum, and
        treats every element of its input on its own. Its derivative is the slope of the piece.
        """
        return Neuron(self._decode, state=(), name="HGDecoder")

    def _decode(self, x: Any, state: Any, p: Any) -> Any:
        held = self._held(x)
        left, width, rise, constant = self._piece(held)
        share = 2.0**-self.steps
        code = binary_code(held - left, width * share, self.steps, self.tie)
        y = constant + rise * share * code
        return with_grad(y, (held, rise / width)), ()

    @property
    def tables(self) -> tuple[FewSpike, ...]:
        """The few-spike table of each piece."""
        halves = 0.5 ** torch.arange(1, self.steps + 1)
        rows = zip(self.widths, self.rises, strict=True)
        return tuple(FewSpike(w * halves, w * halves, r * halves, tie=self.tie) for w, r in rows)

    def form(self, values: Constants) -> Codes:
        """That of its tables."""
        table = self.as_table()
        return table.form(Constants(table.params))

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """Two pieces."""
        pieces = cls([-16.0, 0.0, 16.0], [0.0, 16.0], [0.0, 0.0], steps=4)
        yield Variant("4 spikes, two ranges", pieces, steps=2)

    def as_table(self) -> HG:
        """The same neuron with its tables written out, for exchange with other frameworks."""
        return HG(
            self.boundaries,
            self.tables,
            self.edges[:-1],
            self.constants,
            self.low,
            self.high,
            self.strict,
            self.tie,
        )

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {
            "edges": self.edges,
            "rises": self.rises,
            "constants": self.constants,
            "steps": self.steps,
            "strict": self.strict,
            "tie": self.tie,
            "errors": self.errors,
            "surrogate": self.surrogate,
        }

    def __repr__(self) -> str:
        shown = f"{len(self.rises)} pieces on [{self.low:g}, {self.high:g}], steps={self.steps}"
        declared = "" if self.max_error is None else f", max_error={self.max_error:.3g}"
        return f"LinearHG({shown}{declared})"


def _table(index: int, table: Any) -> dict[str, Tensor]:
    """Theta, h and d of a few-spike neuron or of any object that has them."""
    rows = table.params if isinstance(table, FewSpike) else getattr(table, "__dict__", {})
    missing = [name for name in TABLE if name not in rows]
    if missing:
        raise TypeError(
            f"HG: tables[{index}] must have theta, h and d, got {type(table).__name__} "
            f"without {', '.join(missing)}"
        )
    return {name: row_of(f"HG: tables[{index}].{name}", rows[name]) for name in TABLE}


def _numbers(name: str, values: Any) -> list[float]:
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a list of numbers, got {values!r}") from None


def _float32(value: Any) -> float:
    return float(np.float32(float(value)))


def _outward(value: float, to: float) -> float:
    """The nearest float32 that is not on the inner side of the value."""
    near = np.float32(value)
    inside = near > value if to < 0 else near < value
    return float(np.nextafter(near, np.float32(to)) if inside else near)
