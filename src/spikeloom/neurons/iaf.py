"""IAF: integrate-and-fire without a leak, as Norse computes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from spikeloom.kernel.vocabulary import Surrogate, fire
from spikeloom.neurons.arguments import checked_surrogate
from spikeloom.neurons.described import Described, Variant
from spikeloom.neurons.forms import Constants, Membrane
from spikeloom.neurons.li import potential_at_rest
from spikeloom.neurons.surrogate import SuperSpike
from spikeloom.neurons.trace import Response

__all__ = ["IAF"]


class IAF(Described):
    r"""Integrate-and-fire, as Norse computes it.

    .. math::
        h[t] = v[t-1] + x[t],\qquad s[t] = \Theta(h[t] - v_\mathrm{th}),\qquad
        v[t] = (1 - s[t])\,h[t] + s[t]\,v_\mathrm{reset}

    :class:`~spikeloom.neurons.IF` is SpikingJelly's. This one takes a threshold of either sign and
    a reset potential that learns, and fires only above the threshold.

    Args:
        v_th: Threshold; a tensor is shared when 0-d and per neuron otherwise; a Parameter is
            learned.
        v_reset: Potential after a spike, a number or tensor like ``v_th``.
        surrogate: The derivative of a spike.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is not finite.

    State: ``v``, the potential after reset. Rest is the reset potential that the neuron is made
    with, or 0 if that differs between neurons.

    Example:
        >>> import torch, spikeloom
        >>> spikes, _ = spikeloom.run(spikeloom.neurons.IAF(), torch.full((4, 1), 0.75))
        >>> spikes.flatten()
        tensor([0., 1., 0., 1.])

    Source: Norse 1.1, ``norse.torch.functional.iaf.iaf_feed_forward_step``.
    """

    unit = "v_th"

    def __init__(
        self,
        v_th: float | Tensor = 1.0,
        v_reset: float | Tensor = 0.0,
        surrogate: Surrogate | None = SuperSpike(),
    ) -> None:
        self.surrogate = checked_surrogate("IAF", surrogate, SuperSpike())
        rest = {"v": potential_at_rest("IAF: v_reset", v_reset)}
        params = {"v_th": v_th, "v_reset": v_reset}
        super().__init__(self._step, state=rest, params=params, name="IAF")

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        h = state[0] + x
        s = fire(h - p.v_th, self.surrogate, strict=True)
        return s, ((1.0 - s) * h + s * p.v_reset,)

    def response(self, values: Mapping[str, Any]) -> Response:
        """An integrator."""
        return Response(1.0)

    def form(self, values: Constants) -> Membrane:
        """A membrane without leak, that fires and resets."""
        return Membrane(
            k=None,
            divided=False,
            threshold=values["v_th"],
            at_threshold=False,
            reset="hard",
            v_reset=values["v_reset"],
        )

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """Two reset potentials."""
        yield Variant("", cls())
        yield Variant("reset to -0.5", cls(v_reset=-0.5))

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {**self.params, "surrogate": self.surrogate}
