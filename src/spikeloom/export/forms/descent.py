r"""Sign gradient descent as NIR nodes.

NIR can compare, add and weigh. So the function to follow must be the largest of some multiples of
the input, :math:`f(x) = \max_i a_i x`, as ReLU is of 1 and 0: an estimate lies above f(x) where it
lies above all of them. A Threshold compares it with each multiple, one more counts.

NIR has no parameter that changes with time, but it can count: an integrator of 1 is a clock, and
Thresholds on the clock let each step's size pass at its own steps. The sizes are those of the
neuron, to the bit; nothing is rescaled, so a bias is no obstacle. After the last step that was
written no size passes, and the estimate rests.

Whatever arrives from outside enters the feedback loop at the comparisons or at the constant that
drives the clock, never on the way between them: readers wait one step where a loop is entered.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import numpy as np

from spikeloom.export.forms.pieces import Layer, Params, Piece, Wiring, number
from spikeloom.export.refuse import Refused
from spikeloom.neurons.schedules import Constant, Schedule
from spikeloom.neurons.signgd import SignGD, SignTracker
from spikeloom.neurons.signgd_functions import FUNCTIONS, Function

__all__ = ["sign_descent", "sign_tracker"]


def sign_descent(neuron: SignGD, params: Params, layer: Layer) -> list[Piece]:
    """A neuron that receives and sends increments.

    Args:
        neuron: The description.
        params: Its parameters with their present values.
        layer: The layer.

    Raises:
        Refused: If its function is no maximum of multiples, or it takes too many nodes.
    """
    return [_descent(neuron, neuron.function.strict, params, layer, sums=True)]


def sign_tracker(neuron: SignTracker, params: Params, layer: Layer) -> list[Piece]:
    """A neuron that receives a value at each step and sends its estimate.

    Args:
        neuron: The description.
        params: Its parameters with their present values.
        layer: The layer.

    Raises:
        Refused: If its function is no maximum of multiples, or it takes too many nodes.
    """
    return [_descent(neuron, neuron.strict, params, layer, sums=False)]


def _slopes(function: Function) -> tuple[float, ...]:
    """The multiples whose largest the function is."""
    constants = getattr(function.value, "keywords", {})
    slopes = {
        "relu": (1.0, 0.0),
        "leaky_relu": (1.0, constants.get("negative_slope", 0.01)),
        "abs": (1.0, -1.0),
        "identity": (1.0,),
    }
    # A function of the user's own may bear one of these names.
    value = getattr(function.value, "func", function.value)
    if function.name not in slopes or value is not FUNCTIONS[function.name].value:
        raise Refused(
            f"NIR has no {function.name} to compare an estimate with",
            'use relu, leaky_relu, abs or identity, or allow on_inexact="extension"',
        )
    if max(slopes[function.name]) > 1:
        raise Refused("a negative_slope above 1 makes it a minimum", "use a negative_slope up to 1")
    return slopes[function.name]


def _descent(
    neuron: SignGD | SignTracker, strict: bool, params: Params, layer: Layer, sums: bool
) -> Piece:
    """The clock, the comparisons and the moves, in the order in which a step runs them.

    Args:
        neuron: The description.
        strict: Whether the estimate moves down only from above, not from the target itself.
        params: Holds the scale.
        layer: The layer.
        sums: Whether inputs are increments that are summed, and outputs moves; if not, inputs
            are values and outputs estimates.
    """
    slopes = _slopes(neuron.function)
    scale = number("scale", params["scale"]).astype(np.float32)
    # The bit tells "above" if strict, else "below": both leave out the tie.
    sign = 1.0 if strict else -1.0
    w = Wiring()
    x = w.add("x", layer.integrator() if sums else layer.scale(1.0))
    nothing = w.add("nothing", layer.scale(0.0), x)
    one = w.add("one", layer.threshold(-0.5), nothing, "hush")
    windows = list(_windows(neuron.schedule, layer, w, one))
    beyond = []
    for i, slope in enumerate(slopes):
        multiple = w.add(f"multiple_{i}", layer.scale(-sign * np.float32(slope)), x)
        beyond.append(w.add(f"beyond_{i}", layer.threshold(0.0), multiple, "side"))
    bit = w.add("bit", layer.threshold(len(slopes) - 0.5 if strict else 0.5), *beyond)
    moves = []
    for now, size in windows:
        step = sign * scale * np.float32(size)
        both = w.add(f"{now}_bit", layer.threshold(1.5), bit, now)
        moves.append(w.add(f"{now}_default", layer.scale(step), now))
        moves.append(w.add(f"{now}_turn", layer.scale(-2 * step), both))
    move = w.add("move", layer.scale(1.0), *moves)
    estimate = w.add("estimate", layer.integrator(), move)
    w.add("side", layer.scale(sign), estimate)
    w.add("hush", layer.scale(0.0), estimate)
    for_ever = isinstance(neuron.schedule, Constant)
    note = "" if for_ever else f"rests after its {layer.steps} steps"
    outlet = move if sums else estimate
    return w.piece(x, outlet, note, "use fewer steps, or hold their size")


def _windows(schedule: Schedule, layer: Layer, w: Wiring, one: str) -> Iterator[tuple[str, float]]:
    """For each step size a node that is 1 while steps have it, and 0 before and after."""
    if isinstance(schedule, Constant):
        yield one, schedule.rate
        return
    if layer.steps is None:
        raise Refused("its step sizes change", "export it with a sample, whose steps are written")
    clock = w.add("clock", layer.integrator(), one)
    begin, opened = 1, one
    for size, steps in groupby(schedule.steps(layer.steps)):
        end = begin + len(list(steps))
        later = w.add(f"from_{end}", layer.threshold(end - 0.5), clock)
        over = w.add(f"over_{end}", layer.scale(-1.0), later)
        yield w.add(f"at_{begin}", layer.threshold(0.5), opened, over), size
        begin, opened = end, later
