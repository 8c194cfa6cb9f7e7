"""KLIF: a leaky neuron whose potential is scaled and rectified, as SpikingJelly computes it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.vocabulary import Surrogate, relu
from spikeloom.neurons.integrate_and_fire import IntegrateAndFire, LeakyIntegrateAndFire
from spikeloom.neurons.nonlinear import STEPS
from spikeloom.neurons.surrogate import Sigmoid

__all__ = ["KLIF"]


class KLIF(LeakyIntegrateAndFire):
    r"""Leaky integrate-and-fire with a learned scale, as SpikingJelly computes it.

    .. math::
        g[t] &= v[t-1] + \bigl(x[t] - (v[t-1] - v_\mathrm{reset})\bigr) / \tau,\qquad
        h[t] = \max(0,\; k\, g[t]) \\
        s[t] &= \Theta(h[t] - \theta)

    It resets as :class:`~spikeloom.neurons.LIF`; with ``scale_reset`` the potential and the
    threshold are divided by k first.

    Args:
        k: Scale; a tensor is shared when 0-d and per neuron otherwise; a Parameter is learned.
        scale_reset: Divide by k before the reset.
        tau: Membrane time constant in steps, at least 1; a number or tensor like ``k``.
        decay_input: Divide the input by tau too.
        v_threshold: Threshold, positive.
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
        >>> spikes, _ = spikeloom.run(spikeloom.neurons.KLIF(k=2.0), torch.full((4, 1), 0.8))
        >>> spikes.flatten()
        tensor([0., 1., 0., 1.])

    Source: Jiang and Zhang, KLIF: An optimized spiking neuron unit for tuning surrogate gradient
    slope and membrane potential, arXiv 2302.09238, as in SpikingJelly 2.0,
    ``activation_based.neuron.KLIFNode``.
    """

    rules = Fixed({**IntegrateAndFire.rules, "tau": STEPS})

    def __init__(
        self,
        k: float | Tensor = 1.0,
        scale_reset: bool = False,
        tau: float | Tensor = 2.0,
        decay_input: bool = True,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        detach_reset: bool = False,
        surrogate: Surrogate | None = Sigmoid(),
        fires_at_threshold: bool = True,
    ) -> None:
        self.scale_reset = bool(scale_reset)
        super().__init__(
            {"k": k, "tau": tau},
            v_threshold,
            v_reset,
            decay_input,
            detach_reset,
            surrogate,
            fires_at_threshold,
        )

    def _share(self, difference: Any, p: Any) -> Any:
        return difference / p.tau

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        h = relu(p.k * self._charge(x, state[0], p))
        s = self._fire(h - p.v_threshold)
        if self.scale_reset:
            return s, (self._after(h / p.k, s, p.v_threshold / p.k),)
        return s, (self._after(h, s, p.v_threshold),)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {**super().settings(), "scale_reset": self.scale_reset}
