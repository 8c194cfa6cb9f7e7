"""Leaky: leaky integrate-and-fire, as snnTorch computes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.values import POSITIVE
from spikeloom.kernel.vocabulary import Surrogate, clamp, fire
from spikeloom.neurons.arguments import checked_choice, checked_surrogate
from spikeloom.neurons.described import Described, Variant
from spikeloom.neurons.forms import Constants, Membrane, NoForm, steps_of
from spikeloom.neurons.surrogate import ATan
from spikeloom.neurons.trace import Response

__all__ = ["Leaky"]


class Leaky(Described):
    r"""Leaky integrate-and-fire, as snnTorch computes it.

    The reset that a spike causes is applied at the next step, and its gradient is cut:

    .. math::
        r[t] &= \Theta(v[t-1] - \theta) \\
        v[t] &= \beta\,v[t-1] + x[t] - r[t]\,\theta \quad\text{(subtract)} \\
        v[t] &= \beta\,(1 - r[t])\,v[t-1] + x[t] \quad\text{(zero)} \\
        s[t] &= \Theta(v[t] - \theta)\,g

    Args:
        beta: Decay a step; clamped to [0, 1] in the step, as snnTorch does. A tensor is shared
            when 0-d and per neuron otherwise; a Parameter is learned.
        threshold: Threshold, positive; a number or tensor like ``beta``.
        reset_mechanism: ``"subtract"``, ``"zero"`` or ``"none"``.
        reset_delay: False resets in the step that fires: before it is returned, the potential
            changes by the reset due now less the one made at the start of the step, ``s / g - r``
            times ``threshold`` (subtract) or ``v`` (zero), whose gradient is not cut.
        surrogate: The derivative of a spike; fires strictly above the threshold.
        graded_spikes_factor: g, the height of a spike; a number or tensor like ``beta``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the threshold is not positive, the mechanism unknown or a value not finite.

    State: ``mem``, the potential before (``reset_delay=True``) or after the reset.

    Example:
        >>> import torch, spikeloom
        >>> spikes, (mem,) = spikeloom.run(spikeloom.neurons.Leaky(0.5), torch.ones(4, 1))
        >>> spikes.flatten()
        tensor([0., 1., 0., 1.])

    Source: snnTorch 1.0, ``snntorch.Leaky``.
    """

    rules = Fixed({"threshold": POSITIVE})
    unit = "threshold"

    def __init__(
        self,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        reset_mechanism: str = "subtract",
        reset_delay: bool = True,
        surrogate: Surrogate | None = ATan(),
        graded_spikes_factor: float | Tensor = 1.0,
    ) -> None:
        mechanisms = ("subtract", "zero", "none")
        self.reset_mechanism = checked_choice("Leaky: reset_mechanism", reset_mechanism, mechanisms)
        self.reset_delay = bool(reset_delay)
        self.surrogate = checked_surrogate("Leaky", surrogate, ATan())
        params = {
            "beta": beta,
            "threshold": threshold,
            "graded_spikes_factor": graded_spikes_factor,
        }
        super().__init__(self._step, state=("mem",), params=params, name="Leaky")

    def _reset(self, mem: Any, p: Any) -> Any:
        return fire(mem - p.threshold, strict=True)

    def _fire(self, mem: Any, p: Any) -> Any:
        return fire(mem - p.threshold, self.surrogate, strict=True)

    def _charge(self, x: Any, mem: Any, reset: Any, p: Any) -> Any:
        if self.reset_mechanism == "zero":
            mem = (1.0 - reset) * mem
        mem = clamp(p.beta, 0.0, 1.0) * mem + x
        return mem - reset * p.threshold if self.reset_mechanism == "subtract" else mem

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        (mem,) = state
        reset = self._reset(mem, p)
        mem = self._charge(x, mem, reset, p)
        s = self._fire(mem, p)
        if not self.reset_delay:
            # The next step resets again what is still above the threshold: not twice here.
            due = s - reset
            if self.reset_mechanism == "subtract":
                mem = mem - due * p.threshold
            elif self.reset_mechanism == "zero":
                mem = mem - due * mem
        return s * p.graded_spikes_factor, (mem,)

    def response(self, values: Mapping[str, Any]) -> Response:
        """The filter below the threshold."""
        return Response.clamped(values["beta"])

    def form(self, values: Constants) -> Membrane:
        """A membrane that fires and resets."""
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
            k=steps_of("beta", np.clip(values["beta"], 0.0, 1.0)),
            divided=False,
            threshold=values["threshold"],
            at_threshold=False,
            reset=reset,
            reset_leaks=False,  # snnTorch subtracts at the next step, after the leak
            height=float(height[0]),
        )

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """The reset mechanisms."""
        yield Variant("zero reset", cls(0.5, reset_mechanism="zero"))
        yield Variant("subtract", cls(0.5))
        yield Variant("no reset", cls(0.5, reset_mechanism="none"))

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {
            "beta": self.params["beta"],
            "threshold": self.params["threshold"],
            "reset_mechanism": self.reset_mechanism,
            "reset_delay": self.reset_delay,
            "surrogate": self.surrogate,
            "graded_spikes_factor": self.params["graded_spikes_factor"],
        }
