"""Up to which density of spikes a product by events is quicker than the dense one.

Found by a short measurement, once for each size in a process. What it finds may differ a little
from process to process, and so may the last digit of the results of a layer whose input is about
that dense. While ``torch.use_deterministic_algorithms`` is on, :data:`FIXED` is taken instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from spikeloom.kernel.events import pack
from spikeloom.nn.operation import Operation

__all__ = ["FEWEST", "Size", "break_even", "is_hopeless", "looked_at", "size_of"]

# The density that is taken where nothing is to depend on a clock.
FIXED = 0.1
# Products below which calling anything but the dense one costs more than it can bring.
FEWEST = 1 << 24
# Products of a measurement and numbers of each of its tensors; a larger one is shrunk.
MOST, LARGEST = 1 << 30, 1 << 23
# A measurement is repeated so often, or until so many seconds are over.
ROUNDS, SECONDS = 16, 0.3
# What events have to gain: a share of the dense product, and the time of so many looks at the
# input, since an input that turns out to be no spikes, or too many, is looked at in vain.
GAIN, LOOKS = 0.05, 5
# How often each weight must be used; less often, laying it out costs more than the dense product.
USES = 8
# How many sizes are remembered.
SIZES = 1 << 12
# How many rows are looked at.
ROWS = 64
# Between these two the time is taken to be linear; beyond the second one nothing is promised.
DENSITIES = 0.05, 0.5


class Size(NamedTuple):
    """What the time of a product depends on.

    Attributes:
        operation: The product.
        rows: Of the input, rounded down to a power of two.
        row: The rest of the input's shape.
        weight: The weight's shape.
        dtype: Of all of them.
        learns: Whether the gradient of the weight is wanted too.
        threads: How many threads there are.
    """

    operation: Operation
    rows: int
    row: tuple[int, ...]
    weight: torch.Size
    dtype: torch.dtype
    learns: bool
    threads: int


def size_of(operation: Operation, x: Tensor, weight: Tensor, *, learns: bool) -> Size:
    """The size of a product, much like others.

    Args:
        operation: The product.
        x: Its input.
        weight: The weight.
        learns: Whether the weight's gradient will be wanted.
    """
    row = tuple(x.shape[-1:] if weight.dim() == 2 else x.shape[1:])
    rows = x.numel() // torch.Size(row).numel()
    rows = 1 << (rows.bit_length() - 1)
    threads = torch.get_num_threads()
    return Size(operation, rows, row, weight.shape, x.dtype, learns, threads)


def break_even(size: Size) -> float:
    """The density up to which events are quicker; 0 if they never are.

    For products of less than :data:`FEWEST` no measurement is needed.

    Args:
        size: The size of the product.
    """
    return FIXED if torch.are_deterministic_algorithms_enabled() else _measured(size)


def looked_at(lines: Tensor) -> Tensor:
    """Some rows, evenly spaced, that tell how dense the input is.

    Args:
        lines: ``[rows, inputs]``.
    """
    return lines[:: max(1, lines.shape[0] // ROWS)]


# The break-evens of sizes that were met, the oldest first.
_found: dict[Size, float] = {}


def is_hopeless(size: Size) -> bool:
    """Whether it is known already that events are never quicker.

    Args:
        size: The size of the product.
    """
    return _found.get(size) == 0.0 and not torch.are_deterministic_algorithms_enabled()


def _measured(size: Size) -> float:
    """The break-even of this size on this machine."""
    found = _found.get(size)
    if found is None:
        worth = _products(size) >= USES * size.weight.numel()
        found = _found[size] = _between(*_times(size)) if worth else 0.0
        for oldest in list(_found)[:-SIZES]:
            _found.pop(oldest, None)
    return found


def _products(size: Size) -> int:
    return size.operation.products(torch.Size((size.rows, *size.row)), size.weight)


def _shrunk(size: Size) -> Size:
    """A size with fewer outputs and rows, whose times are in proportion, that is quick to measure.

    Args:
        size: Any size.
    """
    inputs = size.weight[1:].numel()
    outputs = min(size.weight[0], max(1, LARGEST // inputs))
    size = size._replace(weight=torch.Size((outputs, *size.weight[1:])))
    products = _products(size._replace(rows=1))
    numbers = max(torch.Size(size.row).numel(), products // inputs)
    return size._replace(rows=max(1, min(size.rows, MOST // products, LARGEST // numbers)))


def _times(size: Size) -> tuple[float, float, float, float]:
    """Seconds of a look at the input, of the dense product, and of events at each density.

    The look takes the same time however many rows there are; it is given in proportion.
    """
    whole, size = _products(size), _shrunk(size)
    operation, rows = size.operation, size.rows
    random = torch.Generator("cpu").manual_seed(0)  # a user's random numbers stay what they are

    def drawn(*shape: int) -> Tensor:
        return torch.rand(shape, generator=random, dtype=size.dtype, device="cpu")

    weight = drawn(*size.weight)
    few, many = ((drawn(rows, *size.row) < density).to(size.dtype) for density in DENSITIES)
    gy = torch.ones_like(operation.dense(few, weight, None))

    def dense() -> None:
        operation.dense(few, weight, None)
        if size.learns:
            operation.dense_weight_gradient(few, gy, weight.shape)

    def events(x: Tensor) -> None:
        packed = operation.packed(x)
        assert packed is not None
        operation.product(packed[0], x.shape, weight, None)
        if size.learns:
            operation.weight_gradient(packed[0], x.shape, gy, weight.shape)

    def look() -> None:
        pack(looked_at(operation.lines(few)))

    candidates = look, dense, lambda: events(few), lambda: events(many)
    with torch.no_grad():
        looking, *others = _seconds(*candidates, alone=size.threads == 1)
    usual, at_few, at_many = others
    return looking * _products(size) / whole, usual, at_few, at_many


def _between(looking: float, usual: float, few: float, many: float) -> float:
    """The density at which events gain just enough on the dense product."""
    each = max(many - few, 0.0) / (DENSITIES[1] - DENSITIES[0])
    left = usual * (1 - GAIN) - looking * LOOKS - (few - each * DENSITIES[0])
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
