"""LIAF: a leaky neuron that sends a function of its potential, as SpikingJelly computes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from spikeloom.kernel.vocabulary import Surrogate, relu
from spikeloom.neurons.lif import LIF
from spikeloom.neurons.surrogate import Sigmoid

__all__ = ["LIAF"]


class LIAF(LIF):
    r"""Leaky integrate and analog fire, as SpikingJelly computes it.

    .. math::
        h[t] = v[t-1] + \bigl(x[t] - (v[t-1] - v_\mathrm{reset})\bigr) / \tau,\qquad
        y[t] = f(h[t]) \quad\text{or}\quad y[t] = f(h[t] - \theta)

    It resets as :class:`~spikeloom.neurons.LIF` where it would fire, but sends y.

    Args:
        act: f, in the words of :mod:`spikeloom.kernel.vocabulary`. With any other function of a
            tensor the neuron runs step by step.
        threshold_related: Whether f sees the potential above the threshold.
        tau: As for :class:`~spikeloom.neurons.LIF`, and so below.
        v_threshold: Threshold.
        v_reset: Potential after a hard reset and at rest; None resets by subtraction.
        decay_input: Divide the input by tau too.
        detach_reset: Cut the gradient through the reset.
        surrogate: The derivative of a spike.
        fires_at_threshold: Fire at the threshold, not only above it.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite.

    State: ``v``, the potential after reset.

    Example:
        >>> import torch, spikeloom
        >>> y, _ = spikeloom.run(spikeloom.neurons.LIAF(), torch.full((3, 1), 1.5))
        >>> y.flatten()
        tensor([0.7500, 1.1250, 0.7500])

    Source: Wu et al., LIAF-Net, arXiv 2011.06176, as in SpikingJelly 2.0,
    ``activation_based.neuron.LIAFNode``.
    """

    def __init__(
        self,
        act: Callable[[Any], Any] = relu,
        threshold_related: bool = False,
        tau: float | Tensor | None = 2.0,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        decay_input: bool = True,
        detach_reset: bool = False,
        surrogate: Surrogate | None = Sigmoid(),
        fires_at_threshold: bool = True,
    ) -> None:
        if not callable(act):
            raise TypeError(f"LIAF: act must be a function, got {act!r}")
        self.act, self.threshold_related = act, bool(threshold_related)
        super().__init__(
            tau, v_threshold, v_reset, decay_input, detach_reset, surrogate, fires_at_threshold
        )

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        h = self._charge(x, state[0], p)
        above = h - p.v_threshold
        y = self.act(above if self.threshold_related else h)
        return y, (self._after(h, self._fire(above), p.v_threshold),)

    def response(self, values: Any) -> Any:
        """That of the potential, which the output is a function of."""
        return super().response(values)

    def form(self, values: Any) -> None:
        """None: files have no such output."""
        return None

    @classmethod
    def variants(cls) -> Any:
        """Only itself."""
        yield from ()

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        own = {"act": self.act, "threshold_related": self.threshold_related}
        return {**own, **super().settings()}
