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

from spikeloom.export.forms.node_groups import Layer, Piece, Wiring
from spikeloom.export.refuse import Refused
from spikeloom.neurons.forms import Descent
from spikeloom.neurons.schedules import Constant, Schedule

__all__ = ["descent"]


def descent(form: Descent, layer: Layer) -> list[Piece]:
    """The clock, the comparisons and the moves, in the order in which a step runs them.

    Args:
        form: The neuron.
        layer: The layer.

    Raises:
        Refused: If it takes too many nodes, or its step sizes change and the steps are unknown.
    """
    slopes, scale = form.slopes, form.scale.astype(np.float32)
    # The bit tells "above" if strict, else "below": both leave out the tie.
    sign = 1.0 if form.strict else -1.0
    w = Wiring()
    x = w.add("x", layer.integrator() if form.sums else layer.scale(1.0))
    nothing = w.add("nothing", layer.scale(0.0), x)
    one = w.add("one", layer.threshold(-0.5), nothing, "hush")
    windows = list(_windows(form.schedule, layer, w, one))
    beyond = []
    for i, slope in enumerate(slopes):
        multiple = w.add(f"multiple_{i}", layer.scale(-sign * np.float32(slope)), x)
        beyond.append(w.add(f"beyond_{i}", layer.threshold(0.0), multiple, "side"))
    bit = w.add("bit", layer.threshold(len(slopes) - 0.5 if form.strict else 0.5), *beyond)
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
    note = "" if isinstance(form.schedule, Constant) else f"rests after its {layer.steps} steps"
    outlet = move if form.sums else estimate
    return [w.piece(x, outlet, note, "use fewer steps, or hold their size")]


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
