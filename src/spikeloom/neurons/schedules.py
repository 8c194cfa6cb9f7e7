"""Step sizes of sign gradient descent: how far an estimate moves at step t = 1, 2, 3 ...

A sender and all its receivers share one schedule. Its *reach*, the sum of its steps, is the largest
value that can be represented; its last step is the resolution.

>>> from spikeloom.neurons import Exponential
>>> schedule = Exponential(rate=0.15, decay=0.95)
>>> [round(eta, 4) for eta in schedule.steps(3)], round(schedule.reach(32), 2)
([0.15, 0.1425, 0.1354], 2.42)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Constant", "Exponential", "Inverse", "Schedule", "Table", "as_schedule"]


class Schedule(Protocol):
    """What a neuron needs of a schedule; your own is any object with these methods."""

    def steps(self, count: int) -> list[float]:
        """The first ``count`` step sizes, or as many as there are."""

    def reach(self, count: int) -> float:
        """The sum of the first ``count`` step sizes."""


@dataclass(frozen=True)
class _Formula:
    """A schedule with one formula for every step."""

    rate: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(f"{type(self).__name__}: rate", self.rate)

    def at(self, t: int) -> float:
        """The size of step t, which counts from 1."""
        raise NotImplementedError

    def steps(self, count: int) -> list[float]:
        """The sizes of the steps 1 to ``count``."""
        return [self.at(t) for t in range(1, count + 1)]

    def reach(self, count: int) -> float:
        """The sum of the first ``count`` steps."""
        return math.fsum(self.steps(count))


@dataclass(frozen=True)
class Exponential(_Formula):
    r"""Steps that shrink by a constant factor, at once or after a while.

    .. math:: \eta(t) = r\,d^{\,\max(0,\,t - 1 - h)}

    With ``decay=0.5`` every step is decisive, as in a successive-approximation converter: an early
    wrong decision is never repaired. A larger decay buys redundancy with time; below 0.5 some
    values cannot be reached at all. ``hold`` keeps a deep layer's steps large until the layers
    before it have settled.

    Args:
        rate: r, the first step.
        decay: d, in (0, 1].
        hold: h, how many further steps are as large as the first.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range.
    """

    rate: float = 0.15
    decay: float = 0.95
    hold: int = 0

    def __post_init__(self) -> None:
        _check_positive("Exponential: rate", self.rate)
        _check_positive("Exponential: decay", self.decay)
        if self.decay > 1:
            raise ValueError(f"Exponential: decay must lie in (0, 1], got {self.decay}")
        if isinstance(self.hold, bool) or not isinstance(self.hold, int):
            raise TypeError(f"Exponential: hold must be an int, got {self.hold!r}")
        if self.hold < 0:
            raise ValueError(f"Exponential: hold must be at least 0, got {self.hold}")

    def at(self, t: int) -> float:
        """The size of step t, which counts from 1."""
        return self.rate * self.decay ** max(0, t - 1 - self.hold)


@dataclass(frozen=True)
class Inverse(_Formula):
    r"""Harmonic steps, of unbounded reach: :math:`\eta(t) = r / t`.

    Args:
        rate: r, the first step.

    Raises:
        ValueError: If it is not positive.
    """

    def at(self, t: int) -> float:
        """The size of step t, which counts from 1."""
        return self.rate / t


@dataclass(frozen=True)
class Constant(_Formula):
    r"""Equal steps: :math:`\eta(t) = r`; the error never falls below r.

    Args:
        rate: r, the size of every step.

    Raises:
        ValueError: If it is not positive.
    """

    rate: float = 0.05

    def at(self, t: int) -> float:
        """The size of every step."""
        return self.rate


@dataclass(frozen=True)
class Table:
    """Steps of your own, one after another; there are no more than these.

    Args:
        values: The step sizes, at least one, all positive.

    Raises:
        ValueError: If there is none, or one is not positive and finite.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(map(float, self.values)))
        if not self.values:
            raise ValueError("Table: values must hold at least one step size, got none")
        for t, value in enumerate(self.values, 1):
            _check_positive(f"Table: step {t}", value)

    def steps(self, count: int) -> list[float]:
        """The first ``count`` step sizes, or all if there are fewer."""
        return list(self.values[:count])

    def reach(self, count: int) -> float:
        """The sum of the first ``count`` steps."""
        return math.fsum(self.steps(count))


def as_schedule(schedule: Schedule | Sequence[float]) -> Schedule:
    """A schedule as it is; a sequence of step sizes as a :class:`Table`.

    Args:
        schedule: What a user gave.

    Raises:
        TypeError: If it is neither.
    """
    if hasattr(schedule, "steps") and hasattr(schedule, "reach"):
        return schedule
    if isinstance(schedule, Sequence) and not isinstance(schedule, str):
        return Table(tuple(schedule))
    raise TypeError(
        f"schedule: must be Exponential, Inverse, Constant or a sequence of step sizes, "
        f"got {schedule!r}"
    )


def _check_positive(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value}")
