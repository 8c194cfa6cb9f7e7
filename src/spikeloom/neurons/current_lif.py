"""CurrentLIF: a leaky neuron behind a synaptic current, by their decays, as in SpikingJelly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.values import Rule
from spikeloom.kernel.vocabulary import Surrogate
from spikeloom.neurons.described import Variant
from spikeloom.neurons.forms import Constants, Membrane, NoForm, number, steps_of
from spikeloom.neurons.integrate_and_fire import IntegrateAndFire
from spikeloom.neurons.surrogate import Rect
from spikeloom.neurons.trace import Response

__all__ = ["CurrentLIF"]

SHARE = Rule("must be in [0, 1]", lambda decay: (decay >= 0.0) & (decay <= 1.0))


class CurrentLIF(IntegrateAndFire):
    r"""Leaky integrate-and-fire behind a synaptic current, as SpikingJelly's ``CUBALIFNode``.

    .. math::
        c[t] &= \alpha\,c[t-1] + x[t] \\
        h[t] &= \beta\,v[t-1] + c[t] \\
        s[t] &= \Theta(h[t] - \theta)

    It resets as :class:`~spikeloom.neurons.LIF`; the leak leads to 0, wherever it is reset to.

    Args:
        c_decay: :math:`\alpha`, the decay of the current a step, in [0, 1]; a tensor is shared when
            0-d and per neuron otherwise; a Parameter is learned.
        v_decay: :math:`\beta`, the decay of the potential, likewise.
        v_threshold: Threshold, positive.
        v_reset: Potential after a hard reset, and where it begins; None resets by subtraction and
            begins at 0.
        detach_reset: Cut the gradient through the reset.
        surrogate: The derivative of a spike.
        fires_at_threshold: Fire at the threshold, not only above it.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite.

    State: ``v``, the potential after reset, and ``c``, the current.

    Example:
        >>> import torch, spikeloom
        >>> spikes, _ = spikeloom.run(spikeloom.neurons.CurrentLIF(), torch.full((4, 1), 0.3))
        >>> spikes.flatten()
        tensor([0., 1., 1., 1.])

    Source: SpikingJelly 2.0, ``activation_based.neuron.CUBALIFNode``.
    """

    rules = Fixed({**IntegrateAndFire.rules, "c_decay": SHARE, "v_decay": SHARE})

    def __init__(
        self,
        c_decay: float | Tensor = 0.5,
        v_decay: float | Tensor = 0.75,
        v_threshold: float | Tensor = 0.5,
        v_reset: float | None = 0.0,
        detach_reset: bool = False,
        surrogate: Surrogate | None = Rect(),
        fires_at_threshold: bool = True,
    ) -> None:
        super().__init__(
            {"c_decay": c_decay, "v_decay": v_decay},
            v_threshold,
            v_reset,
            detach_reset,
            surrogate,
            fires_at_threshold,
            {"c": 0.0},
        )

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        v, c = state
        c = c * p.c_decay + x
        h = v * p.v_decay + c
        s = self._fire(h - p.v_threshold)
        return s, (self._after(h, s, p.v_threshold), c)

    def response(self, values: Mapping[str, Any]) -> Response:
        """The filter below the threshold."""
        return Response(values["v_decay"], values["c_decay"])

    def form(self, values: Constants) -> Membrane:
        """A membrane behind a synapse, that fires and resets."""
        synapse, k = (steps_of(name, values[name]) for name in ("c_decay", "v_decay"))
        if synapse is None:
            raise NoForm("its synapse does not decay", "use c_decay below 1")
        return Membrane(
            k=k,
            divided=False,
            synapse=synapse,
            threshold=values["v_threshold"],
            at_threshold=self.fires_at_threshold,
            reset="soft" if self.v_reset is None else "hard",
            v_reset=number("v_reset", self.v_reset or 0.0),
            v_leak=np.zeros(()),
        )

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """Both resets."""
        yield Variant("", cls(0.5, 0.5))
        yield Variant("reset to 0.25", cls(0.5, 0.5, v_reset=0.25))
        yield Variant("soft reset", cls(0.5, 0.5, v_reset=None))
