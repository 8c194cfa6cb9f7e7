r"""What a NIR neuron does in one time step of length dt.

NIR states continuous dynamics and no time step. Everything here follows one rule, forward Euler
with the decision after the update, which is also what the importers of snnTorch, Norse and
SpikingJelly compute:

==========  =====================================================================
node        one step (k = tau / dt)
==========  =====================================================================
LIF         v += (r x + (v_leak - v)) / k;  fires at v > v_threshold, then v = v_reset
IF          v += (r dt) x;                  fires at v > v_threshold, then v = v_reset
CubaLIF     i += (w_in x - i) / k_syn;  v += (r i + (v_leak - v)) / k_mem;  fires like LIF
LI, CubaLI  the same without firing; the output is v
I           v += (r dt) x; the output is v
Threshold   1 where x > threshold
Delay       the input of delay / dt steps ago (rounded), 0 before
==========  =====================================================================

States start at 0. Files hold tau = k dt rounded to float32; a quotient tau / dt that this rounding
may have moved away from a number of six digits is that number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import nir
import numpy as np
import torch

from spikeloom.kernel.neuron import Neuron, Parameter
from spikeloom.kernel.vocabulary import Surrogate, fire
from spikeloom.neurons.lif import IF, LIF
from spikeloom.neurons.surrogate import ATan

__all__ = ["NEURONS", "STATEFUL", "largest_gain", "neuron_of", "seconds", "steps_per_tau"]


def steps_per_tau(tau: Any, dt: float) -> np.ndarray:
    """Tau / dt as float32: a time constant in steps.

    Args:
        tau: Time constants in seconds.
        dt: The time step in seconds.

    Raises:
        ValueError: If a time constant is not finite, or shorter than one step.

    Example:
        >>> import numpy
        >>> tau = numpy.float32(3 * 1e-4)
        >>> float(tau / 1e-4), float(steps_per_tau(tau, 1e-4))
        (3.000000238418579, 3.0)
    """
    tau = np.asarray(tau, dtype=np.float64)
    if not (np.isfinite(tau).all() and np.isfinite(tau / dt).all()):
        raise ValueError(f"tau: must be finite, with dt={dt:g} s")
    k = _unrounded(tau / dt)
    if not (k >= 1).all():
        raise ValueError(
            f"tau: {tau[k < 1].flat[0]:g} s is shorter than the time step dt={dt:g} s; "
            f"pass a smaller dt"
        )
    return k.astype(np.float32)


def _unrounded(value: np.ndarray) -> np.ndarray:
    """The number of six digits that float32 rounding turned into this one, if there is one."""
    with np.errstate(divide="ignore"):
        digits = 10.0 ** (5 - np.floor(np.log10(np.abs(value))))
    short = np.where(value == 0, 0.0, np.rint(value * digits) / digits)
    return np.where(np.abs(short - value) <= np.abs(value) * 2.0**-23, short, value)


def seconds(k: Any, dt: float) -> np.ndarray:
    """Time constants as they are written: k dt in float32.

    Args:
        k: Time constants in steps.
        dt: The time step in seconds.
    """
    return (np.asarray(k, dtype=np.float64) * dt).astype(np.float32)


def _gain(r: Any, dt: float) -> np.ndarray:
    """What one unit of input adds in a step."""
    return _unrounded(np.asarray(r, dtype=np.float64) * dt).astype(np.float32)


def _value(array: Any) -> float | torch.Tensor:
    """One number if all entries agree, else a tensor: a value for each neuron."""
    array = np.asarray(array, dtype=np.float32)
    if array.size and (array == array.flat[0]).all():
        return float(array.flat[0])
    return torch.from_numpy(array.copy())


def _equals(array: Any, value: Any) -> bool:
    return bool((np.asarray(array, dtype=np.float32) == value).all())


def _resets_to_zero(node: nir.LIF | nir.IF) -> bool:
    """Whether a neuron of :mod:`spikeloom.neurons.lif` says the same."""
    return _equals(node.v_reset, 0) and bool((np.asarray(node.v_threshold) > 0).all())


def _params(**arrays: Any) -> dict[str, Parameter]:
    return {name: _value(array) for name, array in arrays.items()}


def _spike_and_reset(h: Any, p: Any, surrogate: Surrogate) -> tuple[Any, Any]:
    s = fire(h - p.v_threshold, surrogate, strict=True)
    return s, (1.0 - s) * h + s * p.v_reset


def _lif(node: nir.LIF, dt: float, surrogate: Surrogate) -> Neuron:
    k = steps_per_tau(node.tau, dt)
    threshold = _value(node.v_threshold)
    decays, adds = _equals(node.r, 1), _equals(node.r, k)
    if (decays or adds) and _equals(node.v_leak, 0) and _resets_to_zero(node):
        return LIF(
            _value(k),
            threshold,
            decay_input=decays,
            surrogate=surrogate,
            fires_at_threshold=False,
        )

    def lif(x: Any, state: Any, p: Any) -> Any:
        (v,) = state
        h = v + (p.r * x + (p.v_leak - v)) / p.k
        s, v = _spike_and_reset(h, p, surrogate)
        return s, (v,)

    values = _params(k=k, r=node.r, v_leak=node.v_leak, v_reset=node.v_reset)
    return Neuron(lif, params={**values, "v_threshold": threshold})


def _if(node: nir.IF, dt: float, surrogate: Surrogate) -> Neuron:
    gain = _gain(node.r, dt)
    threshold = _value(node.v_threshold)
    if _equals(gain, 1) and _resets_to_zero(node):
        return IF(threshold, surrogate=surrogate, fires_at_threshold=False)

    def integrate_and_fire(x: Any, state: Any, p: Any) -> Any:
        (v,) = state
        s, v = _spike_and_reset(v + p.gain * x, p, surrogate)
        return s, (v,)

    values = _params(gain=gain, v_threshold=node.v_threshold, v_reset=node.v_reset)
    return Neuron(integrate_and_fire, params=values)


def _cuba_params(node: nir.CubaLI | nir.CubaLIF, dt: float) -> dict[str, Parameter]:
    return _params(
        k_syn=steps_per_tau(node.tau_syn, dt),
        k_mem=steps_per_tau(node.tau_mem, dt),
        r=node.r,
        v_leak=node.v_leak,
        w_in=node.w_in,
    )


def _cuba_charge(x: Any, state: Any, p: Any) -> tuple[Any, Any]:
    v, i = state
    i = i + (p.w_in * x - i) / p.k_syn
    return v + (p.r * i + (p.v_leak - v)) / p.k_mem, i


def _cuba_lif(node: nir.CubaLIF, dt: float, surrogate: Surrogate) -> Neuron:
    def cuba_lif(x: Any, state: Any, p: Any) -> Any:
        h, i = _cuba_charge(x, state, p)
        s, v = _spike_and_reset(h, p, surrogate)
        return s, (v, i)

    fires = _params(v_threshold=node.v_threshold, v_reset=node.v_reset)
    return Neuron(cuba_lif, state=("v", "i"), params={**_cuba_params(node, dt), **fires})


def _cuba_li(node: nir.CubaLI, dt: float, surrogate: Surrogate) -> Neuron:
    def cuba_li(x: Any, state: Any, p: Any) -> Any:
        v, i = _cuba_charge(x, state, p)
        return v, (v, i)

    return Neuron(cuba_li, state=("v", "i"), params=_cuba_params(node, dt))


def _li(node: nir.LI, dt: float, surrogate: Surrogate) -> Neuron:
    def leaky_integrator(x: Any, state: Any, p: Any) -> Any:
        (v,) = state
        v = v + (p.r * x + (p.v_leak - v)) / p.k
        return v, (v,)

    values = _params(k=steps_per_tau(node.tau, dt), r=node.r, v_leak=node.v_leak)
    return Neuron(leaky_integrator, params=values)


def _i(node: nir.I, dt: float, surrogate: Surrogate) -> Neuron:
    def integrator(x: Any, state: Any, p: Any) -> Any:
        (v,) = state
        v = v + p.gain * x
        return v, (v,)

    return Neuron(integrator, params=_params(gain=_gain(node.r, dt)))


def _threshold(node: nir.Threshold, dt: float, surrogate: Surrogate) -> Neuron:
    def threshold(x: Any, state: Any, p: Any) -> Any:
        return fire(x - p.threshold, surrogate, strict=True), ()

    return Neuron(threshold, state=(), params=_params(threshold=node.threshold))


# How each kind of node is described; a new kind is a new row.
NEURONS: dict[type, Callable[[Any, float, Surrogate], Neuron]] = {
    nir.LIF: _lif,
    nir.IF: _if,
    nir.CubaLIF: _cuba_lif,
    nir.CubaLI: _cuba_li,
    nir.LI: _li,
    nir.I: _i,
    nir.Threshold: _threshold,
}


# What an input of 1 adds to a potential at rest in one second, a synapse being filled.
RATES: dict[type, Callable[[Any], Any]] = {
    nir.LIF: lambda node: node.r / node.tau,
    nir.LI: lambda node: node.r / node.tau,
    nir.CubaLIF: lambda node: node.w_in * node.r / node.tau_mem,
    nir.CubaLI: lambda node: node.w_in * node.r / node.tau_mem,
    nir.IF: lambda node: node.r,
    nir.I: lambda node: node.r,
}
# What remembers: a loop needs one of them.
STATEFUL = (*RATES, nir.Delay)


def largest_gain(nodes: Iterable[nir.NIRNode], dt: float) -> float | None:
    """The most that an input of 1 adds to a potential in one step; None without any potential.

    Args:
        nodes: Nodes of any kind.
        dt: Time step in seconds.
    """
    rates = [RATES[type(node)](node) for node in nodes if type(node) in RATES]
    return max((float(np.max(np.abs(rate))) * dt for rate in rates), default=None)


def neuron_of(node: nir.NIRNode, dt: float = 1e-4, surrogate: Surrogate | None = None) -> Neuron:
    """The neuron that a NIR node describes, at a time step.

    Args:
        node: A node of one of the kinds in the table above, except Delay.
        dt: Time step in seconds.
        surrogate: The derivative of a spike, for training; ATan by default.

    Raises:
        ValueError: If a time constant is shorter than dt, or a parameter is not finite.

    Example:
        >>> import nir, numpy
        >>> one = numpy.ones(3, "float32")
        >>> node = nir.LIF(tau=2e-4 * one, r=one, v_leak=0 * one, v_threshold=one)
        >>> neuron_of(node).settings()["tau"]
        2.0
    """
    return NEURONS[type(node)](node, dt, ATan() if surrogate is None else surrogate)
