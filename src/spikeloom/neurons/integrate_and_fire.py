"""IntegrateAndFire: how SpikingJelly's neurons fire and reset, whatever charges them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.values import POSITIVE
from spikeloom.kernel.vocabulary import Surrogate, detach, fire
from spikeloom.neurons.arguments import checked_number, checked_surrogate
from spikeloom.neurons.described import Described
from spikeloom.neurons.forms import Constants, Membrane, number
from spikeloom.neurons.surrogate import Sigmoid

__all__ = ["IntegrateAndFire", "LeakyIntegrateAndFire"]


class IntegrateAndFire(Described):
    """A neuron that fires and resets as SpikingJelly's do; a subclass says how it charges.

    Args:
        charge: The parameters of the charge.
        v_threshold: Threshold.
        v_reset: Potential after a hard reset and at rest; None resets by subtraction.
        detach_reset: Cut the gradient through the reset.
        surrogate: The derivative of a spike.
        fires_at_threshold: Fire at the threshold, not only above it.
        further: States beside the potential, and where they begin.
    """

    rules = Fixed({"v_threshold": POSITIVE})
    unit = "v_threshold"

    def __init__(
        self,
        charge: dict[str, Any],
        v_threshold: float | Tensor,
        v_reset: float | None,
        detach_reset: bool,
        surrogate: Surrogate | None,
        fires_at_threshold: bool,
        further: dict[str, float] | None = None,
    ) -> None:
        name = type(self).__name__
        self.v_reset = None if v_reset is None else _reset_potential(name, v_reset)
        self.detach_reset = bool(detach_reset)
        self.surrogate = checked_surrogate(name, surrogate, Sigmoid())
        self.fires_at_threshold = bool(fires_at_threshold)
        super().__init__(
            self._step,
            state={"v": self.v_reset or 0.0, **(further or {})},
            params={**charge, "v_threshold": v_threshold},
            name=name,
        )

    def _charge(self, x: Any, v: Any, p: Any) -> Any:
        """The potential before the spike."""
        raise NotImplementedError

    def _fire(self, u: Any) -> Any:
        return fire(u, self.surrogate, strict=not self.fires_at_threshold)

    def _after(self, h: Any, s: Any, threshold: Any) -> Any:
        """The potential after the spike."""
        reset = detach(s) if self.detach_reset else s
        if self.v_reset is None:
            return h - reset * threshold
        return (1.0 - reset) * h + reset * self.v_reset

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        h = self._charge(x, state[0], p)
        s = self._fire(h - p.v_threshold)
        return s, (self._after(h, s, p.v_threshold),)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {
            **self.params,
            "v_reset": self.v_reset,
            "detach_reset": self.detach_reset,
            "surrogate": self.surrogate,
            "fires_at_threshold": self.fires_at_threshold,
        }


class LeakyIntegrateAndFire(IntegrateAndFire):
    """One whose potential leaks towards where it is reset to; a subclass says how fast.

    Args:
        leak: The parameters of the leak.
        v_threshold: As for :class:`IntegrateAndFire`, and so below.
        v_reset: Where the leak leads too; 0 for a reset by subtraction.
        decay_input: Whether the input leaks too.
        detach_reset: Cut the gradient through the reset.
        surrogate: The derivative of a spike.
        fires_at_threshold: Fire at the threshold, not only above it.
        further: States beside the potential, and where they begin.
    """

    def __init__(
        self,
        leak: dict[str, Any],
        v_threshold: float | Tensor,
        v_reset: float | None,
        decay_input: bool,
        detach_reset: bool,
        surrogate: Surrogate | None,
        fires_at_threshold: bool,
        further: dict[str, float] | None = None,
    ) -> None:
        self.decay_input = bool(decay_input)
        fires = (v_threshold, v_reset, detach_reset, surrogate, fires_at_threshold)
        super().__init__(leak, *fires, further)

    def _charge(self, x: Any, v: Any, p: Any) -> Any:
        above = v - self.v_reset if self.v_reset else v
        if self.decay_input:
            return v + self._share(x - above, p)
        return v - self._share(above, p) + x

    def _share(self, difference: Any, p: Any) -> Any:
        """What a step closes of the distance between two potentials."""
        raise NotImplementedError

    def _membrane(self, values: Constants, k: np.ndarray | None) -> Membrane:
        """The form, for a time constant in steps; None for no leak."""
        base = number("v_reset", self.v_reset or 0.0)
        return Membrane(
            k=k,
            divided=self.decay_input and k is not None,
            threshold=values["v_threshold"],
            at_threshold=self.fires_at_threshold,
            reset="soft" if self.v_reset is None else "hard",
            v_reset=base,
            v_leak=base,
        )

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        leak = {**self.params, "v_reset": self.v_reset, "decay_input": self.decay_input}
        return {**leak, **super().settings()}


def _reset_potential(neuron: str, value: Any) -> float:
    """The reset potential of a hard reset; it is also where the state begins, hence a number."""
    if isinstance(value, Tensor):
        raise TypeError(
            f"{neuron}: v_reset must be a number or None, because no gradient reaches it; got a "
            f"{type(value).__name__} of shape {list(value.shape)}. Give float(v_reset), or take "
            f"LIFBox, whose v_reset may be a tensor and learns"
        )
    return checked_number(f"{neuron}: v_reset", value, "must be a finite number or None")
