r"""Leaky integrators as NIR nodes.

A potential ``v = v + (v_leak - v + i) / k`` is an LI node with resistance 1; one whose input is not
divided, such as a trace ``z = d z + x`` with k = 1 / (1 - d), has resistance k. With a synapse in
front it is a current-based one.
"""

from __future__ import annotations

import nir
import numpy as np

from spikeloom.export.forms.node_groups import Layer, Piece
from spikeloom.export.graph.dynamics import seconds
from spikeloom.export.refuse import Refused, Verdict
from spikeloom.neurons.forms import Filter

__all__ = ["integrator_of", "leaky_integrator", "require_whole_steps", "synapse_of"]


def leaky_integrator(form: Filter, layer: Layer) -> list[Piece]:
    """A leaky integrator as one node.

    Args:
        form: The integrator.
        layer: The layer.

    Raises:
        Refused: If its potential does not begin at 0, or its time constant is below a step.
    """
    require_whole_steps(form)
    if np.any(layer.rest):
        raise Refused(
            f"its output is a potential that begins at {layer.rest.flat[0]:g}, in NIR at 0",
            "let it begin at 0",
        )
    if form.synapse is None:
        return [Piece(Verdict.EXACT, {"": integrator_of(form, layer)})]
    assert form.k is not None
    node = nir.CubaLI(
        tau_syn=layer.filled(seconds(form.synapse, layer.dt)),
        tau_mem=layer.filled(seconds(form.k, layer.dt)),
        r=layer.filled(form.resistance),
        v_leak=layer.filled(form.v_leak),
        w_in=layer.filled(form.synapse),
    )
    return [Piece(Verdict.EXACT, {"": node})]


def integrator_of(form: Filter, layer: Layer) -> nir.NIRNode:
    """The node of a membrane without its synapse.

    Args:
        form: The integrator.
        layer: The layer.
    """
    if form.k is None:
        return layer.integrator(form.resistance)
    return nir.LI(
        tau=layer.filled(seconds(form.k, layer.dt)),
        r=layer.filled(form.resistance),
        v_leak=layer.filled(layer.above_rest(form.v_leak)),
    )


def synapse_of(form: Filter, layer: Layer) -> nir.NIRNode:
    """The node of a synapse alone.

    Args:
        form: The integrator.
        layer: The layer.
    """
    return nir.LI(
        tau=layer.filled(seconds(form.synapse, layer.dt)),
        r=layer.filled(form.synapse),
        v_leak=layer.filled(0.0),
    )


def require_whole_steps(form: Filter) -> None:
    """Raise Refused where a time constant is shorter than a step."""
    for name, k in (("time constant", form.k), ("synapse's time constant", form.synapse)):
        if k is not None and not (k >= 1.0).all():
            raise Refused(
                f"its {name} is {k.min():.3g} steps, shorter than one",
                "use a time constant of at least one step",
            )
