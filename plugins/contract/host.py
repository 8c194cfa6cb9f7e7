"""Host: how to use one framework's nodes without knowing the framework."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

__all__ = ["Host", "State"]


State = tuple[Tensor, ...]


@dataclass(frozen=True)
class Host:
    """How to use one host's nodes without knowing the host.

    Attributes:
        name: The host's name among ``spikeloom.plugins``.
        make: The plugin's ``make(neuron, **kw)``; ``kw`` is at most ``implementation``.
        forward: ``forward(module, x, state) -> (y, state)`` over a whole sequence ``[T, ...]``.
            States are a tuple in the neuron's order. ``state=None`` is the module's own state:
            at rest when the module is fresh or was reset.
        reset: Resets the module's own state; does nothing where there is none.
        step: The same as ``forward`` for one step, ``x`` without the time axis, in the host's own
            single-step form. Without it, sequences of one step stand in.
    """

    name: str
    make: Callable[..., nn.Module]
    forward: Callable[[nn.Module, Any, State | None], tuple[Any, State]]
    reset: Callable[[nn.Module], None]
    step: Callable[[nn.Module, Tensor, State | None], tuple[Any, State]] | None = None

    def single(self, module: nn.Module, x: Tensor, state: State | None) -> tuple[Any, State]:
        """One step in the host's own form."""
        if self.step is not None:
            return self.step(module, x, state)
        y, state = self.forward(module, x[None], state)
        return y[0], state
