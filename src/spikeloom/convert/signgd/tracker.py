"""Trackers as modules that are bound to their steps, and that of a max-pool with what it pools."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from spikeloom.convert.signgd.pooling import AxisWindow, count, elements
from spikeloom.kernel.choose import choose
from spikeloom.kernel.neuron import Neuron
from spikeloom.kernel.replay import Replay
from spikeloom.kernel.vocabulary import maximum
from spikeloom.layer import SpikingLayer
from spikeloom.neurons.signgd import SignTracker

__all__ = ["MaxTracker", "Tracker"]

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

    def __init__(self, neuron: Neuron, steps: int) -> None:
        super().__init__(neuron)
        self.steps = steps
        self._replays: dict[tuple[Any, ...], Replay] = {}

    @property
    def reads_operand(self) -> bool:
        """Whether it computes a function of its input, instead of following it."""
        return isinstance(self.neuron, SignTracker) and self.neuron.function.name != "identity"

    def forward(self, x: Any) -> Tensor:
        """The estimates after every step."""
        tensors = [tensor for tensor in self._buffers.values() if tensor is not None]
        key = Replay.key(x, tensors) if len(x) == self.steps else None
        if key is None or choose(self.implementation, "cpu", self.neuron.reason)[0] != "llvm":
            return super().forward(self.inputs(x))
        if key not in self._replays:
            if len(self._replays) >= KEPT:
                self._replays.clear()
            self._replays[key] = Replay(self.neuron, x, tensors, self.inputs(x))
        return self._replays[key](x)

    def inputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the neuron reads, as views of ``x``."""
        return (x,)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what belongs to memory that is not copied."""
        return {**super().__getstate__(), "_replays": {}}


class MaxTracker(Tracker):
    """The tracker of a max-pool and those of what it pools, in one kernel.

    The estimates that only the max-pool reads need not be written anywhere, and the elements of
    its windows are read where they are.

    Args:
        pooled: The tracker of the values that are pooled.
        own: The tracker of their maxima.
        windows: The max-pool's, along each axis; they do not overlap.

    Shape:
        - Input: ``[T, batch, *]``, the targets of the values that are pooled
        - Output: ``[T, batch, *]``, the estimates of their maxima
    """

    def __init__(
        self, pooled: SignTracker, own: SignTracker, windows: Sequence[AxisWindow]
    ) -> None:
        scale, self.windows = pooled.params["scale"], windows
        if isinstance(scale, Tensor):
            before = scale.shape[: -len(windows)]
            whole = scale.expand(*before, *(window.size for window in windows))
            scales: list[Any] = elements(whole, windows)
        else:
            scales = [scale] * count(windows)
        super().__init__(_Maximum(pooled, own, scales), own.length)

    def inputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """The elements of a window, each of all windows."""
        return tuple(elements(x, self.windows))


class _Maximum(Neuron):
    """An estimate of each element of a window, and one of their maximum, which is the output."""

    def __init__(self, pooled: SignTracker, own: SignTracker, scales: Sequence[Any]) -> None:
        self.pooled, self.own = pooled, own
        etas = {"eta": own.params["eta"], "pooled_eta": pooled.params["eta"]}
        numbered = {f"scale_{i}": scale for i, scale in enumerate(scales)}
        super().__init__(
            self._step,
            state=(*(f"y_{i}" for i in range(len(scales))), "y"),
            params={**etas, "scale": own.params["scale"], **numbered},
            inputs=len(scales),
            name="MaxTracker",
        )

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        *estimates, y = state
        moved: list[Any] = []
        for i, (target, estimate) in enumerate(zip(x, estimates, strict=True)):
            part = SimpleNamespace(eta=p.pooled_eta, scale=getattr(p, f"scale_{i}"))
            moved += self.pooled.step(target, (estimate,), part)[1]
        after, (y,) = self.own.step(reduce(maximum, moved), (y,), p)
        return after, (*moved, y)
