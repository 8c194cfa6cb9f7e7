"""A neuron around another one, with its parameters."""

from __future__ import annotations

from typing import Any

from spikeloom.kernel.neuron import Neuron

__all__ = ["Wrapped"]


class Wrapped(Neuron):
    """A neuron whose only argument is another one, whose parameters it has.

    A subclass sets ``neuron`` before it describes its own step.
    """

    neuron: Neuron

    def check_parameters(self, values: Any) -> None:
        """As the neuron does."""
        self.neuron.check_parameters(values)

    def gradient_scale(self, parameter: str, count: int) -> float | None:
        """That of the neuron."""
        return self.neuron.gradient_scale(parameter, count)

    def settings(self) -> dict[str, Any]:
        """The argument that makes it."""
        return {"neuron": self.neuron}
