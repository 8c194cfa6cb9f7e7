"""A layer whose spikes return to it: its neuron's nodes, and an edge back through the weight."""

from __future__ import annotations

from dataclasses import replace

import nir
import numpy as np
from torch import Tensor

from spikeloom.export.forms.node_groups import Piece
from spikeloom.export.refuse import Refused

__all__ = ["with_feedback"]

RECURRENT = "recurrent"


def with_feedback(piece: Piece, weight: Tensor, bias: Tensor | None) -> Piece:
    """A way to write the neuron, as a way to write the layer.

    Every reader of :mod:`spikeloom.export` takes the edge into the neuron as the one that carries
    the step before, 0 at first.

    Args:
        piece: The neuron.
        weight: What its spikes return through, ``[N, N]``.
        bias: What returns beside them, or None.

    Raises:
        Refused: If there is a bias, which would not be there at the first step.
    """
    if bias is not None and bias.detach().count_nonzero():
        raise Refused(
            "its bias is added at the first step too, when nothing has returned in NIR",
            "put the bias into the layer before it",
        )
    written = weight.detach().cpu().numpy().astype(np.float64) * piece.height
    node = nir.Linear(weight=written.astype(np.float32))
    back = ((piece.outlet, RECURRENT), (RECURRENT, piece.inlet))
    return replace(piece, nodes={**piece.nodes, RECURRENT: node}, edges=(*piece.edges, *back))
