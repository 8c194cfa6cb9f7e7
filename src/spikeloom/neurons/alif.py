"""ALIF: a leaky neuron whose threshold rises with every spike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.values import Rule
from spikeloom.kernel.vocabulary import Surrogate
from spikeloom.neurons.integrate_and_fire import IntegrateAndFire, LeakyIntegrateAndFire
from spikeloom.neurons.nonlinear import STEPS
from spikeloom.neurons.surrogate import ATan
from spikeloom.neurons.trace import Response

__all__ = ["ALIF"]


class ALIF(LeakyIntegrateAndFire):
    r"""Leaky integrate-and-fire with an adaptive threshold.

    .. math::
        h[t] &= v[t-1] + \bigl(x[t] - (v[t-1] - v_\mathrm{reset})\bigr) / \tau \\
        s[t] &= \Theta\bigl(h[t] - (\theta + a[t-1])\bigr),\qquad
        a[t] = \rho\,a[t-1] + \beta\,s[t] \\
        v[t] &= h[t] - s[t]\,(\theta + a[t-1]) \quad\text{(soft)}\qquad
        v[t] = (1 - s[t])\,h[t] + s[t]\,v_\mathrm{reset} \quad\text{(hard)}

    Args:
        tau: Membrane time constant in steps, at least 1; a tensor (a Parameter to learn it) is
            shared when 0-d and per neuron otherwise.
        rho: The share of the threshold's rise that a step keeps, in [0, 1); a number or tensor like
            ``tau``.
        beta: What a spike adds to the threshold; a number or tensor like ``tau``.
        v_threshold: The threshold without spikes, positive; a number or tensor like ``tau``.
        v_reset: Potential after a hard reset, and at rest; None resets by subtraction.
        decay_input: Divide the input by tau too.
        detach_reset: Cut the gradient through the reset.
        surrogate: The derivative of a spike.
        fires_at_threshold: Fire at the threshold, not only above it.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite.

    State: ``v``, the potential after reset, and ``a``, the rise of the threshold.

    Example:
        >>> import torch, spikeloom
        >>> neuron = spikeloom.neurons.ALIF(tau=1.0, rho=0.5, beta=1.0)
        >>> spikes, _ = spikeloom.run(neuron, torch.full((6, 1), 1.6))
        >>> spikes.flatten()
        tensor([1., 0., 1., 0., 0., 1.])

    Source: Bellec et al., Long short-term memory and learning-to-learn in networks of spiking
    neurons, NeurIPS 2018.
    """

    rules = Fixed(
        {
            **IntegrateAndFire.rules,
            "tau": STEPS,
            "rho": Rule("must be in [0, 1)", lambda rho: (rho >= 0.0) & (rho < 1.0)),
        }
    )

    def __init__(
        self,
        tau: float | Tensor = 2.0,
        rho: float | Tensor = 0.9,
        beta: float | Tensor = 0.2,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        decay_input: bool = True,
        detach_reset: bool = False,
        surrogate: Surrogate | None = ATan(),
        fires_at_threshold: bool = True,
    ) -> None:
        super().__init__(
            {"tau": tau, "rho": rho, "beta": beta},
            v_threshold,
            v_reset,
            decay_input,
            detach_reset,
            surrogate,
            fires_at_threshold,
            {"a": 0.0},
        )

    def _share(self, difference: Any, p: Any) -> Any:
        return difference / p.tau

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        v, a = state
        h, threshold = self._charge(x, v, p), p.v_threshold + a
        s = self._fire(h - threshold)
        return s, (self._after(h, s, threshold), p.rho * a + p.beta * s)

    def response(self, values: Mapping[str, Any]) -> Response:
        """The filter below the threshold."""
        share = 1 / values["tau"]
        return Response(1 - share, gain=share if self.decay_input else 1.0)
