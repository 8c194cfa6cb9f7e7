"""Trackers as modules that are bound to their steps, and that of a max-pool with what it pools."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from spikeloom.convert.signgd.pooling import AxisWindow, count, elements
from spikeloom.kernel.choose import choose
from spikeloom.kernel.neuron import Neuron
from spikeloom.kernel.scan import Call, scan
from spikeloom.kernel.vocabulary import maximum
from spikeloom.layer import SpikingLayer
from spikeloom.neurons.signgd import SignTracker

__all__ = ["MaxTracker", "Tracker"]


class Tracker(SpikingLayer):
    """A neuron that always runs as many steps, from rest.

    A network of one sample spends most of its time between kernels. What :func:`spikeloom.run`
    would find out at each call is found out here once.

    Args:
        neuron: What to run.
        steps: T.

    Shape:
        - Input: ``[T, batch, *]``, or a tuple of them if the neuron reads several
        - Output: ``[T, batch, *]``
    """

    def __init__(self, neuron: Neuron, steps: int) -> None:
        super().__init__(neuron)
        self.steps = steps
        self._tensors = [(name, kind) for name, kind in neuron.kinds.items() if kind != "number"]
        numbers = tuple(v for v in neuron.params.values() if isinstance(v, (int, float)))
        counts = (neuron.inputs, len(neuron.rest), len(self._tensors), neuron.outputs)
        text = "" if neuron.reason else neuron.variant(None, False)
        self._call = Call(text, steps, numbers, *counts)
        self._rest = torch.zeros(())

    @property
    def reads_operand(self) -> bool:
        """Whether it computes a function of its input, instead of following it."""
        return isinstance(self.neuron, SignTracker) and self.neuron.function.name != "identity"

    def forward(self, x: Tensor | tuple[Tensor, ...]) -> Tensor:
        """The estimates after every step."""
        xs = x if isinstance(x, tuple) else (x,)
        if not self._is_usual(xs[0]):
            return super().forward(x)
        shape = xs[0].shape[1:]
        held = [(getattr(self, name), kind) for name, kind in self._tensors]
        params = [value.expand(shape) if kind == "neuron" else value for value, kind in held]
        rest = [self._rest.expand(shape)] * self._call.states
        return scan(self._call, (*xs, *rest, *params))[0]

    def _is_usual(self, x: Tensor) -> bool:
        """Whether nothing is left to check or to convert."""
        return (
            x.dtype is torch.float32
            and x.is_cpu
            and len(x) == self.steps
            and all(getattr(self, name).dtype is torch.float32 for name, _ in self._tensors)
            and choose(self.implementation, "cpu", self.neuron.reason)[0] == "llvm"
        )


class MaxTracker(Tracker):
    """The tracker of a max-pool and those of what it pools, in one kernel.

    The estimates that only the max-pool reads need not be written anywhere. It pays where the
    pooled nodes have a constant target, such as those behind the first layer.

    Args:
        pooled: The tracker of the values that are pooled.
        own: The tracker of their maxima.
        windows: The max-pool's, along each axis; they do not overlap.

    Shape:
        - Input: ``[batch, *]``, the constant targets
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

    def forward(self, x: Any) -> Tensor:
        """The estimates of the maxima."""
        parts = elements(x, self.windows)
        return super().forward(tuple(part.expand(self.steps, *part.shape) for part in parts))


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
