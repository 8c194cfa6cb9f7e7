r"""Neurons as NIR nodes: what is exact, what needs a few nodes, what is only near.

An integrate-and-fire neuron of any framework is brought to one form first,

.. math::
    h = v + (g x + v_\mathrm{leak} - v) / k,\qquad s = \Theta(h - \theta),\qquad
    v = v_\mathrm{reset} \text{ where } s

and then to the form that every reader computes alike: r = 1, v_leak = 0, v_reset = 0, a strict
threshold. A potential that rests elsewhere is shifted to 0. An input gain g is a threshold divided
by g. Firing at the threshold is firing above the next smaller float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import nir
import numpy as np
from torch import Tensor

from spikeloom.export.dynamics import seconds
from spikeloom.export.refuse import Verdict
from spikeloom.export.weights import Refused
from spikeloom.kernel.neuron import Gated, Neuron, Parameter, PerStep
from spikeloom.neurons.lif import IF, LIF, Leaky, LIFBox

__all__ = ["Membrane", "Piece", "candidates", "fires_above"]

Params = Mapping[str, Parameter]


@dataclass(frozen=True)
class Piece:
    """One way to write a neuron.

    Attributes:
        verdict: How true it is.
        nodes: NIR nodes by suffix, the empty suffix for a single node.
        edges: Between them.
        inlet: The suffix of the node that receives the input.
        outlet: The suffix of the node that fires.
        height: What a spike of the neuron is worth.
        note: What to know about it.
    """

    verdict: str
    nodes: dict[str, nir.NIRNode]
    edges: tuple[tuple[str, str], ...] = ()
    inlet: str = ""
    outlet: str = ""
    height: float = 1.0
    note: str = ""


@dataclass(frozen=True)
class Membrane:
    """An integrate-and-fire neuron, its time constants in steps.

    Attributes:
        k: Time constant; None for no leak.
        divided: Whether the input is divided by k, as NIR does.
        threshold: Where it fires.
        at_threshold: Fires at the threshold, not only above.
        reset: ``"hard"``, ``"soft"`` or ``"none"``.
        v_reset: Where a hard reset leads.
        v_leak: Where the leak leads.
        reset_leaks: Whether what a soft reset subtracts leaks in the same step.
        height: What a spike is worth.
    """

    k: np.ndarray | None
    divided: bool
    threshold: np.ndarray
    at_threshold: bool
    reset: str
    v_reset: np.ndarray = field(default_factory=lambda: np.zeros(()))
    v_leak: np.ndarray = field(default_factory=lambda: np.zeros(()))
    reset_leaks: bool = True
    height: float = 1.0


def _number(name: str, value: Parameter) -> np.ndarray:
    """A parameter as the kernel sees it, in float32 precision."""
    if isinstance(value, (PerStep, Gated)):
        raise Refused(
            f"its {name} changes with time, NIR parameters are constant", "use one value for all T"
        )
    array = value.detach().cpu().double().numpy() if isinstance(value, Tensor) else value
    return np.asarray(array, dtype=np.float32).astype(np.float64)


def _lif(neuron: LIF, p: Params) -> Membrane:
    base = np.float64(np.float32(neuron.v_reset or 0.0))
    return Membrane(
        k=_number("tau", p["tau"]) if "tau" in p else None,
        divided=neuron.decay_input and "tau" in p,
        threshold=_number("v_threshold", p["v_threshold"]) - base,
        at_threshold=neuron.fires_at_threshold,
        reset="soft" if neuron.v_reset is None else "hard",
    )


def _leaky(neuron: Leaky, p: Params) -> Membrane:
    beta = np.clip(_number("beta", p["beta"]), 0.0, 1.0)
    height = np.unique(_number("graded_spikes_factor", p["graded_spikes_factor"]))
    if height.size != 1:
        raise Refused("its spikes have different heights", "use one graded_spikes_factor")
    if (beta == 1.0).any() and not (beta == 1.0).all():
        raise Refused("some of its neurons leak and some do not", "use beta < 1 for all or none")
    return Membrane(
        k=None if (beta == 1.0).all() else 1.0 / (1.0 - beta),
        divided=False,
        threshold=_number("threshold", p["threshold"]),
        at_threshold=False,
        reset={"zero": "hard", "subtract": "soft", "none": "none"}[neuron.reset_mechanism],
        # snnTorch subtracts at the next step, after the leak.
        reset_leaks=not neuron.reset_delay,
        height=float(height[0]),
    )


def _box(neuron: LIFBox, p: Params) -> Membrane:
    rate = _number("dt", p["dt"]) * _number("tau_mem_inv", p["tau_mem_inv"])
    hard = neuron.reset_method == "value"
    return Membrane(
        k=1.0 / rate,
        divided=True,
        threshold=_number("v_th", p["v_th"]),
        at_threshold=False,
        reset="hard" if hard else "soft",
        v_reset=_number("v_reset", p["v_reset"]) if hard else np.zeros(()),
        v_leak=_number("v_leak", p["v_leak"]),
    )


MEMBRANES: dict[type, Callable[[Any, Params], Membrane]] = {
    LIF: _lif,
    IF: _lif,
    Leaky: _leaky,
    LIFBox: _box,
}


def candidates(neuron: Neuron, params: Params, shape: tuple[int, ...], dt: float) -> list[Piece]:
    """The ways to write a neuron, the truest first.

    Args:
        neuron: The description.
        params: Its parameters with their present values.
        shape: Shape of the layer for one sample.
        dt: Time step in seconds.

    Raises:
        Refused: If there is none.
    """
    kind = next((known for known in MEMBRANES if type(neuron) is known), None)
    if kind is None:
        raise Refused(
            f"{neuron.name} is no step that NIR can state",
            "use LIF, IF, Leaky or LIFBox, or keep this part of the model outside the file",
        )
    membrane = MEMBRANES[kind](neuron, params)
    if membrane.k is not None and not (membrane.k >= 1.0).all():
        raise Refused(
            f"its time constant is {membrane.k.min():.3g} steps, shorter than one",
            "use a time constant of at least one step",
        )
    if membrane.reset == "hard":
        return [_hard(membrane, shape, dt)]
    exact = _soft(membrane, shape, dt) if membrane.reset == "soft" else _free(membrane, shape, dt)
    near = replace(
        _hard(replace(membrane, reset="hard"), shape, dt),
        verdict=Verdict.APPROXIMATE,
        note="written with a hard reset",
    )
    return [exact, near]


def fires_above(threshold: np.ndarray, at_threshold: bool) -> np.ndarray:
    """The strict float32 threshold of a neuron that fires at, or only above, a threshold."""
    rounded = threshold.astype(np.float32)
    return np.nextafter(rounded, np.float32(-np.inf)) if at_threshold else rounded


def _filled(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.array(np.broadcast_to(np.asarray(value, dtype=np.float32), shape))


def _hard(m: Membrane, shape: tuple[int, ...], dt: float) -> Piece:
    """One LIF or IF node."""
    threshold = m.threshold
    if m.k is not None and not m.divided:
        threshold = threshold / m.k.astype(np.float32).astype(np.float64)
    parameters = {
        "r": _filled(1.0, shape),
        "v_threshold": _filled(fires_above(threshold, m.at_threshold), shape),
        "v_reset": _filled(m.v_reset, shape),
    }
    if m.k is None:
        parameters["r"] = _filled(_per_step(dt), shape)
        node: nir.NIRNode = nir.IF(**parameters)
    else:
        node = nir.LIF(
            tau=_filled(seconds(m.k, dt), shape), v_leak=_filled(m.v_leak, shape), **parameters
        )
    return Piece(Verdict.EXACT, {"": node}, height=m.height)


def _per_step(dt: float) -> np.ndarray:
    """The float32 resistance r with r dt = 1 in float32."""
    r = np.float32(1.0 / dt)
    around = (r, np.nextafter(r, np.float32(np.inf)), np.nextafter(r, np.float32(0)))
    return np.asarray(next((n for n in around if np.float32(float(n) * dt) == 1.0), r))


def _integrator(m: Membrane, shape: tuple[int, ...], dt: float) -> nir.NIRNode:
    if m.k is None:
        return nir.I(r=_filled(_per_step(dt), shape))
    r = 1.0 if m.divided else m.k
    leak = _filled(m.v_leak, shape)
    return nir.LI(tau=_filled(seconds(m.k, dt), shape), r=_filled(r, shape), v_leak=leak)


def _free(m: Membrane, shape: tuple[int, ...], dt: float) -> Piece:
    """No reset: an integrator and a threshold."""
    threshold = fires_above(m.threshold, m.at_threshold)
    nodes = {
        "membrane": _integrator(m, shape, dt),
        "threshold": nir.Threshold(threshold=_filled(threshold, shape)),
    }
    edges = (("membrane", "threshold"),)
    return Piece(Verdict.SUBGRAPH, nodes, edges, "membrane", "threshold", m.height)


def _soft(m: Membrane, shape: tuple[int, ...], dt: float) -> Piece:
    """Reset by subtraction: each spike is fed back to the integrator with a negative weight."""
    free = _free(m, shape, dt)
    # What one unit of input adds to the potential, and what a spike must take from it.
    gain = 1.0 / m.k if m.k is not None and m.divided else 1.0
    left = 1.0 - 1.0 / m.k if m.k is not None and m.reset_leaks else 1.0
    feedback = nir.Scale(scale=_filled(-m.threshold * left / gain, shape))
    return replace(
        free,
        nodes={**free.nodes, "reset": feedback},
        edges=(*free.edges, ("threshold", "reset"), ("reset", "membrane")),
    )
