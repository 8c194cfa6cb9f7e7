r"""Neurons as NIR nodes: what is exact, what needs a few nodes, what is only near.

An integrate-and-fire neuron of any framework is brought to one form first,

.. math::
    h = v + (g x + v_\mathrm{leak} - v) / k,\qquad s = \Theta(h - \theta),\qquad
    v = v_\mathrm{reset} \text{ where } s

and then to the form that every reader computes alike: r = 1, v_leak = 0, v_reset = 0, a strict
threshold. A potential that rests elsewhere is shifted to 0. An input gain g is a threshold divided
by g. Firing at the threshold is firing above the next smaller float32. Where a reader fires at
the threshold (SpikingJelly), firing above it is written as the next larger float32, so that a
potential on the threshold, common with quantised weights, is decided alike by all readers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor

from spikeloom.export.forms.pieces import Layer, Params, Piece, number
from spikeloom.export.graph.dynamics import seconds
from spikeloom.export.refuse import Refused, Verdict
from spikeloom.kernel.call import run
from spikeloom.kernel.neuron import Neuron
from spikeloom.neurons.lif import IF, LIF, Leaky, LIFBox, ParametricLIF

__all__ = ["MEMBRANES", "Membrane", "fire_and_reset", "plain_threshold", "strict_threshold"]


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
        rest: Where the potential begins.
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
    rest: np.ndarray = field(default_factory=lambda: np.zeros(()))
    reset_leaks: bool = True
    height: float = 1.0

    def above_rest(self, potential: np.ndarray) -> np.ndarray:
        """A potential in the file, where every state begins at 0."""
        return potential - self.rest


def _lif(neuron: LIF, p: Params) -> Membrane:
    return _fired(neuron, p, number("tau", p["tau"]) if "tau" in p else None)


def _parametric(neuron: ParametricLIF, p: Params) -> Membrane:
    return _fired(neuron, p, 1.0 / number("rate", p["rate"]))


def _fired(neuron: LIF | ParametricLIF, p: Params, k: np.ndarray | None) -> Membrane:
    """What fires and resets as SpikingJelly's neurons do."""
    base = number("v_reset", neuron.v_reset or 0.0)
    return Membrane(
        k=k,
        divided=neuron.decay_input and k is not None,
        threshold=number("v_threshold", p["v_threshold"]),
        at_threshold=neuron.fires_at_threshold,
        reset="soft" if neuron.v_reset is None else "hard",
        v_reset=base,
        v_leak=base,
    )


def _leaky(neuron: Leaky, p: Params) -> Membrane:
    beta = np.clip(number("beta", p["beta"]), 0.0, 1.0)
    height = np.unique(number("graded_spikes_factor", p["graded_spikes_factor"]))
    if height.size != 1:
        raise Refused("its spikes have different heights", "use one graded_spikes_factor")
    if (beta == 1.0).any() and not (beta == 1.0).all():
        raise Refused("some of its neurons leak and some do not", "use beta < 1 for all or none")
    reset = {"zero": "hard", "subtract": "soft", "none": "none"}[neuron.reset_mechanism]
    if reset == "soft" and not neuron.reset_delay:
        raise Refused(
            "its subtraction is decided twice, before and after the reset (reset_delay=False)",
            "use reset_delay=True",
        )
    return Membrane(
        k=None if (beta == 1.0).all() else 1.0 / (1.0 - beta),
        divided=False,
        threshold=number("threshold", p["threshold"]),
        at_threshold=False,
        reset=reset,
        reset_leaks=False,  # snnTorch subtracts at the next step, after the leak
        height=float(height[0]),
    )


def _box(neuron: LIFBox, p: Params) -> Membrane:
    rate = number("dt", p["dt"]) * number("tau_mem_inv", p["tau_mem_inv"])
    hard = neuron.reset_method == "value"
    return Membrane(
        k=1.0 / rate,
        divided=True,
        threshold=number("v_th", p["v_th"]),
        at_threshold=False,
        reset="hard" if hard else "soft",
        v_reset=number("v_reset", p["v_reset"]) if hard else np.zeros(()),
        v_leak=number("v_leak", p["v_leak"]),
    )


MEMBRANES: dict[type, Callable[[Any, Params], Membrane]] = {
    IF: _lif,
    LIF: _lif,
    ParametricLIF: _parametric,
    Leaky: _leaky,
    LIFBox: _box,
}


def fire_and_reset(neuron: Neuron, params: Params, layer: Layer) -> list[Piece]:
    """The ways to write an integrate-and-fire neuron, the truest first.

    Args:
        neuron: One of LIF, IF, ParametricLIF, Leaky and LIFBox.
        params: Its parameters with their present values.
        layer: The layer.

    Raises:
        Refused: If there is none.
    """
    family = next(known for known in MEMBRANES if isinstance(neuron, known))
    if type(neuron) is not family and not _behaves_like(neuron, family):
        raise Refused(
            f"it is a {family.__name__} that computes something else",
            f"use {family.__name__} itself",
        )
    membrane = MEMBRANES[family](neuron, params)
    rest = next(iter(neuron.rest.values())) if layer.rest is None else layer.rest
    membrane = replace(membrane, rest=number("state at rest", rest))
    if membrane.k is not None and not (membrane.k >= 1.0).all():
        raise Refused(
            f"its time constant is {membrane.k.min():.3g} steps, shorter than one",
            "use a time constant of at least one step",
        )
    if membrane.reset == "hard":
        return [_hard(membrane, layer)]
    exact = _soft(membrane, layer) if membrane.reset == "soft" else _free(membrane, layer)
    near = replace(
        _hard(replace(membrane, reset="hard"), layer),
        verdict=Verdict.APPROXIMATE,
        note="written with a hard reset",
    )
    return [exact, near]


def _behaves_like(neuron: Neuron, known: type) -> bool:
    """Whether a subclass (such as one with a framework's own surrogate) changes no spike."""
    settings = {k: v for k, v in neuron.settings().items() if k != "surrogate"}
    if any(isinstance(value, Tensor) and value.dim() for value in settings.values()):
        return False
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)).mul(8).round().div(4)
    with torch.no_grad():
        return torch.equal(run(neuron, x)[0], run(known(**settings), x)[0])


def strict_threshold(
    threshold: np.ndarray, at_threshold: bool, for_both: bool = False
) -> np.ndarray:
    """The float32 threshold to write for a neuron.

    Args:
        threshold: The neuron's own.
        at_threshold: Whether it fires at the threshold, not only above.
        for_both: Whether some reader fires at the threshold too.
    """
    rounded = threshold.astype(np.float32)
    if at_threshold:
        return np.nextafter(rounded, np.float32(-np.inf))
    return np.nextafter(rounded, np.float32(np.inf)) if for_both else rounded


def plain_threshold(written: np.ndarray, at_threshold: bool, for_both: bool) -> np.ndarray:
    """The threshold from which :func:`strict_threshold` made this one."""
    if at_threshold:
        return np.nextafter(written, np.float32(np.inf))
    return np.nextafter(written, np.float32(-np.inf)) if for_both else written


def _hard(m: Membrane, layer: Layer) -> Piece:
    """One LIF or IF node."""
    threshold, v_reset, v_leak = map(m.above_rest, (m.threshold, m.v_reset, m.v_leak))
    if m.k is not None and not m.divided:
        k = m.k.astype(np.float32).astype(np.float64)
        threshold, v_reset, v_leak = threshold / k, v_reset / k, v_leak / k
    parameters = {
        "r": layer.filled(1.0),
        "v_threshold": layer.filled(strict_threshold(threshold, m.at_threshold, layer.for_both)),
        "v_reset": layer.filled(v_reset),
    }
    if m.k is None:
        parameters["r"] = layer.filled(1.0 / layer.dt)
        node: nir.NIRNode = nir.IF(**parameters)
    else:
        node = nir.LIF(
            tau=layer.filled(seconds(m.k, layer.dt)), v_leak=layer.filled(v_leak), **parameters
        )
    return Piece(Verdict.EXACT, {"": node}, height=m.height)


def _free(m: Membrane, layer: Layer) -> Piece:
    """No reset: an integrator and a threshold."""
    if m.k is None:
        integrator: nir.NIRNode = layer.integrator()
    else:
        integrator = nir.LI(
            tau=layer.filled(seconds(m.k, layer.dt)),
            r=layer.filled(1.0 if m.divided else m.k),
            v_leak=layer.filled(m.above_rest(m.v_leak)),
        )
    threshold = layer.threshold(strict_threshold(m.above_rest(m.threshold), m.at_threshold))
    return Piece(
        Verdict.SUBGRAPH,
        {"membrane": integrator, "threshold": threshold},
        (("membrane", "threshold"),),
        inlet="membrane",
        outlet="threshold",
        height=m.height,
    )


def _soft(m: Membrane, layer: Layer) -> Piece:
    """Reset by subtraction: each spike is fed back to the integrator with a negative weight."""
    free = _free(m, layer)
    # What one unit of input adds to the potential, and what a spike must take from it.
    gain = 1.0 / m.k if m.k is not None and m.divided else 1.0
    left = 1.0 - 1.0 / m.k if m.k is not None and m.reset_leaks else 1.0
    return replace(
        free,
        nodes={**free.nodes, "reset": layer.scale(-m.threshold * left / gain)},
        edges=(*free.edges, ("threshold", "reset"), ("reset", "membrane")),
    )
