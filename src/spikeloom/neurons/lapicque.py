"""Lapicque: integrate-and-fire of a resistor and a capacitor, as snnTorch computes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.values import POSITIVE
from spikeloom.kernel.vocabulary import Surrogate
from spikeloom.neurons.delayed_reset import DelayedReset
from spikeloom.neurons.described import Variant
from spikeloom.neurons.forms import Constants, Membrane
from spikeloom.neurons.surrogate import ATan
from spikeloom.neurons.trace import Response

__all__ = ["Lapicque"]


class Lapicque(DelayedReset):
    r"""Leaky integrate-and-fire of a resistance and a capacitance, as snnTorch computes it.

    The reset that a spike causes is applied at the next step, and its gradient is cut:

    .. math::
        r[t] &= \Theta(v[t-1] - \theta) \\
        m[t] &= x[t]\,R\,\frac{1}{R C}\,\Delta t + \Bigl(1 - \frac{\Delta t}{R C}\Bigr) v[t-1] \\
        v[t] &= m[t] - r[t]\,\theta \quad\text{(subtract)}\qquad
        v[t] = m[t] - r[t]\,m[t] \quad\text{(zero)} \\
        s[t] &= \Theta(v[t] - \theta)\,g

    Args:
        R: Resistance, positive; a tensor is shared when 0-d and per neuron otherwise; a Parameter
            is learned.
        C: Capacitance, likewise.
        time_step: :math:`\Delta t`, positive.
        threshold: Threshold, positive; a number or tensor like ``R``.
        reset_mechanism: ``"subtract"``, ``"zero"`` or ``"none"``.
        surrogate: The derivative of a spike; fires strictly above the threshold.
        graded_spikes_factor: g, the height of a spike; a number or tensor like ``R``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is not positive and finite, or the mechanism unknown.

    State: ``mem``, the potential before the reset.

    Example:
        >>> import torch, spikeloom
        >>> neuron = spikeloom.neurons.Lapicque(R=1.0, C=2.0)
        >>> spikes, (mem,) = spikeloom.run(neuron, torch.full((5, 1), 1.5))
        >>> spikes.flatten()
        tensor([0., 1., 0., 0., 1.])

    Source: snnTorch 1.0, ``snntorch.Lapicque``.
    """

    rules = Fixed({**DelayedReset.rules, **dict.fromkeys(("R", "C", "time_step"), POSITIVE)})

    def __init__(
        self,
        R: float | Tensor,
        C: float | Tensor,
        time_step: float | Tensor = 1.0,
        threshold: float | Tensor = 1.0,
        reset_mechanism: str = "subtract",
        surrogate: Surrogate | None = ATan(),
        graded_spikes_factor: float | Tensor = 1.0,
    ) -> None:
        super().__init__(
            {"R": R, "C": C, "time_step": time_step},
            ("mem",),
            threshold,
            reset_mechanism,
            True,
            surrogate,
            graded_spikes_factor,
        )

    def _charge(self, x: Any, state: tuple[Any, ...], reset: Any, p: Any) -> tuple[Any, ...]:
        (mem,) = state
        tau = p.R * p.C
        mem = x * p.R * (1.0 / tau) * p.time_step + (1.0 - p.time_step / tau) * mem
        return (self._due(mem, reset, p),)

    def response(self, values: Mapping[str, Any]) -> Response:
        """The filter below the threshold."""
        R, C, dt = (
            torch.as_tensor(values[name], dtype=torch.float64) for name in ("R", "C", "time_step")
        )
        return Response(1 - dt / (R * C), gain=dt / C)

    def form(self, values: Constants) -> Membrane:
        """A membrane that fires and resets."""
        self._require_kept_input()
        k = values["R"] * values["C"] / values["time_step"]
        return self._membrane(values, k=k, divided=True, scale=values["R"])

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """The reset mechanisms."""
        yield Variant("zero reset", cls(1.0, 2.0, reset_mechanism="zero"))
        yield Variant("subtract", cls(2.0, 1.0))
        yield Variant("no reset", cls(2.0, 1.0, reset_mechanism="none"))

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {k: value for k, value in super().settings().items() if k != "reset_delay"}
