"""Settings: numbers that a kernel gets at each call, though they are no parameters of its neuron.

A surrogate's slope is one. Were it part of the kernel, each value of a schedule would be compiled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

__all__ = ["Setting", "with_settings"]


class Setting(float):
    """A number that remembers how it came about; arithmetic with plain numbers makes others.

    Args:
        value: The number.
        origin: The same for every value that it may have.
    """

    origin: Any

    def __new__(cls, value: float, origin: Any) -> Setting:
        """The number."""
        self = super().__new__(cls, value)
        self.origin = origin
        return self

    def derived(self, name: str, value: Any, *others: Any) -> Any:
        """What an operation has made of this number.

        Args:
            name: The operation.
            value: Its result.
            others: Its other operands.
        """
        if not isinstance(value, float):
            return value
        origins = [getattr(other, "origin", repr(other)) for other in others]
        return Setting(value, (name, self.origin, *origins))


def _operation(name: str) -> Callable[..., Any]:
    compute = getattr(float, name)

    def operation(self: Setting, *others: Any) -> Any:
        return self.derived(name, compute(self, *others), *others)

    return operation


_NAMES = ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow")
for _name in (*_NAMES, "neg", "abs"):
    setattr(Setting, f"__{_name}__", _operation(f"__{_name}__"))


def with_settings(surrogate: Any, place: int) -> Any:
    """A copy of a surrogate whose numbers are settings; without numbers, the surrogate itself.

    Args:
        surrogate: Any object with a ``derivative``.
        place: Which of the surrogates of a step it is.
    """
    held = getattr(surrogate, "__dict__", {})
    found = {name: Setting(v, (place, name)) for name, v in held.items() if type(v) is float}
    if not found:
        return surrogate
    marked = copy.copy(surrogate)
    vars(marked).update(found)
    return marked
