"""What the neurons ask of their arguments; errors name the argument, its value and the rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel.vocabulary import Surrogate

__all__ = [
    "as_float",
    "checked_choice",
    "checked_number",
    "checked_positive",
    "checked_sequence",
    "checked_steps",
    "checked_surrogate",
    "checked_value",
    "span",
]

# The bits of a float32, which hold every code.
MOST_STEPS = 24

Condition = Callable[[Any], Any]


def checked_value(
    name: str, value: Any, rule: str = "must be finite", holds: Condition = lambda value: True
) -> float | Tensor:
    """A number as a float, or a tensor as it is, if all its values are finite and keep a rule.

    Args:
        name: The argument, for errors.
        value: What a user gave.
        rule: The rule in words, behind the name.
        holds: The rule as a condition on a number, or on every value of a tensor.

    Raises:
        TypeError: If it is neither a number nor a tensor.
        ValueError: If a value breaks the rule, or is not finite.
    """
    if not isinstance(value, Tensor):
        return checked_number(name, value, rule, holds, "a number or a tensor")
    values = value.detach()
    if not values.is_meta and not bool((values.isfinite() & holds(values)).all()):
        raise ValueError(f"{name} {rule}, got {span(values)}")
    return value


def checked_number(
    name: str,
    value: Any,
    rule: str = "must be finite",
    holds: Condition = lambda value: True,
    accepted: str = "a number",
) -> float:
    """A number as a float; else as :func:`checked_value`."""
    number = as_float(value)
    if not isinstance(number, float):
        raise TypeError(f"{name} must be {accepted}, got {value!r}")
    if not (math.isfinite(number) and holds(number)):
        raise ValueError(f"{name} {rule}, got {value}")
    return number


def as_float(value: Any) -> Any:
    """A number of any type, NumPy's included, as a float; anything else as it is."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    return float(value) if number else value


def checked_positive(name: str, value: Any) -> float | Tensor:
    """A positive number or tensor; else as :func:`checked_value`."""
    return checked_value(name, value, "must be positive and finite", lambda value: value > 0)


def checked_steps(neuron: str, steps: Any) -> int:
    """K, if it is in range."""
    if isinstance(steps, bool) or not isinstance(steps, Integral):
        raise TypeError(f"{neuron}: steps must be an int, got {steps!r}")
    count = int(steps)
    if not 1 <= count <= MOST_STEPS:
        raise ValueError(
            f"{neuron}: steps must be in 1..{MOST_STEPS}, the bits of a float32; got {count}"
        )
    return count


def checked_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """The value, if it is one of the choices."""
    if value not in choices:
        *others, last = map(repr, choices)
        raise ValueError(f"{name} must be one of {', '.join(others)} or {last}, got {value!r}")
    return value


def checked_sequence(name: str, values: Any, of: str) -> tuple[Any, ...]:
    """The members of a list or tuple; a single value is refused.

    Args:
        name: The argument, for errors.
        values: What a user gave.
        of: What the members are, for errors.
    """
    if isinstance(values, (str, Tensor)) or not isinstance(values, Sequence):
        raise TypeError(f"{name} must be a list or tuple of {of}, got {values!r}")
    return tuple(values)


def checked_surrogate(neuron: str, surrogate: Any, default: Surrogate) -> Surrogate:
    """What stands in for a spike's derivative, or the default for None.

    Args:
        neuron: The neuron, for errors.
        surrogate: What a user gave.
        default: The neuron's own.

    Raises:
        TypeError: If it has no ``derivative``, or is a class that still wants to be called.
    """
    if surrogate is None:
        return default
    if isinstance(surrogate, type):
        got = f"the class {surrogate.__name__}; call it: {surrogate.__name__}()"
    elif not callable(getattr(surrogate, "derivative", None)):
        got = f"{surrogate!r}, which has no derivative(u)"
    else:
        return surrogate
    raise TypeError(
        f"{neuron}: surrogate must be one of spikeloom.neurons.surrogate, such as "
        f"ATan(alpha=2.0), got {got}"
    )


def span(values: Tensor) -> str:
    """The value of a tensor, or the range of its values, for errors."""
    ends = (f"{end.item():g}" for end in torch.aminmax(values))
    return " to ".join(dict.fromkeys(ends))
