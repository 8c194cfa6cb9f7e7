"""Izhikevich: quadratic integrate-and-fire that adapts, as SpikingJelly computes it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.values import POSITIVE
from spikeloom.kernel.vocabulary import Surrogate
from spikeloom.neurons.arguments import checked_number
from spikeloom.neurons.integrate_and_fire import IntegrateAndFire
from spikeloom.neurons.nonlinear import STEPS
from spikeloom.neurons.surrogate import Sigmoid

__all__ = ["Izhikevich"]


class Izhikevich(IntegrateAndFire):
    r"""Izhikevich's neuron, as SpikingJelly computes it.

    .. math::
        h[t] &= v[t-1] + \bigl(x[t] + a_0 (v[t-1] - v_\mathrm{rest})(v[t-1] - v_c) - w[t-1]\bigr)
        / \tau \\
        s[t] &= \Theta(h[t] - \theta) \\
        w[t] &= w[t-1] + \bigl(a (h[t] - v_\mathrm{rest}) - w[t-1]\bigr) / \tau_w + b\, s[t]

    It resets as :class:`~spikeloom.neurons.LIF`.

    Args:
        tau: Membrane time constant in steps, at least 1; a tensor is shared when 0-d and per
            neuron otherwise; a Parameter is learned.
        v_c: Critical potential; a number or tensor like ``tau``.
        a0: Quadratic coefficient, positive.
        v_threshold: Threshold, positive; a number or tensor like ``tau``.
        v_reset: Potential after a hard reset, and where it begins; None resets by subtraction and
            begins at 0.
        v_rest: Resting potential.
        w_rest: Where the adaptation current begins, a number.
        tau_w: Time constant of the adaptation current in steps, at least 1.
        a: How far the potential drives the adaptation current.
        b: What a spike adds to it.
        detach_reset: Cut the gradient through the reset.
        surrogate: The derivative of a spike.
        fires_at_threshold: Fire at the threshold, not only above it.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite.

    State: ``v``, the potential after reset, and ``w``, the adaptation current.

    Example:
        >>> import torch, spikeloom
        >>> neuron = spikeloom.neurons.Izhikevich(a=0.5, b=0.5)
        >>> spikes, _ = spikeloom.run(neuron, torch.full((6, 1), 2.0))
        >>> spikes.flatten()
        tensor([0., 1., 0., 0., 1., 0.])

    Source: SpikingJelly 2.0, ``activation_based.neuron.IzhikevichNode``.
    """

    rules = Fixed({**IntegrateAndFire.rules, "tau": STEPS, "tau_w": STEPS, "a0": POSITIVE})

    def __init__(
        self,
        tau: float | Tensor = 2.0,
        v_c: float | Tensor = 0.8,
        a0: float | Tensor = 1.0,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        v_rest: float | Tensor = -0.1,
        w_rest: float = 0.0,
        tau_w: float | Tensor = 2.0,
        a: float | Tensor = 0.0,
        b: float | Tensor = 0.0,
        detach_reset: bool = False,
        surrogate: Surrogate | None = Sigmoid(),
        fires_at_threshold: bool = True,
    ) -> None:
        self.w_rest = checked_number("Izhikevich: w_rest", w_rest, "must be a finite number")
        charge = {"tau": tau, "v_c": v_c, "a0": a0, "v_rest": v_rest}
        super().__init__(
            {**charge, "tau_w": tau_w, "a": a, "b": b},
            v_threshold,
            v_reset,
            detach_reset,
            surrogate,
            fires_at_threshold,
            {"w": self.w_rest},
        )

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        v, w = state
        h = v + (x + p.a0 * (v - p.v_rest) * (v - p.v_c) - w) / p.tau
        s = self._fire(h - p.v_threshold)
        w = w + (p.a * (h - p.v_rest) - w) / p.tau_w + p.b * s
        return s, (self._after(h, s, p.v_threshold), w)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {**super().settings(), "w_rest": self.w_rest}
