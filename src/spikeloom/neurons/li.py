"""LI and CubaLI: leaky integrators without a threshold, as Norse computes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.values import POSITIVE
from spikeloom.neurons.arguments import checked_value
from spikeloom.neurons.described import Described, Variant
from spikeloom.neurons.forms import Constants, Filter
from spikeloom.neurons.trace import Response

__all__ = ["LI", "CubaLI", "integrated", "potential_at_rest"]


def charged(x: Any, v: Any, p: Any) -> Any:
    """An Euler step of a leaky membrane, in Norse's order of operations."""
    return v + p.dt * p.tau_mem_inv * (p.v_leak - v + x)


def integrated(x: Any, state: Any, p: Any) -> tuple[Any, Any]:
    """An Euler step of a leaky membrane behind an exponential synapse.

    Args:
        x: The input.
        state: The potential and the current.
        p: ``dt``, ``tau_mem_inv``, ``tau_syn_inv`` and ``v_leak``.
    """
    v, i = state
    jump = i + x
    return charged(jump, v, p), jump - p.dt * p.tau_syn_inv * jump


def potential_at_rest(name: str, value: float | Tensor) -> float:
    """The number that a potential begins at; 0 if it differs between neurons.

    Args:
        name: The argument, for errors.
        value: The potential.
    """
    checked_value(name, value)
    if isinstance(value, Tensor):
        return 0.0 if value.dim() else value.item()
    return float(value)


class LI(Described):
    r"""A leaky integrator, whose output is its potential, as Norse's ``LIBoxCell`` computes it.

    .. math::
        v[t] = v[t-1] + \Delta t\,\tau_\mathrm{mem}^{-1}
        \bigl((v_\mathrm{leak} - v[t-1]) + x[t]\bigr)

    Args:
        tau_mem_inv: Inverse membrane time constant in 1/s, positive; a tensor is shared when 0-d
            and per neuron otherwise; a Parameter is learned.
        v_leak: Leak potential, a number or tensor like ``tau_mem_inv``.
        dt: Time step in seconds, positive.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite.

    State: ``v``, the potential. Rest is the leak potential that the neuron is made with, or 0 if
    that differs between neurons.

    Example:
        >>> import torch, spikeloom
        >>> v, _ = spikeloom.run(spikeloom.neurons.LI(tau_mem_inv=500.0), torch.ones(3, 1))
        >>> v.flatten()
        tensor([0.5000, 0.7500, 0.8750])

    Source: Norse 1.1, ``norse.torch.functional.leaky_integrator_box.li_box_feed_forward_step``.
    """

    rules = Fixed({"tau_mem_inv": POSITIVE, "dt": POSITIVE})

    def __init__(
        self,
        tau_mem_inv: float | Tensor = 100.0,
        v_leak: float | Tensor = 0.0,
        dt: float = 0.001,
    ) -> None:
        params = {"tau_mem_inv": tau_mem_inv, "v_leak": v_leak, "dt": dt}
        rest = {"v": potential_at_rest("LI: v_leak", v_leak)}
        super().__init__(self._step, state=rest, params=params, name="LI")

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        v = charged(x, state[0], p)
        return v, (v,)

    def response(self, values: Mapping[str, Any]) -> Response:
        """The filter itself."""
        return Response.euler(values["dt"], values["tau_mem_inv"])

    def form(self, values: Constants) -> Filter:
        """A leaky integrator."""
        k = 1.0 / (values["dt"] * values["tau_mem_inv"])
        return Filter(k=k, divided=True, v_leak=values["v_leak"])

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """One time constant."""
        yield Variant("", cls(500.0))


class CubaLI(Described):
    r"""A leaky integrator behind a synaptic current, as Norse's ``LI`` computes it.

    .. math::
        j[t] &= i[t-1] + x[t] \\
        v[t] &= v[t-1] + \Delta t\,\tau_\mathrm{mem}^{-1}
        \bigl((v_\mathrm{leak} - v[t-1]) + j[t]\bigr) \\
        i[t] &= j[t] - \Delta t\,\tau_\mathrm{syn}^{-1} j[t]

    The output is the potential.

    Args:
        tau_syn_inv: Inverse synaptic time constant in 1/s, positive; a tensor is shared when 0-d
            and per neuron otherwise; a Parameter is learned.
        tau_mem_inv: Inverse membrane time constant, likewise.
        v_leak: Leak potential, a number or tensor like ``tau_syn_inv``.
        dt: Time step in seconds, positive.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite.

    State: ``v``, the potential, and ``i``, the current after it has decayed. Rest is the leak
    potential that the neuron is made with, or 0 if that differs between neurons.

    Example:
        >>> import torch, spikeloom
        >>> v, _ = spikeloom.run(spikeloom.neurons.CubaLI(500.0, 500.0), torch.ones(3, 1))
        >>> v.flatten()
        tensor([0.5000, 1.0000, 1.3750])

    Source: Norse 1.1, ``norse.torch.functional.leaky_integrator.li_feed_forward_step``.
    """

    rules = Fixed({"tau_syn_inv": POSITIVE, "tau_mem_inv": POSITIVE, "dt": POSITIVE})

    def __init__(
        self,
        tau_syn_inv: float | Tensor = 200.0,
        tau_mem_inv: float | Tensor = 100.0,
        v_leak: float | Tensor = 0.0,
        dt: float = 0.001,
    ) -> None:
        params = {
            "tau_syn_inv": tau_syn_inv,
            "tau_mem_inv": tau_mem_inv,
            "v_leak": v_leak,
            "dt": dt,
        }
        rest = {"v": potential_at_rest("CubaLI: v_leak", v_leak), "i": 0.0}
        super().__init__(self._step, state=rest, params=params, name="CubaLI")

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        v, i = integrated(x, state, p)
        return v, (v, i)

    def response(self, values: Mapping[str, Any]) -> Response:
        """The filter itself."""
        return Response.euler(values["dt"], values["tau_mem_inv"], values["tau_syn_inv"])

    def form(self, values: Constants) -> Filter:
        """A leaky integrator behind a synapse."""
        return Filter(
            k=1.0 / (values["dt"] * values["tau_mem_inv"]),
            divided=True,
            synapse=1.0 / (values["dt"] * values["tau_syn_inv"]),
            v_leak=values["v_leak"],
        )

    @classmethod
    def variants(cls) -> Iterator[Variant]:
        """Two time constants."""
        yield Variant("", cls(500.0, 250.0))
