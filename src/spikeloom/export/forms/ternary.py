"""Ternary spikes as two opposed NIR neurons."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import nir
import numpy as np

from spikeloom.export.forms.node_groups import Layer, Piece
from spikeloom.export.graph.dynamics import seconds
from spikeloom.export.refuse import Refused, Verdict
from spikeloom.neurons.forms import Ternary

__all__ = ["ternary_spikes"]


def ternary_spikes(form: Ternary, layer: Layer) -> list[Piece]:
    """Ternary spikes: exact where no memory is used, otherwise near.

    The membrane is shared by the spikes of both signs, and its leak depends on the spike; NIR can
    multiply neither. Two leaky neurons, one of them on the negated input, come close. A single
    step, which is all that the sample may have, uses no memory.

    Args:
        form: The neuron.
        layer: The layer.

    Raises:
        Refused: If the leak grows, so that no NIR neuron comes near.
    """
    forgets = not np.any(form.left)
    exact = forgets or layer.steps == 1
    if np.any(form.left >= 1.0) and not exact:
        raise Refused(
            "its membrane grows instead of leaking (decay * alpha >= 1)",
            "use an amplitude below 1 / decay",
        )
    if not exact:
        note = "written as two neurons that do not reset each other"
        return [_opposed(functools.partial(_leaky, form, layer), form.height, layer, note)]
    note = "without memory: it holds for sequences of one step, each begun at rest"
    half = functools.partial(layer.threshold, _last_silent(form.amplitude))
    piece = _opposed(half, form.height, layer, "" if forgets else note)
    return [replace(piece, verdict=Verdict.SUBGRAPH)]


def _leaky(form: Ternary, layer: Layer) -> nir.LIF:
    """A neuron that fires at half the amplitude and keeps a share of its potential."""
    k = 1.0 / (1.0 - form.left)
    return nir.LIF(
        tau=layer.filled(seconds(k, layer.dt)),
        r=layer.filled(1.0),
        v_leak=layer.filled(0.0),
        v_reset=layer.filled(0.0),
        v_threshold=layer.filled(form.amplitude / 2 / k),
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
