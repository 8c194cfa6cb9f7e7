"""LIFBox: leaky integrate-and-fire without a synaptic current, as Norse computes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.values import POSITIVE
from spikeloom.kernel.vocabulary import Surrogate, fire
from spikeloom.neurons.arguments import checked_choice, checked_surrogate
from spikeloom.neurons.described import Described, Variant
from spikeloom.neurons.forms import Constants, Membrane
from spikeloom.neurons.li import potential_at_rest
from spikeloom.neurons.surrogate import SuperSpike
from spikeloom.neurons.trace import Response

__all__ = ["LIFBox"]


class LIFBox(Described):
    r"""Leaky integrate-and-fire without a synaptic current, as Norse computes it.

    .. math::
        h[t] &= v[t-1] + \Delta t\,\tau_\mathrm{mem}^{-1}
        \bigl((x[t] + v_\mathrm{leak}) - v[t-1]\bigr) \\
        s[t] &= \Theta(h[t] - v_\mathrm{th}),\qquad
        v[t] = (1 - s[t])\,h[t] + s[t]\,v_\mathrm{reset}

    With ``reset_method="subtract"``: ``v = (1 - s) h + s (h - v_th)``.

    Args:
        tau_mem_inv: Inverse membrane time constant in 1/s, positive; a tensor is shared when 0-d
            and per neuron otherwise; a Parameter is learned.
        v_leak: Leak potential, a number or tensor like ``tau_mem_inv``.
        v_th: Threshold, of either sign; firing is strict.
        v_reset: Potential after a reset by value.
        reset_method: ``"value"`` or ``"subtract"``.
        surrogate: The derivative of a spike.
        dt: Time step in seconds, positive.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite.

    State: ``v``, the potential after reset. Rest is the leak potential that the neuron is made
    with, or 0 if that differs between neurons.

    Example:
        >>> import torch, spikeloom
        >>> neuron = spikeloom.neurons.LIFBox(tau_mem_inv=500.0)
        >>> spikes, (v,) = spikeloom.run(neuron, torch.full((4, 1), 1.5))
        >>> spikes.flatten()
        tensor([0., 1., 0., 1.])

    Source: Norse 1.1, ``norse.torch.functional.lif_box.lif_box_feed_forward_step``.
    """

    rules = Fixed({"tau_mem_inv": POSITIVE, "dt": POSITIVE})
    unit = "v_th"

    def __init__(
        self,
        tau_mem_inv: float | Tensor = 100.0,
        v_leak: float | Tensor = 0.0,
        v_th: float | Tensor = 1.0,
        v_reset: float | Tensor = 0.0,
        reset_method: str = "value",
        surrogate: Surrogate | None = SuperSpike(),
        dt: float = 0.001,
    ) -> None:
        methods = ("value", "subtract")
        self.reset_method = checked_choice("LIFBox: reset_method", reset_method, methods)
        self.surrogate = checked_surrogate("LIFBox", surrogate, SuperSpike())
        params = {
            "tau_mem_inv": tau_mem_inv,
            "v_leak": v_leak,
            "v_th": v_th,
            "v_reset": v_reset,
            "dt": dt,
        }
        rest = {"v": potential_at_rest("LIFBox: v_leak", v_leak)}
        super().__init__(self._step, state=rest, params=params, name="LIFBox")

    def charge_and_fire(self, x: Any, state: Any, p: Any) -> tuple[Any, Any]:
        """The part of the step before the reset: ``h`` and the spike."""
        (v,) = state
        h = v + p.dt * p.tau_mem_inv * (x + p.v_leak - v)
        return h, fire(h - p.v_th, self.surrogate, strict=True)

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        h, s = self.charge_and_fire(x, state, p)
        after = p.v_reset if self.reset_method == "value" else h - p.v_th
        return s, ((1.0 - s) * h + s * after,)

    def response(self, values: Mapping[str, Any]) -> Response:
        """The filter below the threshold."""
        return Response.euler(values["dt"], values["tau_mem_inv"])

    def form(self, values: Constants) -> Membrane:
        """A membrane that fires and resets."""
        hard = self.reset_method == "value"
        return Membrane(
            k=1.0 / (values["dt"] * values["tau_mem_inv"]),
            divided=True,
            threshold=values["v_th"],
            at_threshold=False,
            reset="hard" if hard else "soft",
            v_reset=values["v_reset"] if hard else np.zeros(()),
            v_leak=values["v_leak"],
        )

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """The reset methods, and a leak potential."""
        yield Variant("reset by value", cls(500.0))
        yield Variant("reset by value to -0.5", cls(500.0, v_reset=-0.5))
        yield Variant("reset by subtraction", cls(500.0, reset_method="subtract"))
        yield Variant("leak potential 0.25", cls(500.0, v_leak=0.25))

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {
            "tau_mem_inv": self.params["tau_mem_inv"],
            "v_leak": self.params["v_leak"],
            "v_th": self.params["v_th"],
            "v_reset": self.params["v_reset"],
            "reset_method": self.reset_method,
            "surrogate": self.surrogate,
            "dt": self.params["dt"],
        }
