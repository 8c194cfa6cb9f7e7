"""What the neurons ask of their arguments; errors name the argument, its value and the rule."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from torch import Tensor

from spikeloom.kernel.values import checked_number, checked_value
from spikeloom.kernel.vocabulary import Surrogate

__all__ = [
    "checked_choice",
    "checked_number",
    "checked_sequence",
    "checked_steps",
    "checked_surrogate",
    "checked_value",
]

# The bits of a float32, which hold every code.
MOST_STEPS = 24


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
