"""Ternary spikes as two opposed NIR neurons."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import nir
import numpy as np

from spikeloom.export.forms.pieces import Layer, Params, Piece, number
from spikeloom.export.graph.dynamics import seconds
from spikeloom.export.refuse import Refused, Verdict
from spikeloom.kernel.neuron import PerStep
from spikeloom.neurons.elastic import FLOOR, ElasticBiSpike

__all__ = ["bi_spike"]


def bi_spike(neuron: ElasticBiSpike, params: Params, layer: Layer) -> list[Piece]:
    """An elastic bi-spiking neuron: exact where no memory is used, otherwise near.

    The membrane is shared by the spikes of both signs, and its leak depends on the spike; NIR can
    multiply neither. Two leaky neurons, one of them on the negated input, come close. A single
    step, which is all that the sample may have, uses no memory.

    Args:
        neuron: The description.
        params: Its parameters with their present values.
        layer: The layer.

    Raises:
        Refused: If the leak grows, so that no NIR neuron comes near.
    """
    single = layer.steps == 1
    table = params["alpha"]
    if single and isinstance(table, PerStep):
        table = table.values[0]
    alpha = np.maximum(number("alpha", table), np.float32(FLOOR))
    exact = neuron.decay == 0.0 or single
    left = neuron.decay * (alpha if neuron.reset == "released" else np.ones(()))
    if np.any(left >= 1.0) and not exact:
        raise Refused(
            "its membrane grows instead of leaking (decay * alpha >= 1)",
            "use an amplitude below 1 / decay",
        )
    height = np.ones(()) if neuron.unit_spikes else alpha
    if not exact:
        note = "written as two neurons that do not reset each other"
        return [_opposed(lambda: _leaky(alpha, left, layer), height, layer, note)]
    note = "without memory: it holds for sequences of one step, each begun at rest"
    half = functools.partial(layer.threshold, _last_silent(alpha))
    piece = _opposed(half, height, layer, note if neuron.decay else "")
    return [replace(piece, verdict=Verdict.SUBGRAPH)]


def _leaky(alpha: np.ndarray, left: np.ndarray, layer: Layer) -> nir.LIF:
    """A neuron that fires at half the amplitude and keeps a share of its potential."""
    k = 1.0 / (1.0 - left)
    return nir.LIF(
        tau=layer.filled(seconds(k, layer.dt)),
        r=layer.filled(1.0),
        v_leak=layer.filled(0.0),
        v_reset=layer.filled(0.0),
        v_threshold=layer.filled(alpha / 2 / k),
    )


def _opposed(half: Callable[[], nir.NIRNode], height: np.ndarray, layer: Layer, note: str) -> Piece:
    """Two neurons, one of them on the negated input, whose spikes count up and down."""
    nodes = {
        "input": layer.scale(1.0),
        "negated": layer.scale(-1.0),
        "up": half(),
        "down": half(),
        "plus": layer.scale(height),
        "minus": layer.scale(-height),
        "output": layer.scale(1.0),
    }
    edges = (
        ("input", "up"),
        ("input", "negated"),
        ("negated", "down"),
        ("up", "plus"),
        ("down", "minus"),
        ("plus", "output"),
        ("minus", "output"),
    )
    return Piece(Verdict.APPROXIMATE, nodes, edges, inlet="input", outlet="output", note=note)


def _last_silent(alpha: np.ndarray) -> np.ndarray:
    """The largest float32 whose quotient by the amplitude rounds to 0: about half of it."""
    alpha = alpha.astype(np.float32)
    last = alpha / 2
    while True:
        after = np.nextafter(last, np.float32(np.inf))
        silent = after / alpha <= 0.5
        if not silent.any():
            return last
        last = np.where(silent, after, last)
