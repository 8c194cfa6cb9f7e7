"""Ternary spikes as two opposed NIR neurons."""

from __future__ import annotations

import nir
import numpy as np

from spikeloom.export.dynamics import seconds
from spikeloom.export.pieces import Layer, Params, Piece, number
from spikeloom.export.refuse import Verdict
from spikeloom.export.weights import Refused
from spikeloom.neurons.elastic import ElasticBiSpike

__all__ = ["bi_spike"]


def bi_spike(neuron: ElasticBiSpike, params: Params, layer: Layer) -> list[Piece]:
    """An elastic bi-spiking neuron: exact without memory, otherwise near.

    The membrane is shared by the spikes of both signs, and its leak depends on the spike; NIR can
    multiply neither. Two leaky neurons, one of them on the negated input, come close.

    Args:
        neuron: The description.
        params: Its parameters with their present values.
        layer: The layer.

    Raises:
        Refused: If the leak grows, so that no NIR neuron comes near.
    """
    alpha = number("alpha", params["alpha"])
    left = neuron.decay * (alpha if neuron.reset == "released" else np.ones(()))
    if np.any(left >= 1.0):
        raise Refused(
            "its membrane grows instead of leaking (decay * alpha >= 1)",
            "use an amplitude below 1 / decay",
        )
    height = 1.0 if neuron.unit_spikes else alpha
    exact = neuron.decay == 0.0

    def half() -> nir.NIRNode:
        if exact:
            return layer.threshold(alpha / 2)
        k = 1.0 / (1.0 - left)
        return nir.LIF(
            tau=layer.filled(seconds(k, layer.dt)),
            r=layer.filled(1.0),
            v_leak=layer.filled(0.0),
            v_reset=layer.filled(0.0),
            v_threshold=layer.filled(alpha / 2 / k),
        )

    nodes = {
        "input": layer.scale(1.0),
        "negated": layer.scale(-1.0),
        "up": half(),
        "down": half(),
        "plus": layer.scale(height),
        "minus": layer.scale(-np.asarray(height)),
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
    verdict = Verdict.SUBGRAPH if exact else Verdict.APPROXIMATE
    note = "" if exact else "written as two neurons that do not reset each other"
    return [Piece(verdict, nodes, edges, inlet="input", outlet="output", note=note)]
