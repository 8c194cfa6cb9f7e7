"""The value of a parameter: a number or a tensor, finite and in its range."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "FINITE",
    "POSITIVE",
    "Rule",
    "as_float",
    "checked_count",
    "checked_number",
    "checked_value",
    "span",
]

Condition = Callable[[Any], Any]


class Rule(NamedTuple):
    """What every value of a parameter keeps, beyond being finite.

    Attributes:
        words: The rule behind the parameter's name, such as "must be positive and finite".
        holds: The rule as a condition on a number, or on every value of a tensor.
    """

    words: str
    holds: Condition


FINITE = Rule("must be finite", lambda value: True)
POSITIVE = Rule("must be positive and finite", lambda value: value > 0)


def as_float(value: Any) -> Any:
    """A number of any type, NumPy's included, as a float; anything else as it is."""
    if type(value) is float:
        return value
    number = isinstance(value, Real) and not isinstance(value, bool)
    return float(value) if number else value


def checked_value(
    name: str, value: Any, words: str = FINITE.words, holds: Condition = FINITE.holds
) -> float | Tensor:
    """A number as a float, or a tensor as it is, if all its values are finite and keep a rule.

    Args:
        name: The argument, for errors.
        value: What a user gave.
        words: As for :class:`Rule`.
        holds: As for :class:`Rule`.

    Raises:
        TypeError: If it is neither a number nor a tensor.
        ValueError: If a value breaks the rule, or is not finite.
    """
    if not isinstance(value, Tensor):
        return checked_number(name, value, words, holds, "a number or a tensor")
    values = value.detach()
    if not values.is_meta and not bool((values.isfinite() & holds(values)).all()):
        raise ValueError(f"{name} {words}, got {span(values)}")
    return value


def checked_number(
    name: str,
    value: Any,
    words: str = FINITE.words,
    holds: Condition = FINITE.holds,
    accepted: str = "a number",
) -> float:
    """A number as a float; else as :func:`checked_value`."""
    number = as_float(value)
    if not isinstance(number, float):
        raise TypeError(f"{name} must be {accepted}, got {value!r}")
    # Not math.isfinite, which torch.compile cannot ask of a number that changes between calls.
    if not (-math.inf < number < math.inf and holds(number)):
        raise ValueError(f"{name} {words}, got {value}")
    return number


def checked_count(name: str, value: Any) -> int:
    """The value, if it is an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: must be an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: must be at least 1, got {value}")
    return value


def span(values: Tensor) -> str:
    """The value of a tensor, or the range of its values, for errors."""
    ends = (f"{end.item():g}" for end in torch.aminmax(values))
    return " to ".join(dict.fromkeys(ends))
