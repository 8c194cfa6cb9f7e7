"""Up to which density of spikes a product by events is quicker than the dense one.

Found by a short measurement, once for each size in a process. What it finds may differ a little
from process to process, and so may the last digit of the results of a layer whose input is about
that dense. While ``torch.use_deterministic_algorithms`` is on, :data:`FIXED` is taken instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from spikeloom.kernel.events import pack, product, weight_gradient

__all__ = ["FEWEST", "break_even", "looked_at"]

# The density that is taken where nothing is to depend on a clock.
FIXED = 0.1
# Products below which calling anything but the dense one costs more than it can bring.
FEWEST = 1 << 23
# Rows of a measurement; it is repeated so often, or until so many seconds are over.
MOST_ROWS, ROUNDS, SECONDS = 2048, 4, 0.3
# What looking at the input may cost of the dense product, and what events have to gain.
LOOK, GAIN = 0.03, 0.05
# How many rows are looked at.
ROWS = 64
# Between these two the time is taken to be linear; beyond the second one nothing is promised.
DENSITIES = 0.05, 0.5


class Size(NamedTuple):
    """What the time of a product depends on.

    Attributes:
        rows: Of the input, rounded down to a power of two.
        inputs: Columns of the input.
        outputs: Columns of the output.
        dtype: Of all of them.
        learns: Whether the gradient of the weight is wanted too.
        threads: How many threads there are.
    """

    rows: int
    inputs: int
    outputs: int
    dtype: torch.dtype
    learns: bool
    threads: int


def break_even(x: Tensor, weight: Tensor, *, learns: bool) -> float:
    """The density up to which events are quicker; 0 if they never are.

    For products of less than :data:`FEWEST` nobody need ask.

    Args:
        x: The input, ``[rows, inputs]``.
        weight: The weight, ``[outputs, inputs]``.
        learns: Whether the weight's gradient will be wanted.
    """
    (rows, inputs), outputs = x.shape, weight.shape[0]
    if torch.are_deterministic_algorithms_enabled():
        return FIXED
    rows = 1 << (rows.bit_length() - 1)
    return _measured(Size(rows, inputs, outputs, x.dtype, learns, torch.get_num_threads()))


def looked_at(x: Tensor) -> Tensor:
    """Some rows, evenly spaced, that tell how dense the input is.

    Args:
        x: ``[rows, inputs]``.
    """
    return x[:: max(1, x.shape[0] // ROWS)]


@cache
def _measured(size: Size) -> float:
    """The break-even of this size on this machine."""
    rows = min(size.rows, MOST_ROWS)
    random = torch.Generator().manual_seed(0)  # a user's random numbers stay what they are

    def drawn(*shape: int) -> Tensor:
        return torch.rand(shape, generator=random, dtype=size.dtype)

    weight, gy = drawn(size.outputs, size.inputs), drawn(rows, size.outputs)
    sparse, denser = ((drawn(rows, size.inputs) < density).to(size.dtype) for density in DENSITIES)

    def dense() -> None:
        F.linear(sparse, weight)
        if size.learns:
            gy.t() @ sparse

    def events(x: Tensor) -> None:
        packed = pack(x)
        assert packed is not None
        spikes, _ = packed
        product(spikes, weight, None)
        if size.learns:
            weight_gradient(spikes, gy)

    with torch.no_grad():
        looking, whole, few, many = _seconds(
            lambda: pack(looked_at(sparse)),
            dense,
            lambda: events(sparse),
            lambda: events(denser),
            alone=size.threads == 1,
        )
    if looking * rows > LOOK * whole * size.rows:
        return 0.0
    each = max(many - few, 0.0) / (DENSITIES[1] - DENSITIES[0])
    left = whole * (1 - GAIN) - (few - each * DENSITIES[0])
    if left <= 0:
        return 0.0
    return min(DENSITIES[1], left / each) if each else DENSITIES[1]


def _seconds(*functions: Callable[[], object], alone: bool) -> list[float]:
    """The shortest time of each of several functions that take turns.

    Args:
        functions: What to call.
        alone: Whether they keep to this thread, so that others on the machine do not count.
    """
    clock = time.thread_time if alone else time.perf_counter
    found = [float("inf")] * len(functions)
    for function in functions:
        function()  # compiles
    begun = time.perf_counter()
    for _ in range(ROUNDS):
        for number, function in enumerate(functions):
            start = clock()
            function()
            found[number] = min(found[number], clock() - start)
        if time.perf_counter() - begun > SECONDS:
            break
    return found
