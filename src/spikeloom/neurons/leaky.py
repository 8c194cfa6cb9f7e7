"""Leaky: leaky integrate-and-fire, as snnTorch computes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from spikeloom.kernel.vocabulary import Surrogate, clamp
from spikeloom.neurons.delayed_reset import DelayedReset
from spikeloom.neurons.described import Variant
from spikeloom.neurons.forms import Constants, Membrane, steps_of
from spikeloom.neurons.surrogate import ATan
from spikeloom.neurons.trace import Response

__all__ = ["Leaky"]


class Leaky(DelayedReset):
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

    def __init__(
        self,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        reset_mechanism: str = "subtract",
        reset_delay: bool = True,
        surrogate: Surrogate | None = ATan(),
        graded_spikes_factor: float | Tensor = 1.0,
    ) -> None:
        super().__init__(
            {"beta": beta},
            ("mem",),
            threshold,
            reset_mechanism,
            reset_delay,
            surrogate,
            graded_spikes_factor,
        )

    def _charge(self, x: Any, state: tuple[Any, ...], reset: Any, p: Any) -> tuple[Any, ...]:
        (mem,) = state
        if self.reset_mechanism == "zero":  # unlike others, it keeps this step's input
            return (clamp(p.beta, 0.0, 1.0) * ((1.0 - reset) * mem) + x,)
        return (self._due(clamp(p.beta, 0.0, 1.0) * mem + x, reset, p),)

    def response(self, values: Mapping[str, Any]) -> Response:
        """The filter below the threshold."""
        return Response.clamped(values["beta"])

    def form(self, values: Constants) -> Membrane:
        """A membrane that fires and resets."""
        k = steps_of("beta", np.clip(values["beta"], 0.0, 1.0))
        return self._membrane(values, k=k, divided=False)

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """The reset mechanisms."""
        yield Variant("zero reset", cls(0.5, reset_mechanism="zero"))
        yield Variant("subtract", cls(0.5))
        yield Variant("no reset", cls(0.5, reset_mechanism="none"))
