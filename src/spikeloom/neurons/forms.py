"""What a neuron computes, in terms that file formats share; an exporter writes it in its own.

A description states its form by :meth:`spikeloom.neurons.described.Described.form`. The forms are
few, and a new neuron usually has one of them: a leaky integrator (:class:`Filter`), one that fires
and resets (:class:`Membrane`), one that sends the code of a value (:class:`Codes`), one of ternary
spikes (:class:`Ternary`), or one that descends to a function's value (:class:`Descent`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from spikeloom.kernel.neuron import Gated, Parameter, PerStep, tensor_of
from spikeloom.neurons.schedules import Schedule

__all__ = [
    "Code",
    "Codes",
    "Constants",
    "Descent",
    "Edge",
    "Filter",
    "Form",
    "Membrane",
    "NoForm",
    "Table",
    "Ternary",
    "number",
    "steps_of",
]

Numbers = Any  # a number, or an array with one for each neuron


class NoForm(Exception):
    """Raised by a neuron whose settings have no form.

    Args:
        reason: Why.
        remedy: What to do instead.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


class Constants(Mapping[str, np.ndarray]):
    """A neuron's parameters as a file can hold them: constant numbers of float32 precision.

    They are float64 arrays, which have rounded to float32 as a kernel reads them.

    Args:
        params: The parameters with their present values.
        steps: How many steps will be run; a parameter that changes with time is constant in one.
    """

    def __init__(self, params: Mapping[str, Parameter], steps: int | None = None) -> None:
        self.params, self._steps = dict(params), steps

    def __iter__(self) -> Iterator[str]:
        return iter(self.params)

    def __len__(self) -> int:
        return len(self.params)

    def __contains__(self, name: object) -> bool:
        return name in self.params  # without reading it, which may be refused

    def __getitem__(self, name: str) -> np.ndarray:
        value = self.params[name]
        if isinstance(value, PerStep) and self._steps == 1:
            value = value.values[0]
        return number(name, value)

    def rows(self, name: str) -> list[Any]:
        """The numbers of a table, a value or a row for each step."""
        tensor = tensor_of(self.params[name])
        assert tensor is not None
        return tensor.detach().cpu().float().tolist()


def number(name: str, value: Parameter) -> np.ndarray:
    """A parameter as the kernel sees it: float64 of float32 precision.

    Args:
        name: The parameter's name, for errors.
        value: The parameter.

    Raises:
        NoForm: If it changes with time.
    """
    if isinstance(value, (PerStep, Gated)):
        raise NoForm(
            f"its {name} changes with time, a form has constants only", "use one value for all T"
        )
    array = value.detach().cpu().double().numpy() if isinstance(value, Tensor) else value
    return np.asarray(array, dtype=np.float32).astype(np.float64)


def steps_of(name: str, decay: np.ndarray) -> np.ndarray | None:
    """The time constant of a decay, in steps; None where nothing decays.

    Args:
        name: The decay, for errors.
        decay: The share that a step keeps, in [0, 1].

    Raises:
        NoForm: If it lies outside [0, 1], or is 1 for some neurons only.
    """
    if not ((decay >= 0) & (decay <= 1)).all():
        raise NoForm(f"its {name} lies outside [0, 1]", f"use {name} from 0 to 1")
    if (decay == 1).all():
        return None
    if (decay == 1).any():
        raise NoForm(
            "some of its neurons leak and some do not", f"use {name} < 1 for all neurons or none"
        )
    return 1.0 / (1.0 - decay)


def _zero() -> np.ndarray:
    return np.zeros(())


def _one() -> np.ndarray:
    return np.ones(())


class Form:
    """What a neuron computes."""


@dataclass(frozen=True, kw_only=True)
class Filter(Form):
    r"""A leaky integrator, behind an exponential synapse if it has one; its output is v.

    .. math::
        i[t] &= (1 - 1 / k_\mathrm{syn})\, i[t-1] + x[t] \\
        v[t] &= v[t-1] + (v_\mathrm{leak} - v[t-1] + i[t]) / k

    Where the input is not divided, only the first two terms are: it adds i[t] itself.

    Attributes:
        k: The membrane's time constant in steps; None for no leak.
        divided: Whether the input is divided by k.
        scale: What the input is multiplied by besides.
        synapse: The synapse's time constant in steps; None for none, i = x.
        v_leak: Where the leak leads.
    """

    k: np.ndarray | None
    divided: bool
    synapse: np.ndarray | None = None
    v_leak: np.ndarray = field(default_factory=_zero)
    scale: np.ndarray = field(default_factory=_one)

    @property
    def resistance(self) -> np.ndarray:
        """What the input is multiplied by, where it is divided by k like the leak."""
        return self.scale if self.divided or self.k is None else self.scale * self.k


@dataclass(frozen=True, kw_only=True)
class Membrane(Filter):
    """A leaky integrator that fires and resets; its output are spikes.

    Attributes:
        threshold: Where it fires.
        at_threshold: Fires at the threshold, not only above.
        reset: ``"hard"``, ``"soft"`` or ``"none"``.
        v_reset: Where a hard reset leads.
        reset_leaks: Whether what a soft reset subtracts leaks in the same step.
        height: What a spike is worth.
    """

    threshold: np.ndarray
    at_threshold: bool
    reset: str
    v_reset: np.ndarray = field(default_factory=_zero)
    reset_leaks: bool = True
    height: float = 1.0


@dataclass(frozen=True)
class Ternary(Form):
    """Spikes of -1, 0 and 1 beyond half an amplitude, from a membrane that leaks and resets.

    Attributes:
        amplitude: Twice the threshold, which is strict.
        left: The share of the potential that silence leaves.
        height: What a spike is worth.
    """

    amplitude: np.ndarray
    left: np.ndarray
    height: np.ndarray


@dataclass(frozen=True)
class Descent(Form):
    """An estimate that moves by a step size towards the largest of some multiples of a value.

    Attributes:
        slopes: The multiples.
        schedule: The step sizes.
        scale: What multiplies them.
        strict: Whether the estimate moves down only from above, not from the target itself.
        sums: Whether inputs are increments that are summed, and outputs moves; if not, inputs are
            values and outputs estimates.
    """

    slopes: tuple[float, ...]
    schedule: Schedule
    scale: np.ndarray
    strict: bool
    sums: bool


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
    """What a few-spike neuron does with the values of one range.

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


@dataclass(frozen=True)
class Codes(Form):
    """The sum of the weighted spikes of some codes of one complete value.

    Attributes:
        codes: The codes.
        bounded: Whether the neuron gives NaN outside of a range that it declares.
    """

    codes: Sequence[Code]
    bounded: bool = False
