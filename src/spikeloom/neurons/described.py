"""Described: a neuron that its class's arguments make, and that repr shows by those."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
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

    # The methods that compute a step. A class that overrides one states its traits itself.
    _computing = frozenset({"_step", "_charge", "_share"})

    def states(self, trait: str) -> bool:
        """Whether a trait such as ``response`` is that of this class's own step, not of a base's.

        Args:
            trait: The name of the method that states it.
        """
        for cls in type(self).__mro__:
            if trait in vars(cls):
                return True
            if not self._computing.isdisjoint(vars(cls)):
                return False
        return False

    def response(self, values: Mapping[str, Any]) -> Any:
        """The filter that the neuron is while it neither fires nor resets; None if it is not known.

        Args:
            values: Its parameters, as they are now.

        Returns:
            A :class:`spikeloom.neurons.trace.Response`.
        """
        return None

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
