r"""Neurons as NIR nodes: what is exact, what needs a few nodes, what is only near.

An integrate-and-fire neuron of any framework is brought to one form first,

.. math::
    h = v + (g x + v_\mathrm{leak} - v) / k,\qquad s = \Theta(h - \theta),\qquad
    v = v_\mathrm{reset} \text{ where } s

and then to the form that every reader computes alike: r = 1 (behind a synapse r = k, w_in = k_syn),
v_leak = 0, v_reset = 0, a strict threshold. A potential that rests elsewhere is shifted to 0. An
input gain g is a threshold divided by g. Firing at the threshold is firing above the next smaller
float32. Where a reader fires at the threshold (SpikingJelly), firing above it is written as the
next larger float32, so that a potential on the threshold, common with quantised weights, is decided
alike by all readers.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import nir
import numpy as np

from spikeloom.export.forms.filters import integrator_of, require_whole_steps, synapse_of
from spikeloom.export.forms.node_groups import Layer, Piece
from spikeloom.export.graph.dynamics import seconds
from spikeloom.export.refuse import Verdict
from spikeloom.neurons.forms import Membrane

__all__ = ["fire_and_reset", "plain_threshold", "strict_threshold"]


def fire_and_reset(membrane: Membrane, layer: Layer) -> list[Piece]:
    """The ways to write an integrate-and-fire neuron, the truest first.

    Args:
        membrane: The neuron.
        layer: The layer.

    Raises:
        Refused: If there is none.
    """
    require_whole_steps(membrane)
    if membrane.reset == "hard":
        return [_hard(membrane, layer)]
    exact = _soft(membrane, layer) if membrane.reset == "soft" else _free(membrane, layer)
    near = replace(
        _hard(replace(membrane, reset="hard"), layer),
        verdict=Verdict.APPROXIMATE,
        note="written with a hard reset",
    )
    return [exact, near]


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
    threshold, v_reset, v_leak = map(layer.above_rest, (m.threshold, m.v_reset, m.v_leak))
    # Readers agree on one resistance: the unit of potentials is another instead.
    whole = m.k is not None and (m.synapse is not None or layer.whole_inputs)
    r = m.k if whole and m.k is not None else np.ones(())
    unit = _rounded(m.resistance) / _rounded(r)
    threshold, v_reset, v_leak = threshold / unit, v_reset / unit, v_leak / unit
    parameters = {
        "r": layer.filled(r),
        "v_threshold": layer.filled(strict_threshold(threshold, m.at_threshold, layer.for_both)),
        "v_reset": layer.filled(v_reset),
    }
    if m.k is None:
        parameters["r"] = layer.filled(1.0 / layer.dt)
        return _behind_synapse(m, layer, nir.IF(**parameters))
    tau, parameters["v_leak"] = layer.filled(seconds(m.k, layer.dt)), layer.filled(v_leak)
    if m.synapse is None:
        node: nir.NIRNode = nir.LIF(tau=tau, **parameters)
    else:
        tau_syn = layer.filled(seconds(m.synapse, layer.dt))
        w_in = layer.filled(m.synapse)
        node = nir.CubaLIF(tau_syn=tau_syn, tau_mem=tau, w_in=w_in, **parameters)
    return Piece(Verdict.EXACT, {"": node}, height=m.height)


def _rounded(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32).astype(np.float64)


def _behind_synapse(m: Membrane, layer: Layer, node: nir.NIRNode) -> Piece:
    """A node by itself, or behind the synapse that it has not."""
    if m.synapse is None:
        return Piece(Verdict.EXACT, {"": node}, height=m.height)
    return Piece(
        Verdict.SUBGRAPH,
        {"synapse": synapse_of(m, layer), "membrane": node},
        (("synapse", "membrane"),),
        inlet="synapse",
        outlet="membrane",
        height=m.height,
    )


def _free(m: Membrane, layer: Layer) -> Piece:
    """No reset: an integrator and a threshold."""
    threshold = layer.threshold(strict_threshold(layer.above_rest(m.threshold), m.at_threshold))
    stages = {"membrane": integrator_of(m, layer), "threshold": threshold}
    if m.synapse is not None:
        stages = {"synapse": synapse_of(m, layer), **stages}
    return Piece(
        Verdict.SUBGRAPH,
        stages,
        tuple(pairwise(stages)),
        inlet=next(iter(stages)),
        outlet="threshold",
        height=m.height,
    )


def _soft(m: Membrane, layer: Layer) -> Piece:
    """Reset by subtraction: each spike is fed back to the integrator with a negative weight."""
    free = _free(m, layer)
    # What one unit of input adds to the potential, and what a spike must take from it.
    gain = m.resistance if m.k is None else m.resistance / m.k
    left = 1.0 - 1.0 / m.k if m.k is not None and m.reset_leaks else 1.0
    return replace(
        free,
        nodes={**free.nodes, "reset": layer.scale(-m.threshold * left / gain)},
        edges=(*free.edges, ("threshold", "reset"), ("reset", "membrane")),
    )
