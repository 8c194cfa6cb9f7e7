"""Trackers as modules that are bound to their steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel.choose import choose
from spikeloom.kernel.lengths import Lengths
from spikeloom.kernel.neuron import Neuron
from spikeloom.kernel.replay import Replay
from spikeloom.layer import SpikingLayer
from spikeloom.neurons.signgd import SignTracker

__all__ = ["Tracker"]

# Kinds of calls that a tracker remembers; portions of a batch come in two sizes.
KEPT = 8


class Tracker(SpikingLayer):
    """A neuron that always runs as many steps, from rest.

    A network of one sample spends most of its time between kernels. What :func:`spikeloom.run`
    would find out at each call is found out here once.

    Args:
        neuron: What to run.
        steps: T.

    Shape:
        - Input: ``[T, batch, *]``
        - Output: ``[T, batch, *]``
    """

    neuron: SignTracker

    def __init__(self, neuron: SignTracker, steps: int) -> None:
        super().__init__(neuron)
        self.steps = steps
        self._replays = _Replays()

    @property
    def reads_operand(self) -> bool:
        """Whether it computes a function of its input, instead of following it."""
        return self.neuron.function.name != "identity"

    @property
    def reach(self) -> Tensor:
        """The largest magnitude that an estimate comes near, to within its last step."""
        scale: Any = getattr(self, "scale", self.neuron.params["scale"])
        sizes: Any = self.eta
        path: Tensor = scale * (sizes.sum() + sizes[-1])
        return path

    def target(self, x: Tensor) -> Tensor:
        """What it follows, of what it reads."""
        found: Tensor = self.neuron.function.value(x)
        return found

    def tensors(self) -> list[Tensor]:
        """The neuron's parameters that are tensors, as they are now."""
        return [tensor for tensor in self._buffers.values() if tensor is not None]

    def forward(self, x: Any, lengths: Lengths = None) -> Tensor:
        """The estimates after every step."""
        tensors = self.tensors()
        if (
            lengths is None
            and len(x) == self.steps
            and _can_replay(self.neuron, self.implementation)
        ):
            replay = self._replays.find(x, tensors, lambda: Replay(self.neuron, x, tensors))
            if replay is not None:
                return replay(x)
        return super().forward(x, lengths)


class _Replays:
    """Replays of a neuron's calls; they belong to memory that no copy shares."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Replay] = {}

    def __reduce__(self) -> tuple[type[_Replays], tuple[()]]:
        return _Replays, ()

    def find(self, x: Tensor, held: Sequence[Tensor], make: Callable[[], Replay]) -> Replay | None:
        """The replay that serves a call, made if there is none; None if it cannot be replayed.

        Args:
            x: The call's input.
            held: Tensors whose values the replay depends on, which it keeps in memory.
            make: Makes it.
        """
        key = Replay.key(x, held)
        if key is None:
            return None
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= KEPT:
                self._known.clear()  # another thread may have found one before
            found = self._known[key] = make()
        return found


def _can_replay(neuron: Neuron, implementation: str) -> bool:
    """Whether calls run in a kernel that is called here, not by what torch compiles."""
    if torch.compiler.is_compiling():
        return False
    return choose(implementation, "cpu", neuron.reason)[0] == "llvm"
