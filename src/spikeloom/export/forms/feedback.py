"""A circuit: its neuron's nodes, the weights before it, and an edge back through others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import nir
import numpy as np
from torch import Tensor, nn

from spikeloom.export.forms.layers import Bias, gain_node, translate_layer
from spikeloom.export.forms.node_groups import Piece
from spikeloom.export.refuse import Refused
from spikeloom.modules import Circuit

__all__ = ["written_around"]

INTO, BIAS, RECURRENT = "into", "bias", "recurrent"

Shape = tuple[int, ...]


def written_around(circuit: Circuit, shape_in: Shape, shape: Shape) -> Callable[[Piece], Piece]:
    """The function from a way to write the neuron to a way to write its circuit.

    Every reader of :mod:`spikeloom.export` takes the edge into the neuron as the one that carries
    the step before, 0 at first. A bias on that way, which the circuit adds at the first step too,
    goes to the weights before the neuron.

    Args:
        circuit: The circuit.
        shape_in: Shape of its input for one sample at one step.
        shape: Shape of what its neuron fires.

    Raises:
        Refused: If NIR has no form for one of its layers.
    """
    returning = None if circuit.back is None else _returning(circuit.back, shape)
    back, bias = (None, None) if returning is None else _without_bias(returning)
    into = None if circuit.into is None else _node(circuit.into, shape_in, shape)
    before: dict[str, Any] = {} if into is None else {INTO: into}
    if bias is not None:
        before[BIAS] = Bias(bias)

    def circled(piece: Piece) -> Piece:
        chain = [*before, piece.inlet]
        nodes, edges = {**before, **piece.nodes}, (*piece.edges, *pairwise(chain))
        if back is not None:
            nodes[RECURRENT] = _times(back, piece.height)
            edges = (*edges, (piece.outlet, RECURRENT), (RECURRENT, piece.inlet))
        return replace(piece, nodes=nodes, edges=edges, inlet=chain[0])

    return circled


def _returning(back: nn.Module | Tensor, shape: Shape) -> nir.NIRNode:
    """What the spikes return through."""
    if isinstance(back, Tensor):
        return gain_node(shape, back.detach().cpu().numpy())
    return _node(back, shape, shape)


def _node(layer: nn.Module, shape_in: Shape, shape_out: Shape) -> nir.NIRNode:
    node = translate_layer(layer, shape_in, shape_out)
    if not isinstance(node, nir.NIRNode):
        name = type(layer).__name__
        raise Refused(f"has a {name} on the way back to it", "use a Linear or Conv layer there")
    return node


def _without_bias(node: nir.NIRNode) -> tuple[nir.NIRNode, np.ndarray | None]:
    """The node with no bias, and its bias if there is one."""
    bias = getattr(node, "bias", None)
    if bias is None:
        return node, None
    if isinstance(node, nir.Affine):
        node = nir.Linear(weight=node.weight)
    else:
        node.bias = np.zeros_like(bias)
    return node, bias if bias.any() else None


def _times(node: nir.NIRNode, height: float) -> nir.NIRNode:
    """The node for spikes of 1 instead of spikes of a height."""
    if height == 1.0:
        return node
    name = "scale" if isinstance(node, nir.Scale) else "weight"
    value = (getattr(node, name).astype(np.float64) * height).astype(np.float32)
    if isinstance(node, (nir.Scale, nir.Linear)):
        return type(node)(value)
    node.weight = value
    return node
