"""QIF and EIF: neurons that charge the faster the higher they are, as in SpikingJelly."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.values import POSITIVE, Rule
from spikeloom.kernel.vocabulary import Surrogate, exp
from spikeloom.neurons.integrate_and_fire import IntegrateAndFire
from spikeloom.neurons.surrogate import Sigmoid

__all__ = ["EIF", "QIF", "STEPS"]

# What a time constant in steps keeps.
STEPS = Rule("is in steps and must be at least 1", lambda tau: tau >= 1.0)


class QIF(IntegrateAndFire):
    r"""Quadratic integrate-and-fire, as SpikingJelly computes it.

    .. math::
        h[t] &= v[t-1] + \bigl(x[t] + a_0 (v[t-1] - v_\mathrm{rest})(v[t-1] - v_c)\bigr) / \tau \\
        s[t] &= \Theta(h[t] - \theta)

    It resets as :class:`~spikeloom.neurons.LIF`.

    Args:
        tau: Membrane time constant in steps, at least 1; a tensor is shared when 0-d and per
            neuron otherwise; a Parameter is learned.
        v_c: Critical potential, above which it charges by itself; a number or tensor like ``tau``.
        a0: Quadratic coefficient, positive.
        v_rest: Resting potential.
        v_threshold: Threshold, positive; a number or tensor like ``tau``.
        v_reset: Potential after a hard reset, and where it begins; None resets by subtraction and
            begins at 0.
        detach_reset: Cut the gradient through the reset.
        surrogate: The derivative of a spike.
        fires_at_threshold: Fire at the threshold, not only above it.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite.

    State: ``v``, the potential after reset.

    Example:
        >>> import torch, spikeloom
        >>> spikes, _ = spikeloom.run(spikeloom.neurons.QIF(), torch.full((5, 1), 1.5))
        >>> spikes.flatten()
        tensor([0., 1., 0., 1., 0.])

    Source: SpikingJelly 2.0, ``activation_based.neuron.QIFNode``.
    """

    rules = Fixed({**IntegrateAndFire.rules, "tau": STEPS, "a0": POSITIVE})

    def __init__(
        self,
        tau: float | Tensor = 2.0,
        v_c: float | Tensor = 0.8,
        a0: float | Tensor = 1.0,
        v_threshold: float | Tensor = 1.0,
        v_rest: float | Tensor = 0.0,
        v_reset: float | None = -0.1,
        detach_reset: bool = False,
        surrogate: Surrogate | None = Sigmoid(),
        fires_at_threshold: bool = True,
    ) -> None:
        charge = {"tau": tau, "v_c": v_c, "a0": a0, "v_rest": v_rest}
        super().__init__(charge, v_threshold, v_reset, detach_reset, surrogate, fires_at_threshold)

    def _charge(self, x: Any, v: Any, p: Any) -> Any:
        return v + (x + p.a0 * (v - p.v_rest) * (v - p.v_c)) / p.tau


class EIF(IntegrateAndFire):
    r"""Exponential integrate-and-fire, as SpikingJelly computes it.

    .. math::
        h[t] &= v[t-1] + \Bigl(x[t] + v_\mathrm{rest} - v[t-1]
        + \Delta_T\, e^{(v[t-1] - \theta_\mathrm{rh}) / \Delta_T}\Bigr) / \tau \\
        s[t] &= \Theta(h[t] - \theta)

    It resets as :class:`~spikeloom.neurons.LIF`. The exponential function of a kernel and that of
    torch may differ in the last digits.

    Args:
        tau: Membrane time constant in steps, at least 1; a tensor is shared when 0-d and per
            neuron otherwise; a Parameter is learned.
        delta_T: Sharpness, positive; a number or tensor like ``tau``.
        theta_rh: Rheobase threshold.
        v_threshold: Threshold, positive; a number or tensor like ``tau``.
        v_rest: Resting potential.
        v_reset: Potential after a hard reset, and where it begins; None resets by subtraction and
            begins at 0.
        detach_reset: Cut the gradient through the reset.
        surrogate: The derivative of a spike.
        fires_at_threshold: Fire at the threshold, not only above it.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite.

    State: ``v``, the potential after reset.

    Example:
        >>> import torch, spikeloom
        >>> spikes, _ = spikeloom.run(spikeloom.neurons.EIF(), torch.full((5, 1), 1.0))
        >>> spikes.flatten()
        tensor([0., 1., 0., 1., 0.])

    Source: SpikingJelly 2.0, ``activation_based.neuron.EIFNode``.
    """

    rules = Fixed({**IntegrateAndFire.rules, "tau": STEPS, "delta_T": POSITIVE})

    def __init__(
        self,
        tau: float | Tensor = 2.0,
        delta_T: float | Tensor = 1.0,
        theta_rh: float | Tensor = 0.8,
        v_threshold: float | Tensor = 1.0,
        v_rest: float | Tensor = 0.0,
        v_reset: float | None = -0.1,
        detach_reset: bool = False,
        surrogate: Surrogate | None = Sigmoid(),
        fires_at_threshold: bool = True,
    ) -> None:
        charge = {"tau": tau, "delta_T": delta_T, "theta_rh": theta_rh, "v_rest": v_rest}
        super().__init__(charge, v_threshold, v_reset, detach_reset, surrogate, fires_at_threshold)

    def _charge(self, x: Any, v: Any, p: Any) -> Any:
        own = p.delta_T * exp((v - p.theta_rh) / p.delta_T)
        return v + (x + p.v_rest - v + own) / p.tau
