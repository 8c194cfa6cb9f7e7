"""Synaptic: leaky integrate-and-fire behind a synaptic current, as snnTorch computes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from spikeloom.kernel.vocabulary import Surrogate, clamp
from spikeloom.neurons.delayed_reset import DelayedReset
from spikeloom.neurons.described import Variant
from spikeloom.neurons.forms import Constants, Membrane, NoForm, steps_of
from spikeloom.neurons.surrogate import ATan
from spikeloom.neurons.trace import Response

__all__ = ["Synaptic"]


class Synaptic(DelayedReset):
    r"""Leaky integrate-and-fire behind a synaptic current, as snnTorch computes it.

    The reset that a spike causes is applied at the next step, and its gradient is cut:

    .. math::
        r[t] &= \Theta(v[t-1] - \theta) \\
        i[t] &= \alpha\,i[t-1] + x[t],\qquad m[t] = \beta\,v[t-1] + i[t] \\
        v[t] &= m[t] - r[t]\,\theta \quad\text{(subtract)}\qquad
        v[t] = m[t] - r[t]\,m[t] \quad\text{(zero)} \\
        s[t] &= \Theta(v[t] - \theta)\,g

    A delayed reset to zero discards what has arrived in the step after a spike, as in snnTorch.

    Args:
        alpha: Decay of the current a step; clamped to [0, 1] in the step, as snnTorch does. A
            tensor is shared when 0-d and per neuron otherwise; a Parameter is learned.
        beta: Decay of the potential, likewise.
        threshold: Threshold, positive; a number or tensor like ``alpha``.
        reset_mechanism: ``"subtract"``, ``"zero"`` or ``"none"``.
        reset_delay: False resets in the step that fires, as for :class:`~spikeloom.neurons.Leaky`.
        surrogate: The derivative of a spike; fires strictly above the threshold.
        graded_spikes_factor: g, the height of a spike; a number or tensor like ``alpha``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the threshold is not positive, the mechanism unknown or a value not finite.

    State: ``mem``, the potential before (``reset_delay=True``) or after the reset, and ``syn``, the
    current.

    Example:
        >>> import torch, spikeloom
        >>> neuron = spikeloom.neurons.Synaptic(0.5, 0.5)
        >>> spikes, (mem, syn) = spikeloom.run(neuron, torch.full((4, 1), 0.5))
        >>> spikes.flatten()
        tensor([0., 0., 1., 0.])

    Source: snnTorch 1.0, ``snntorch.Synaptic``.
    """

    def __init__(
        self,
        alpha: float | Tensor,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        reset_mechanism: str = "subtract",
        reset_delay: bool = True,
        surrogate: Surrogate | None = ATan(),
        graded_spikes_factor: float | Tensor = 1.0,
    ) -> None:
        super().__init__(
            {"alpha": alpha, "beta": beta},
            ("mem", "syn"),
            threshold,
            reset_mechanism,
            reset_delay,
            surrogate,
            graded_spikes_factor,
        )

    def _charge(self, x: Any, state: tuple[Any, ...], reset: Any, p: Any) -> tuple[Any, ...]:
        mem, syn = state
        syn = clamp(p.alpha, 0.0, 1.0) * syn + x
        return self._due(clamp(p.beta, 0.0, 1.0) * mem + syn, reset, p), syn

    def response(self, values: Mapping[str, Any]) -> Response:
        """The filter below the threshold."""
        return Response.clamped(values["beta"], values["alpha"])

    def form(self, values: Constants) -> Membrane:
        """A membrane behind a synapse, that fires and resets."""
        self._require_kept_input()
        synapse, k = (steps_of(name, np.clip(values[name], 0.0, 1.0)) for name in ("alpha", "beta"))
        if synapse is None:
            raise NoForm("its synapse does not decay", "use alpha below 1")
        return self._membrane(values, k=k, divided=False, synapse=synapse)

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """The reset mechanisms."""
        yield Variant("zero reset", cls(0.5, 0.5, reset_mechanism="zero"))
        at_once = cls(0.5, 0.5, reset_mechanism="zero", reset_delay=False)
        yield Variant("zero reset without delay", at_once)
        yield Variant("subtract", cls(0.5, 0.5))
        yield Variant("no reset", cls(0.5, 0.5, reset_mechanism="none"))
