r"""Few-spike neurons: a complete value enters, K weighted spikes leave.

The input is summed over its time axis first; then the neuron runs K steps, and the weights of its
spikes add up to an approximation of the value (:class:`OAT`), or of a function of it
(:class:`~spikeloom.neurons.HG`).

``run(neuron, x)`` gives the spikes, ``run(neuron, x, reduce="sum")`` their sum without storing
them, and :meth:`OAT.decoder` the same sum in closed form, as a neuron of one step without memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikeloom.kernel.call import run
from spikeloom.kernel.neuron import Neuron, Parameter, PerStep
from spikeloom.kernel.values import span
from spikeloom.kernel.vocabulary import (
    Surrogate,
    absolute,
    clamp,
    detach,
    fire,
    floor,
    where,
    with_grad,
)
from spikeloom.neurons.arguments import (
    checked_choice,
    checked_sequence,
    checked_steps,
    checked_surrogate,
)
from spikeloom.neurons.described import Described, Variant
from spikeloom.neurons.forms import Code, Codes, Constants, Edge, Table
from spikeloom.neurons.surrogate import StraightThrough, Triangle

__all__ = ["OAT", "FewSpike"]

TIES = ("gt", "ge")


class FewSpike(Described):
    r"""A few-spike neuron: one threshold, reset and weight for each of its K steps.

    .. math::
        v_1 = \sum_t x[t],\qquad z_k = \Theta(v_k - \theta_k),\qquad
        y_k = d_k z_k,\qquad v_{k+1} = v_k - h_k z_k

    Args:
        theta: Thresholds ``[K]``.
        h: What spike k subtracts from the potential, in its own step, ``[K]``.
        d: What spike k is worth, ``[K]``.
        tie: ``"gt"`` spikes above the threshold only, ``"ge"`` also on it.
        surrogate: The derivative of a spike, at ``v - theta``.

    Raises:
        TypeError: If a table is no sequence of numbers.
        ValueError: If the tables differ in length, K is not in 1..24 or a value is not finite.

    State: ``v``, what is left to encode.

    Example:
        >>> import torch, spikeloom
        >>> binary = [4.0, 2.0, 1.0]
        >>> neuron = spikeloom.neurons.FewSpike(binary, binary, binary, tie="ge")
        >>> spikes, (rest,) = spikeloom.run(neuron, torch.tensor([[5.5]]))
        >>> spikes.flatten(), rest
        (tensor([4., 0., 1.]), tensor([0.5000]))

    Source: Stoeckl and Maass 2021, Optimized spiking neurons can classify images with high
    accuracy through temporal coding with two spikes; the indices are those of SpikingJelly 2.0.
    """

    unit = "theta"

    def __init__(
        self,
        theta: Sequence[float] | Tensor,
        h: Sequence[float] | Tensor,
        d: Sequence[float] | Tensor,
        tie: str = "gt",
        surrogate: Surrogate | None = Triangle(),
    ) -> None:
        tables = {"theta": theta, "h": h, "d": d}
        rows = {name: row_of(f"FewSpike: {name}", value) for name, value in tables.items()}
        lengths = {name: len(row) for name, row in rows.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"FewSpike: theta, h and d need the same length, got {lengths}")
        self.tie = checked_choice("FewSpike: tie", tie, TIES)
        self.surrogate = checked_surrogate("FewSpike", surrogate, Triangle())
        super().__init__(
            self._step,
            begin=_accumulate,
            steps=checked_steps("FewSpike", len(rows["theta"])),
            params={name: PerStep(row) for name, row in rows.items()},
            name="FewSpike",
        )

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        (v,) = state
        z = fire(v - p.theta, self.surrogate, strict=self.tie == "gt")
        return p.d * z, (v - p.h * z,)

    def form(self, values: Constants) -> Codes:
        """One code of one range."""
        theta, h, d = (values.rows(name) for name in ("theta", "h", "d"))
        return Codes([Code(1.0, (), (Table(theta, h, d),), self.tie == "ge")])

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """A binary code."""
        binary = [4.0, 2.0, 1.0, 0.5]
        yield Variant("4 spikes", cls(binary, binary, binary), steps=2)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {**self.params, "tie": self.tie, "surrogate": self.surrogate}


def _accumulate(x: Any, state: Any, p: Any) -> Any:
    (v,) = state
    return (v + x,)


class OAT(Described):
    r"""Outlier-aware threshold neuron: sign and magnitude in K bits of the range it falls in.

    .. math::
        a = \min(|x|, V_\mathrm{out}),\qquad
        V = \text{the smallest range that holds } a,\qquad
        \theta_k = V\,2^{-k} \\
        v_1 = a\;(+\,\theta_K / 2),\qquad z_k = \Theta(v_k - \theta_k),\qquad
        y_k = \operatorname{sign}(x)\,\theta_k z_k,\qquad v_{k+1} = v_k - \theta_k z_k

    The spikes are the bits of the magnitude in units of ``LSB = V * 2**-K``, the most significant
    first. ``rounding="truncate"`` errs by at most one LSB. ``"nearest"`` begins with half an LSB
    and errs by at most half of one, except in the last half LSB below a range's end, where the
    code is full. Beyond ``outlier`` the code saturates at ``outlier * (1 - 2**-K)``. Zero never
    fires; NaN stays NaN.

    Thresholds of at most ``24 - K`` significant bits make every sum of spikes exact in float32.

    Args:
        steps: K, 1 to 24.
        normal: The inner range, positive: a number, or a tensor that is shared (0-d) or per
            neuron; a Parameter is learned.
        outlier: The outer range, larger; a number or tensor like ``normal``. None: the inner range
            is the only one.
        between: Further ranges in ascending order.
        tie: ``"gt"`` spikes above a threshold, and a magnitude equal to a range belongs to the
            next one; ``"ge"`` spikes on the threshold too, and it belongs to this one.
        rounding: ``"truncate"`` or ``"nearest"``.
        spikes: What a spike is in the output: ``"weighted"`` its value ``sign(x) * theta``;
            ``"unit"`` its sign; ``"code"`` the bit ``sign(x) * 2**(K-k)``, so that the spikes add
            up to the integer code.
        surrogate: The derivative of a spike at the relative distance ``(v - theta) / theta``; the
            default passes gradients straight through up to ``outlier`` and none beyond.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a range is not positive and finite, the ranges do not increase, or K or a
            choice is not one of those above.

    State: ``v``, what is left to encode; ``theta``, the next threshold; ``worth``, what the next
    spike is worth.

    Example:
        >>> import torch, spikeloom
        >>> neuron = spikeloom.neurons.OAT(steps=4, normal=1.0, outlier=16.0)
        >>> spikes, _ = spikeloom.run(neuron, torch.tensor([[0.7, -9.5]]))
        >>> spikes.T
        tensor([[ 0.5000,  0.0000,  0.1250,  0.0625],
                [-8.0000, -0.0000, -0.0000, -1.0000]])
        >>> spikeloom.run(neuron, torch.tensor([[0.7, -9.5]]), reduce="sum")[0]
        tensor([ 0.6875, -9.0000])

    Source: LAS, Loss-less ANN-SNN Conversion for Fully Spike-Driven Large Language Models,
    arXiv:2505.09659 (AAAI 2026).
    """

    unit = "normal"
    steps: int

    def __init__(
        self,
        steps: int = 8,
        normal: float | Tensor = 1.0,
        outlier: float | Tensor | None = None,
        between: Sequence[float | Tensor] = (),
        tie: str = "gt",
        rounding: str = "truncate",
        spikes: str = "weighted",
        surrogate: Surrogate | None = StraightThrough(),
    ) -> None:
        checked_choice("OAT: rounding", rounding, ("truncate", "nearest"))
        checked_choice("OAT: spikes", spikes, ("weighted", "unit", "code"))
        further = checked_sequence("OAT: between", between, "ranges, such as (2.0,)")
        if outlier is None and further:
            raise ValueError("OAT: between needs an outlier range above it; give outlier")
        ranges = {"normal": normal, **{f"between_{i}": value for i, value in enumerate(further)}}
        if outlier is not None:
            ranges["outlier"] = outlier
        self.ranges = tuple(ranges)
        self.tie = checked_choice("OAT: tie", tie, TIES)
        self.rounding = rounding
        self.spikes = spikes
        self.surrogate = checked_surrogate("OAT", surrogate, StraightThrough())
        super().__init__(
            self._step,
            begin=self._begin,
            steps=checked_steps("OAT", steps),
            state=("v", "theta", "worth"),
            params=ranges,
            name="OAT",
        )

    def check_parameters(self, values: Mapping[str, Parameter]) -> None:
        """Raise unless ranges are finite and increase from the inside out."""
        super().check_parameters(values)
        lower, inner = torch.tensor(0.0), "zero"
        for name in filter(values.__contains__, self.ranges):
            reach = torch.as_tensor(values[name]).detach()
            if not reach.is_meta and not bool((reach > lower.to(reach.device)).all()):
                raise ValueError(
                    f"OAT: {name} must be larger than {inner} everywhere, got {span(reach)} above "
                    f"{span(lower)}"
                )
            lower, inner = reach, name

    def _range(self, a: Any, p: Any) -> Any:
        """The range that a magnitude is encoded in."""
        *inner, chosen = (getattr(p, name) for name in self.ranges)
        for reach in reversed(inner):
            chosen = where(a < reach if self.tie == "gt" else a <= reach, reach, chosen)
        return chosen

    def _limited(self, x: Any, p: Any) -> Any:
        """The magnitude, held within the outermost range."""
        a, most = absolute(x), getattr(p, self.ranges[-1])
        return where(a > most, most, a)

    def _begin(self, x: Any, state: Any, p: Any) -> Any:
        # A neuron without history: what a former call left behind does not matter.
        reach = self._range(absolute(x), p)
        a = self._limited(x, p)
        if self.rounding == "nearest":
            a = a + detach(reach) * 2.0 ** -(self.steps + 1)
        theta = reach * 0.5
        worth = {"weighted": theta, "unit": 1.0, "code": 2.0 ** (self.steps - 1)}[self.spikes]
        # 0 * x is NaN for NaN, which would otherwise be a silent zero.
        signed = where(x > 0, worth, where(x < 0, -worth, 0.0 * detach(x)))
        return a, theta, signed

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        v, theta, worth = state
        z = self._fire(v, theta)
        left = v - theta * z
        return worth * z, (left, theta * 0.5, worth if self.spikes == "unit" else worth * 0.5)

    def _fire(self, v: Any, theta: Any) -> Any:
        z = where(v > theta if self.tie == "gt" else v >= theta, 1.0, 0.0)
        ratio = detach(v) / detach(theta)
        slope = self.surrogate.derivative(ratio - 1.0) / detach(theta)
        return with_grad(z, (v, slope), (theta, -slope * ratio))

    def decoder(self) -> Neuron:
        r"""The sum of the spikes in closed form: a neuron of one step, without state.

        .. math:: y = \operatorname{sign}(x)\,\mathrm{LSB}\,
            \min\bigl(\lceil v_1 / \mathrm{LSB} \rceil - 1,\; 2^K - 1\bigr)
            \qquad(\lfloor v_1 / \mathrm{LSB} \rfloor\text{ for tie "ge"})

        It equals ``run(self, x[None], reduce="sum")`` bit for bit when the ranges have at most
        ``24 - K`` significant bits, and treats every element of its input on its own. Gradients
        pass straight through.

        Example:
            >>> import torch, spikeloom
            >>> decoder = spikeloom.neurons.OAT(steps=4, normal=1.0, outlier=16.0).decoder()
            >>> spikeloom.run(decoder, torch.tensor([[0.7, -9.5]]))[0]
            tensor([[ 0.6875, -9.0000]])
        """
        return Neuron(self._decode, state=(), params=self.params, name="OATDecoder")

    def _decode(self, x: Any, state: Any, p: Any) -> Any:
        reach = self._range(absolute(x), p)
        a = self._limited(x, p)
        unit = reach * 2.0**-self.steps
        if self.rounding == "nearest":
            a = a + unit * 0.5
        code = binary_code(a, unit, self.steps, self.tie)
        worth = {"weighted": unit * code, "unit": code, "code": code}[self.spikes]
        y = where(x > 0, worth, where(x < 0, -worth, 0.0 * x))
        inside = where(absolute(x) <= getattr(p, self.ranges[-1]), 1.0, 0.0)
        return with_grad(y, (x, inside), (reach, (y - inside * x) / reach)), ()

    def code(self, x: Tensor, implementation: str = "auto") -> Tensor:
        """The integer codes of values: bit ``K-k`` of the magnitude is spike k.

        Args:
            x: Complete values, any shape.
            implementation: As for :func:`spikeloom.run`.

        Returns:
            int32, of the shape of ``x``.

        Raises:
            ValueError: If a value is NaN.

        Example:
            >>> import torch, spikeloom
            >>> spikeloom.neurons.OAT(steps=4, normal=1.0).code(torch.tensor([0.7, -0.3]))
            tensor([11, -4], dtype=torch.int32)
        """
        if bool(torch.isnan(x).any()):
            raise ValueError("OAT: code of NaN; the input holds NaN")
        # In float32, which holds every code of 24 bits.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        neuron = self.replace(spikes="code")
        codes, _ = run(neuron, wide[None], reduce="sum", implementation=implementation)
        return codes.to(torch.int32)

    def form(self, values: Constants) -> Codes:
        """Magnitudes, once of the value and once of the negated value.

        One of the two lies below every threshold. Beyond the outermost range every step fires, as
        at its end.
        """
        ranges = [values[name].astype(np.float32) for name in self.ranges]
        codes = []
        for sign in (1.0, -1.0):
            tables = [self._table(reach, sign) for reach in ranges]
            edges = [Edge(reach, self.tie == "gt") for reach in ranges[:-1]]
            codes.append(Code(sign, edges, tables, self.tie == "ge"))
        return Codes(codes)

    def _table(self, reach: np.ndarray, sign: float) -> Table:
        """The code of one range, of values of one sign."""
        bits = range(1, self.steps + 1)
        theta = [reach * np.float32(0.5**k) for k in bits]
        worths: dict[str, Sequence[Any]] = {
            "weighted": theta,
            "unit": [1.0] * self.steps,
            "code": [2.0 ** (self.steps - k) for k in bits],
        }
        origin = -0.5 * theta[-1] if self.rounding == "nearest" else 0.0
        return Table(theta, theta, [sign * d for d in worths[self.spikes]], origin)

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """Two ranges."""
        yield Variant("4 spikes, two ranges", cls(4, normal=1.0, outlier=16.0), steps=2)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        middle = [name for name in self.ranges if name.startswith("between_")]
        return {
            "steps": self.steps,
            "normal": self.params["normal"],
            "outlier": self.params.get("outlier"),
            "between": tuple(self.params[name] for name in middle),
            "tie": self.tie,
            "rounding": self.rounding,
            "spikes": self.spikes,
            "surrogate": self.surrogate,
        }


def binary_code(a: Any, unit: Any, steps: int, tie: str) -> Any:
    """How many units the compare-and-subtract loop of K steps takes from ``a``."""
    code = floor(a / unit)
    # The quotient may have been rounded onto a whole number; the remainder is exact and tells.
    rest = a - code * unit
    if tie == "gt":
        code = code + where(rest > unit, 1.0, where(rest <= 0, -1.0, 0.0))
    else:
        code = code + where(rest >= unit, 1.0, where(rest < 0, -1.0, 0.0))
    return clamp(code, 0.0, 2.0**steps - 1.0)


def row_of(name: str, values: Any) -> Tensor:
    """One number a step (or a range), as a float32 tensor unless it is a floating tensor already.

    Args:
        name: The argument, for errors.
        values: A sequence of numbers, a tensor or a PerStep.
    """
    values = values.values if isinstance(values, PerStep) else values
    try:
        row = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a sequence of numbers, got {values!r}") from error
    if row.dim() != 1 or not row.numel():
        raise ValueError(f"{name} must have shape [K] with K >= 1, got {list(row.shape)}")
    row = row if row.is_floating_point() else row.float()
    if not bool(torch.isfinite(row).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return row
