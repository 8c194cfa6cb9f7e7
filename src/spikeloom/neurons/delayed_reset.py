"""DelayedReset: how snnTorch's neurons fire and reset, whatever charges them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.values import POSITIVE
from spikeloom.kernel.vocabulary import Surrogate, fire
from spikeloom.neurons.arguments import checked_choice, checked_surrogate
from spikeloom.neurons.described import Described
from spikeloom.neurons.forms import Constants, Membrane, NoForm
from spikeloom.neurons.surrogate import ATan

__all__ = ["DelayedReset"]

MECHANISMS = ("subtract", "zero", "none")


class DelayedReset(Described):
    """A neuron whose spike resets it at its next step; a subclass says how it charges.

    Args:
        charge: The parameters of the charge.
        states: The states, the membrane potential first.
        threshold: Threshold.
        reset_mechanism: ``"subtract"``, ``"zero"`` or ``"none"``.
        reset_delay: False resets in the step that fires.
        surrogate: The derivative of a spike.
        graded_spikes_factor: The height of a spike.
    """

    rules = Fixed({"threshold": POSITIVE})
    unit = "threshold"
    # How many inputs a charge reads.
    _inputs = 1

    def __init__(
        self,
        charge: dict[str, Any],
        states: tuple[str, ...],
        threshold: float | Tensor,
        reset_mechanism: str,
        reset_delay: bool,
        surrogate: Surrogate | None,
        graded_spikes_factor: float | Tensor,
    ) -> None:
        name = type(self).__name__
        self.reset_mechanism = checked_choice(
            f"{name}: reset_mechanism", reset_mechanism, MECHANISMS
        )
        self.reset_delay = bool(reset_delay)
        self.surrogate = checked_surrogate(name, surrogate, ATan())
        fires = {"threshold": threshold, "graded_spikes_factor": graded_spikes_factor}
        super().__init__(
            self._step,
            state=states,
            params={**charge, **fires},
            inputs=self._inputs,
            name=name,
        )

    def _reset(self, mem: Any, p: Any) -> Any:
        return fire(mem - p.threshold, strict=True)

    def _fire(self, mem: Any, p: Any) -> Any:
        return fire(mem - p.threshold, self.surrogate, strict=True)

    def _charge(self, x: Any, state: tuple[Any, ...], reset: Any, p: Any) -> tuple[Any, ...]:
        """The states before the spike, a reset that is due included."""
        raise NotImplementedError

    def _due(self, mem: Any, reset: Any, p: Any) -> Any:
        """A potential after the reset that is due, which may discard this step's input too."""
        if self.reset_mechanism == "subtract":
            return mem - reset * p.threshold
        return mem - reset * mem if self.reset_mechanism == "zero" else mem

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        reset = self._reset(state[0], p)
        mem, *others = self._charge(x, state, reset, p)
        s = self._fire(mem, p)
        if not self.reset_delay:
            # The next step resets again what is still above the threshold: not twice here.
            mem = self._due(mem, s - reset, p)
        return s * p.graded_spikes_factor, (mem, *others)

    def _membrane(self, values: Constants, **charge: Any) -> Membrane:
        """The form, given how it charges."""
        height = np.unique(values["graded_spikes_factor"])
        if height.size != 1:
            raise NoForm("its spikes have different heights", "use one graded_spikes_factor")
        reset = {"zero": "hard", "subtract": "soft", "none": "none"}[self.reset_mechanism]
        if reset == "soft" and not self.reset_delay:
            raise NoForm(
                "its subtraction is decided twice, before and after the reset (reset_delay=False)",
                "use reset_delay=True",
            )
        return Membrane(
            threshold=values["threshold"],
            at_threshold=False,
            reset=reset,
            reset_leaks=False,  # it subtracts at the next step, after the leak
            height=float(height[0]),
            **charge,
        )

    def _require_kept_input(self) -> None:
        """Raise NoForm if a reset to zero discards the input of the step after a spike."""
        if self.reset_mechanism == "zero" and self.reset_delay:
            raise NoForm(
                "its delayed reset to zero discards the input of the step after a spike",
                'use reset_mechanism="subtract"',
            )

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        charge = {**self.params}
        fires = {name: charge.pop(name) for name in ("threshold", "graded_spikes_factor")}
        return {
            **charge,
            "threshold": fires["threshold"],
            "reset_mechanism": self.reset_mechanism,
            "reset_delay": self.reset_delay,
            "surrogate": self.surrogate,
            "graded_spikes_factor": fires["graded_spikes_factor"],
        }
