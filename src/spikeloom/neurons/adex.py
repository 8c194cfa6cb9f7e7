"""AdEx: adaptive exponential integrate-and-fire behind a current, as Norse computes it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.values import POSITIVE
from spikeloom.kernel.vocabulary import Surrogate, exp, fire
from spikeloom.neurons.arguments import checked_surrogate
from spikeloom.neurons.described import Described
from spikeloom.neurons.li import potential_at_rest
from spikeloom.neurons.surrogate import SuperSpike

__all__ = ["AdEx"]


class AdEx(Described):
    r"""Adaptive exponential integrate-and-fire, as Norse's ``LIFAdEx`` computes it.

    .. math::
        j[t] &= i[t-1] + x[t],\qquad i[t] = j[t] - \Delta t\,\tau_\mathrm{syn}^{-1} j[t] \\
        h[t] &= v[t-1] + \Delta t\,\tau_\mathrm{mem}^{-1} \bigl(v_\mathrm{leak} - v[t-1]
        + \Delta_T\, e^{(v[t-1] - v_\mathrm{th}) / \Delta_T} + j[t] - a[t-1]\bigr) \\
        s[t] &= \Theta(h[t] - v_\mathrm{th}),\qquad
        v[t] = (1 - s[t])\,h[t] + s[t]\,v_\mathrm{reset} \\
        a[t] &= a[t-1] + \Delta t\,\tau_\mathrm{ada}^{-1}
        \bigl(a_c (v[t-1] - v_\mathrm{leak}) - a[t-1]\bigr) + a_s\, s[t]

    The exponential function of a kernel and that of torch may differ in the last digits.

    Args:
        adaptation_current: :math:`a_c`, how far the potential drives the adaptation; a tensor is
            shared when 0-d and per neuron otherwise; a Parameter is learned. So below.
        adaptation_spike: :math:`a_s`, what a spike adds to it.
        delta_T: Sharpness, positive.
        tau_ada_inv: Inverse time constant of the adaptation in 1/s, positive.
        tau_syn_inv: That of the synapse.
        tau_mem_inv: That of the membrane.
        v_leak: Leak potential.
        v_th: Threshold, of either sign; firing is strict.
        v_reset: Potential after a spike.
        surrogate: The derivative of a spike.
        dt: Time step in seconds, positive.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite.

    State: ``v``, the potential after reset, ``i``, the current after it has decayed, and ``a``, the
    adaptation. Rest is the leak potential that the neuron is made with, or 0 if that differs
    between neurons.

    Example:
        >>> import torch, spikeloom
        >>> neuron = spikeloom.neurons.AdEx()
        >>> spikes, _ = spikeloom.run(neuron, torch.full((6, 1), 2.0))
        >>> spikes.flatten()
        tensor([0., 0., 1., 0., 1., 0.])

    Source: Norse 1.1, ``norse.torch.functional.lif_adex.lif_adex_feed_forward_step``.
    """

    rules = Fixed(
        dict.fromkeys(("delta_T", "tau_ada_inv", "tau_syn_inv", "tau_mem_inv", "dt"), POSITIVE)
    )
    unit = "v_th"

    def __init__(
        self,
        adaptation_current: float | Tensor = 4.0,
        adaptation_spike: float | Tensor = 0.02,
        delta_T: float | Tensor = 0.5,
        tau_ada_inv: float | Tensor = 2.0,
        tau_syn_inv: float | Tensor = 200.0,
        tau_mem_inv: float | Tensor = 100.0,
        v_leak: float | Tensor = 0.0,
        v_th: float | Tensor = 1.0,
        v_reset: float | Tensor = 0.0,
        surrogate: Surrogate | None = SuperSpike(),
        dt: float = 0.001,
    ) -> None:
        self.surrogate = checked_surrogate("AdEx", surrogate, SuperSpike())
        params = {
            "adaptation_current": adaptation_current,
            "adaptation_spike": adaptation_spike,
            "delta_T": delta_T,
            "tau_ada_inv": tau_ada_inv,
            "tau_syn_inv": tau_syn_inv,
            "tau_mem_inv": tau_mem_inv,
            "v_leak": v_leak,
            "v_th": v_th,
            "v_reset": v_reset,
            "dt": dt,
        }
        rest = {"v": potential_at_rest("AdEx: v_leak", v_leak), "i": 0.0, "a": 0.0}
        super().__init__(self._step, state=rest, params=params, name="AdEx")

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        v, i, a = state
        jump = i + x
        own = p.delta_T * exp((v - p.v_th) / p.delta_T)
        h = v + p.dt * p.tau_mem_inv * (p.v_leak - v + own + jump - a)
        i = jump - p.dt * p.tau_syn_inv * jump
        a = a + p.dt * p.tau_ada_inv * (p.adaptation_current * (v - p.v_leak) - a)
        s = fire(h - p.v_th, self.surrogate, strict=True)
        return s, ((1.0 - s) * h + s * p.v_reset, i, a + s * p.adaptation_spike)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        dt = self.params["dt"]
        values = {name: value for name, value in self.params.items() if name != "dt"}
        return {**values, "surrogate": self.surrogate, "dt": dt}
