r"""Linear filters as NIR nodes.

A trace ``z = d z + x`` is a leaky integrator whose time constant is 1 / (1 - d) steps and whose
resistance equals it; with a synaptic stage in front it is a current-based one.
"""

from __future__ import annotations

import nir
import numpy as np

from spikeloom.export.forms.pieces import Layer, Params, Piece, number
from spikeloom.export.graph.dynamics import seconds
from spikeloom.export.refuse import Refused, Verdict
from spikeloom.neurons.trace import Trace

__all__ = ["trace"]


def trace(neuron: Trace, params: Params, layer: Layer) -> list[Piece]:
    """A trace as one node.

    Args:
        neuron: The description.
        params: Its parameters with their present values.
        layer: The layer.

    Raises:
        Refused: If a decay lies outside [0, 1], or some neurons decay and some do not.
    """
    decay = number("decay", params["decay"])
    if "synaptic_decay" in params:
        k, k_syn = _steps(decay), _steps(number("synaptic_decay", params["synaptic_decay"]))
        if k is None or k_syn is None:
            raise Refused("one of its two stages does not decay", "use decays below 1")
        node: nir.NIRNode = nir.CubaLI(
            tau_syn=layer.filled(seconds(k_syn, layer.dt)),
            tau_mem=layer.filled(seconds(k, layer.dt)),
            r=layer.filled(k),
            v_leak=layer.filled(0.0),
            w_in=layer.filled(k_syn),
        )
    elif (k := _steps(decay)) is None:
        node = layer.integrator()
    else:
        tau = layer.filled(seconds(k, layer.dt))
        node = nir.LI(tau=tau, r=layer.filled(k), v_leak=layer.filled(0.0))
    return [Piece(Verdict.EXACT, {"": node})]


def _steps(decay: np.ndarray) -> np.ndarray | None:
    """The time constant in steps; None where nothing decays."""
    if not ((decay >= 0) & (decay <= 1)).all():
        raise Refused("a decay lies outside [0, 1]", "use decays from 0 to 1")
    if (decay == 1).all():
        return None
    if (decay == 1).any():
        raise Refused("some of its neurons decay and some do not", "use decay < 1 for all or none")
    return 1.0 / (1.0 - decay)
