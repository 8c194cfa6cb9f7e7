"""SpikingJelly's own neuron at work in the place of one of ours, which its counters then count."""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based.neuron import BaseNode
from torch import Tensor

from spikeloom.kernel.call import COMPUTED

__all__ = ["Twin"]

State = tuple[Tensor, ...]


class Twin:
    """The methods of a node, computed by another that equals it.

    Potentials have the precision of ours: 16-bit inputs are computed in float32.

    Args:
        native: SpikingJelly's own neuron.
        given: The dtype of the inputs.
        stored: The dtype of the outputs: the same, or what counts of events are promoted to.
    """

    def __init__(self, native: BaseNode, given: torch.dtype, stored: torch.dtype) -> None:
        self._native, self._given, self._stored = native, given, stored
        self._computed = COMPUTED[stored]

    def materialize_states(
        self, inputs: tuple[Tensor, ...], states: tuple[Any, ...], step_mode: str
    ) -> State:
        """States as tensors that fit the input."""
        return self._native.materialize_states(self._wide(inputs), states, step_mode)

    def single_step(self, inputs: tuple[Tensor, ...], states: State) -> tuple[State, State]:
        """One step with explicit states."""
        y, states = self._native.single_step_functional_forward(self._wide(inputs), states)
        return self._narrow(y), states

    def multi_step(self, inputs: tuple[Tensor, ...], states: State) -> tuple[State, State]:
        """A whole sequence with explicit states."""
        y, states = self._native.multi_step_functional_forward(self._wide(inputs), states)
        return self._narrow(y), states

    def sequence(self, x: Tensor, memories: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """A whole sequence from the memories of a node, which are updated.

        Args:
            x: The sequence.
            memories: The memories.

        Returns:
            The spikes, and the potentials after every step if the node keeps them.
        """
        self._native._memories = memories
        y = self._native.multi_step_forward(*self._wide((x,)))
        return self._narrow((y,))[0], self._native.v_seq

    def _wide(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return _cast(inputs, self._given, self._computed)

    def _narrow(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return _cast(outputs, self._computed, self._stored)


def _cast(values: tuple[Tensor, ...], own: torch.dtype, wanted: torch.dtype) -> tuple[Tensor, ...]:
    # Tensors are not asked for their dtype: a counter may count that.
    return values if own is wanted else tuple(value.to(wanted) for value in values)
