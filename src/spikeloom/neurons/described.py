"""Described: a neuron that its class's arguments make, and that says what it is."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from spikeloom.kernel.neuron import Gated, Neuron, PerStep, short
from spikeloom.neurons.forms import Constants, Form

__all__ = ["Described", "Variant"]


@dataclass(frozen=True)
class Variant:
    """A neuron with settings that make a difference to what can be done with it.

    Attributes:
        label: The settings, in words.
        neuron: The neuron.
        steps: How many steps an example of it has.
    """

    label: str
    neuron: Neuron
    steps: int = 50


class Described(Neuron):
    """A neuron whose repr shows the arguments that differ from their defaults.

    A class says here what others ask of a neuron: its sub-threshold filter (:meth:`response`, for
    calibration), what it computes in the terms of file formats (:meth:`form`, for export), what its
    potentials are measured against (``unit``, for inputs that meet the threshold) and the settings
    that make a difference (:meth:`variants`, for tests and documentation).

    Example:
        >>> from spikeloom.neurons import IF, LIF, Leaky
        >>> LIF(tau=3.0, v_reset=None), IF(), Leaky(beta=0.9)
        (LIF(tau=3.0, v_reset=None), IF(), Leaky(beta=0.9))
    """

    # The methods that compute a step. A class that overrides one states its traits itself.
    _computing = frozenset({"_step", "_charge", "_share"})

    # The parameter that potentials are measured against; empty: 1.
    unit: ClassVar[str] = ""

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

    def form(self, values: Constants) -> Form | None:
        """What the neuron computes, in terms that file formats share; None if they have none.

        Args:
            values: Its parameters, as they are now.

        Raises:
            NoForm: If there is a form, but not for these settings.
        """
        return None

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """Examples of the neuron, one for each of the settings that its form depends on."""
        yield from ()

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
