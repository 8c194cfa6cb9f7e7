"""LIF and IF: integrate-and-fire with a leak or without, as SpikingJelly computes it.

The integrate-and-fire neurons of the frameworks agree in exact arithmetic for matching parameters;
they differ in the order of operations and of reset and output. So each framework's spikes are met
bit for bit by a neuron of its own: these, :class:`~spikeloom.neurons.Leaky` of snnTorch and
:class:`~spikeloom.neurons.LIFBox` of Norse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.values import Rule
from spikeloom.kernel.vocabulary import Surrogate
from spikeloom.neurons.described import Variant
from spikeloom.neurons.forms import Constants, Membrane
from spikeloom.neurons.integrate_and_fire import LeakyIntegrateAndFire
from spikeloom.neurons.surrogate import Sigmoid
from spikeloom.neurons.trace import Response

__all__ = ["IF", "LIF"]


class LIF(LeakyIntegrateAndFire):
    r"""Leaky integrate-and-fire, as SpikingJelly computes it.

    .. math::
        h[t] &= v[t-1] + \bigl(x[t] - (v[t-1] - v_\mathrm{reset})\bigr) / \tau \\
        s[t] &= \Theta(h[t] - \theta) \\
        v[t] &= h[t] - s[t]\,\theta \quad\text{(soft)}\qquad
        v[t] = (1 - s[t])\,h[t] + s[t]\,v_\mathrm{reset} \quad\text{(hard)}

    Without ``decay_input`` the input is not divided:
    ``h = v - (v - v_reset) / tau + x``. With ``tau=None`` nothing leaks: ``h = v + x``.

    Args:
        tau: Membrane time constant in steps, at least 1; a tensor (a Parameter to learn it) is
            shared when 0-d and per neuron otherwise; None for a neuron without leak. Training
            may carry a learned tau below 1, where the potential grows without bound; see
            :ref:`learned-time-constants` for what prevents it.
        v_threshold: Threshold, positive; a number or tensor like ``tau``.
        v_reset: Potential after a hard reset, and at rest: a number, which is not learned; None
            resets by subtraction.
        decay_input: Divide the input by tau too.
        detach_reset: Cut the gradient through the reset.
        surrogate: The derivative of a spike: one of :mod:`spikeloom.neurons.surrogate`, or any
            object with ``derivative(u)``.
        fires_at_threshold: Fire at ``h >= v_threshold`` (SpikingJelly); False: only above
            (snnTorch, Norse, NIR).

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If tau < 1, a threshold is not positive, or a value is not finite.

    State: ``v``, the potential after reset.

    Example:
        >>> import torch, spikeloom
        >>> neuron = spikeloom.neurons.LIF(tau=2.0, v_reset=None)
        >>> spikes, (v,) = spikeloom.run(neuron, torch.full((5, 1), 1.6))
        >>> spikes.flatten()
        tensor([0., 1., 0., 1., 0.])

    Source: SpikingJelly 2.0, ``activation_based.neuron.LIFNode``.
    """

    rules = Fixed(
        {
            **LeakyIntegrateAndFire.rules,
            "tau": Rule("is in steps and must be at least 1", lambda tau: tau >= 1.0),
        }
    )

    def __init__(
        self,
        tau: float | Tensor | None = 2.0,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        decay_input: bool = True,
        detach_reset: bool = False,
        surrogate: Surrogate | None = Sigmoid(),
        fires_at_threshold: bool = True,
    ) -> None:
        super().__init__(
            {} if tau is None else {"tau": tau},
            v_threshold,
            v_reset,
            decay_input,
            detach_reset,
            surrogate,
            fires_at_threshold,
        )

    def _charge(self, x: Any, v: Any, p: Any) -> Any:
        return super()._charge(x, v, p) if "tau" in self.params else v + x

    def _share(self, difference: Any, p: Any) -> Any:
        return difference / p.tau

    def response(self, values: Mapping[str, Any]) -> Response:
        """The filter below the threshold; an integrator without ``tau``."""
        if "tau" not in self.params:
            return Response(1.0)
        share = 1 / values["tau"]
        return Response(1 - share, gain=share if self.decay_input else 1.0)

    def form(self, values: Constants) -> Membrane | None:
        """A membrane that fires and resets."""
        return self._membrane(values, values.get("tau"))

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """The resets, and values for each neuron."""
        yield Variant("hard reset", cls())
        yield Variant("hard reset, input not divided", cls(decay_input=False))
        yield Variant("a threshold for each neuron", cls(v_threshold=torch.tensor([0.5, 1, 2])))
        yield Variant("a time constant for each neuron", cls(tau=torch.tensor([2.0, 4, 8])))
        yield Variant("reset to -0.5", cls(v_reset=-0.5))
        yield Variant("soft reset", cls(v_reset=None))

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {"tau": self.params.get("tau"), **super().settings()}


class IF(LIF):
    r"""Integrate-and-fire without leak: :class:`LIF` with ``tau=None``.

    .. math:: h[t] = v[t-1] + x[t]

    Args:
        v_threshold: Threshold, positive.
        v_reset: Potential after a hard reset, a number; None resets by subtraction.
        detach_reset: Cut the gradient through the reset.
        surrogate: The derivative of a spike.
        fires_at_threshold: Fire at the threshold, not only above it.

    Example:
        >>> import torch, spikeloom
        >>> spikes, _ = spikeloom.run(spikeloom.neurons.IF(), torch.full((4, 1), 0.5))
        >>> spikes.flatten()
        tensor([0., 1., 0., 1.])

    Source: SpikingJelly 2.0, ``activation_based.neuron.IFNode``.
    """

    def __init__(
        self,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        detach_reset: bool = False,
        surrogate: Surrogate | None = Sigmoid(),
        fires_at_threshold: bool = True,
    ) -> None:
        super().__init__(
            None, v_threshold, v_reset, True, detach_reset, surrogate, fires_at_threshold
        )

    def form(self, values: Constants) -> Membrane:
        """A membrane that fires and resets."""
        return self._membrane(values, None)

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """The resets."""
        yield Variant("hard reset", cls())
        yield Variant("soft reset", cls(v_reset=None))

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        unused = ("tau", "decay_input")
        return {name: value for name, value in super().settings().items() if name not in unused}
