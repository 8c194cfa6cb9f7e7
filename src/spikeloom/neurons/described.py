"""Described: a neuron that its class's arguments make, and that repr shows by those."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from spikeloom.kernel.neuron import Gated, Neuron, PerStep, short

__all__ = ["Described"]


class Described(Neuron):
    """A neuron whose repr shows the arguments that differ from their defaults.

    Example:
        >>> from spikeloom.neurons import IF, LIF, Leaky
        >>> LIF(tau=3.0, v_reset=None), IF(), Leaky(beta=0.9)
        (LIF(tau=3.0, v_reset=None), IF(), Leaky(beta=0.9))
    """

    def __repr__(self) -> str:
        arguments = inspect.signature(type(self)).parameters
        shown = (
            f"{name}={short(value)}"
            for name, value in self.settings().items()
            if name not in arguments or not _same(value, arguments[name].default)
        )
        return f"{self.name}({', '.join(shown)})"


def _same(value: Any, default: Any) -> bool:
    """Whether a setting is its default; a tensor never is."""
    return not isinstance(value, (Tensor, PerStep, Gated)) and bool(value == default)
