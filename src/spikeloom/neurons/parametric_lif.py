"""ParametricLIF: SpikingJelly's leaky neuron whose leak is a factor, and learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.values import Rule
from spikeloom.kernel.vocabulary import Surrogate
from spikeloom.neurons.described import Variant
from spikeloom.neurons.forms import Constants, Membrane
from spikeloom.neurons.integrate_and_fire import LeakyIntegrateAndFire
from spikeloom.neurons.surrogate import Sigmoid
from spikeloom.neurons.trace import Response

__all__ = ["ParametricLIF"]


class ParametricLIF(LeakyIntegrateAndFire):
    r"""Leaky integrate-and-fire with a leak that is a factor, as SpikingJelly's PLIF computes it.

    .. math::
        h[t] = v[t-1] + \bigl(x[t] - (v[t-1] - v_\mathrm{reset})\bigr)\,r

    It fires and resets as :class:`LIF`. In exact arithmetic r is 1 / tau; rounded, a product is
    not the quotient, so that spikes of the two may differ where a potential meets the threshold.
    Without ``decay_input``: ``h = v - (v - v_reset) * r + x``.

    To learn the leak as published, learn ``w`` with ``r = sigmoid(w)``, which keeps it in range:
    ``run(neuron, x, params={"rate": w.sigmoid()})`` with a ``rate`` that is a 0-d tensor, or
    SpikingJelly's ``ParametricLIFNode`` among the plugins.

    Args:
        rate: r, the share of its distance that a potential loses in a step, in (0, 1]; a tensor (a
            Parameter to learn it) is shared when 0-d and per neuron otherwise.
        v_threshold: Threshold, positive; a number or tensor like ``rate``.
        v_reset: Potential after a hard reset, and at rest; None resets by subtraction.
        decay_input: Multiply the input by the rate too.
        detach_reset: Cut the gradient through the reset.
        surrogate: The derivative of a spike.
        fires_at_threshold: Fire at the threshold, not only above it.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a rate lies outside (0, 1], a threshold is not positive, or a value is not
            finite.

    State: ``v``, the potential after reset.

    Example:
        >>> import torch, spikeloom
        >>> w = torch.tensor(0.0, requires_grad=True)
        >>> neuron = spikeloom.neurons.ParametricLIF(rate=torch.tensor(0.5))
        >>> x = torch.full((4, 1), 1.5)
        >>> spikes, (v,) = spikeloom.run(neuron, x, params={"rate": w.sigmoid()})
        >>> spikes.detach().flatten()
        tensor([0., 1., 0., 1.])
        >>> spikes.sum().backward()
        >>> bool(w.grad > 0)
        True

    Source: Fang et al., Incorporating Learnable Membrane Time Constant to Enhance Learning of
    Spiking Neural Networks, ICCV 2021, as in SpikingJelly 2.0,
    ``activation_based.neuron.ParametricLIFNode``.
    """

    rules = Fixed(
        {
            **LeakyIntegrateAndFire.rules,
            "rate": Rule("must lie in (0, 1]", lambda rate: (rate > 0.0) & (rate <= 1.0)),
        }
    )

    def __init__(
        self,
        rate: float | Tensor = 0.5,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        decay_input: bool = True,
        detach_reset: bool = False,
        surrogate: Surrogate | None = Sigmoid(),
        fires_at_threshold: bool = True,
    ) -> None:
        super().__init__(
            {"rate": rate},
            v_threshold,
            v_reset,
            decay_input,
            detach_reset,
            surrogate,
            fires_at_threshold,
        )

    def _share(self, difference: Any, p: Any) -> Any:
        return difference * p.rate

    def response(self, values: Mapping[str, Any]) -> Response:
        """The filter below the threshold."""
        share = values["rate"]
        return Response(1 - share, gain=share if self.decay_input else 1.0)

    def form(self, values: Constants) -> Membrane:
        """A membrane that fires and resets."""
        return self._membrane(values, 1.0 / values["rate"])

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """One rate."""
        yield Variant("", cls(0.25))
