"""Trackers as modules that are bound to their steps, and that of a max-pool with what it pools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.convert.signgd.pooling import AxisWindow, count, elements, maxima
from spikeloom.kernel.call import run
from spikeloom.kernel.choose import choose
from spikeloom.kernel.lengths import Lengths
from spikeloom.kernel.neuron import Neuron, Parameter, PerStep
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


class MaxTracker(nn.Module):
    """The tracker of a max-pool and those of what it pools, in one kernel.

    The estimates that only the max-pool reads need not be written anywhere, and the elements of
    its windows are read where they are. Step sizes and scales are those of the two trackers, also
    when they are changed.

    Args:
        pooled: The tracker of the values that are pooled.
        own: The tracker of their maxima.
        windows: The max-pool's, along each axis; they do not overlap, and have several elements.

    Shape:
        - Input: ``[T, batch, *]``, the targets of the values that are pooled
        - Output: ``[T, batch, *]``, the estimates of their maxima
    """

    def __init__(self, pooled: Tracker, own: Tracker, windows: Sequence[AxisWindow]) -> None:
        super().__init__()
        # In a tuple, because they belong to the network already.
        self.trackers, self.windows = (pooled, own), windows
        scales = self._elements_of(pooled.neuron.params["scale"])
        self.neuron = _Maximum(pooled.neuron, own.neuron, scales)
        self._replays = _Replays()

    def target(self, x: Tensor) -> Tensor:
        """The maxima of what the pooled values follow."""
        found: Tensor = maxima(self.trackers[0].target(x), self.windows)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """The estimates of the maxima after every step."""
        pooled, own = self.trackers
        if len(x) == own.steps and _can_replay(self.neuron, own.implementation):
            held = [*own.tensors(), *pooled.tensors()]
            replay = self._replays.find(x, held, lambda: self._replay(x))
            if replay is not None:
                return replay(x)
        params: dict[str, Parameter] = {
            name: PerStep(tensor) if self.neuron.kinds[name] == "step" else tensor
            for name, tensor in self._tensors().items()
        }
        inputs = tuple(elements(x, self.windows))
        y, _ = run(self.neuron, inputs, params=params, implementation=own.implementation)
        return y

    def _replay(self, x: Tensor) -> Replay:
        tensors = list(self._tensors().values())
        return Replay(self.neuron, x, tensors, elements(x, self.windows))

    def _tensors(self) -> dict[str, Tensor]:
        """The neuron's parameters that are tensors, as they are now."""
        pooled, own = self.trackers
        scales = self._elements_of(getattr(pooled, "scale", None))
        values: dict[str, Any] = {"eta": own.eta, "pooled_eta": pooled.eta}
        values["scale"] = getattr(own, "scale", None)
        values |= {f"scale_{i}": scale for i, scale in enumerate(scales)}
        return {name: value for name, value in values.items() if value is not None}

    def _elements_of(self, scale: Any) -> list[Any]:
        """The scale of each element of a window, a view for each; a number is that of all."""
        if not isinstance(scale, Tensor):
            return [scale] * count(self.windows)
        before = scale.shape[: -len(self.windows)]
        whole = scale.expand(*before, *(window.size for window in self.windows))
        return list(elements(whole, self.windows))


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
