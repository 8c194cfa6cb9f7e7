r"""Sign gradient descent on ReLU with equal steps, as NIR nodes.

The estimate moves up while it lies below ReLU(x), that is below 0 or below x. With u the bit
"below", the move is :math:`2 c \eta u - c \eta`; two integrators hold x and the estimate.
"""

from __future__ import annotations

import nir
import numpy as np

from spikeloom.export.pieces import Layer, Params, Piece, number
from spikeloom.export.refuse import Verdict
from spikeloom.export.weights import Refused
from spikeloom.neurons.schedules import Constant
from spikeloom.neurons.signgd import SignGD

__all__ = ["sign_descent"]


def sign_descent(neuron: SignGD, params: Params, layer: Layer) -> list[Piece]:
    """The neuron as a subgraph, if its function is ReLU and its steps are equal.

    Args:
        neuron: The description.
        params: Its parameters with their present values.
        layer: The layer.

    Raises:
        Refused: For every other function or schedule, and for layers with several axes.
    """
    if neuron.function.name != "relu":
        raise Refused(
            f"NIR has no {neuron.function.name} to compare an estimate with",
            'use function="relu", or allow on_inexact="extension"',
        )
    if not isinstance(neuron.schedule, Constant):
        raise Refused(
            f"its steps {neuron.schedule} change with time, NIR parameters are constant",
            'use Constant(...), or allow on_inexact="extension"',
        )
    if len(layer.shape) != 1:
        raise Refused(f"a NIR bias has one axis, its layer has {list(layer.shape)}", "flatten it")
    step = layer.filled(number("scale", params["scale"])) * np.float32(neuron.schedule.rate)
    nodes = {
        "x": layer.integrator(),
        "estimate": layer.integrator(),
        "negated": layer.scale(-1.0),
        "below_x": layer.threshold(0.0),
        "below_0": layer.threshold(0.0),
        "below": layer.threshold(0.5),
        "move": nir.Affine(weight=np.diag(2 * step), bias=-step),
    }
    edges = (
        ("x", "below_x"),
        ("estimate", "negated"),
        ("negated", "below_x"),
        ("negated", "below_0"),
        ("below_x", "below"),
        ("below_0", "below"),
        ("below", "move"),
        ("move", "estimate"),
    )
    return [Piece(Verdict.SUBGRAPH, nodes, edges, inlet="x", outlet="move")]
