"""CubaLIF: leaky integrate-and-fire behind a synaptic current, as Norse computes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.values import POSITIVE
from spikeloom.kernel.vocabulary import Surrogate, fire
from spikeloom.neurons.arguments import checked_surrogate
from spikeloom.neurons.described import Described, Variant
from spikeloom.neurons.forms import Constants, Membrane
from spikeloom.neurons.li import integrated, potential_at_rest
from spikeloom.neurons.surrogate import SuperSpike
from spikeloom.neurons.trace import Response

__all__ = ["CubaLIF"]


class CubaLIF(Described):
    r"""Leaky integrate-and-fire with a current-based synapse, as Norse's ``LIF`` computes it.

    .. math::
        j[t] &= i[t-1] + x[t] \\
        h[t] &= v[t-1] + \Delta t\,\tau_\mathrm{mem}^{-1}
        \bigl((v_\mathrm{leak} - v[t-1]) + j[t]\bigr) \\
        s[t] &= \Theta(h[t] - v_\mathrm{th}) \\
        v[t] &= (1 - s[t])\,h[t] + s[t]\,v_\mathrm{reset},\qquad
        i[t] = j[t] - \Delta t\,\tau_\mathrm{syn}^{-1} j[t]

    Args:
        tau_syn_inv: Inverse synaptic time constant in 1/s, positive; a tensor is shared when 0-d
            and per neuron otherwise; a Parameter is learned.
        tau_mem_inv: Inverse membrane time constant, likewise.
        v_leak: Leak potential, a number or tensor like ``tau_syn_inv``.
        v_th: Threshold, of either sign; firing is strict.
        v_reset: Potential after a spike.
        surrogate: The derivative of a spike.
        dt: Time step in seconds, positive.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite.

    State: ``v``, the potential after reset, and ``i``, the current after it has decayed. Rest is
    the leak potential that the neuron is made with, or 0 if that differs between neurons.

    Example:
        >>> import torch, spikeloom
        >>> neuron = spikeloom.neurons.CubaLIF()
        >>> spikes, (v, i) = spikeloom.run(neuron, torch.ones(8, 1))
        >>> spikes.flatten()
        tensor([0., 0., 0., 0., 0., 1., 0., 0.])

    Source: Norse 1.1, ``norse.torch.functional.lif.lif_feed_forward_step``.
    """

    rules = Fixed({"tau_syn_inv": POSITIVE, "tau_mem_inv": POSITIVE, "dt": POSITIVE})
    unit = "v_th"
    # How many inputs a step reads, and which states it has beside the potential and the current.
    _inputs = 1
    _further: Mapping[str, float] = Fixed({})

    def __init__(
        self,
        tau_syn_inv: float | Tensor = 200.0,
        tau_mem_inv: float | Tensor = 100.0,
        v_leak: float | Tensor = 0.0,
        v_th: float | Tensor = 1.0,
        v_reset: float | Tensor = 0.0,
        surrogate: Surrogate | None = SuperSpike(),
        dt: float = 0.001,
    ) -> None:
        self.surrogate = checked_surrogate("CubaLIF", surrogate, SuperSpike())
        params = {
            "tau_syn_inv": tau_syn_inv,
            "tau_mem_inv": tau_mem_inv,
            "v_leak": v_leak,
            "v_th": v_th,
            "v_reset": v_reset,
            "dt": dt,
        }
        rest = {"v": potential_at_rest("CubaLIF: v_leak", v_leak), "i": 0.0, **self._further}
        super().__init__(
            self._step, state=rest, params=params, inputs=self._inputs, name=type(self).__name__
        )

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        h, i = integrated(x, state, p)
        s = fire(h - p.v_th, self.surrogate, strict=True)
        return s, ((1.0 - s) * h + s * p.v_reset, i)

    def response(self, values: Mapping[str, Any]) -> Response:
        """The filter below the threshold."""
        return Response.euler(values["dt"], values["tau_mem_inv"], values["tau_syn_inv"])

    def form(self, values: Constants) -> Membrane:
        """A membrane behind a synapse, that fires and resets."""
        return Membrane(
            k=1.0 / (values["dt"] * values["tau_mem_inv"]),
            divided=True,
            synapse=1.0 / (values["dt"] * values["tau_syn_inv"]),
            threshold=values["v_th"],
            at_threshold=False,
            reset="hard",
            v_reset=values["v_reset"],
            v_leak=values["v_leak"],
        )

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """Resets and leaks to other potentials than 0."""
        yield Variant("", cls(500.0, 250.0, v_th=0.5))
        yield Variant("reset to -0.5", cls(500.0, 250.0, v_th=0.5, v_reset=-0.5))
        yield Variant("leak potential 0.25", cls(500.0, 250.0, v_leak=0.25, v_th=0.5))

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        dt = self.params["dt"]
        values = {name: value for name, value in self.params.items() if name != "dt"}
        return {**values, "surrogate": self.surrogate, "dt": dt}
