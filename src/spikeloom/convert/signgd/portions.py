"""A batch in portions, so that what all their steps need stays in memory that is used again.

Running all steps of a layer at once makes its values T times as large. Beyond some size the
allocator returns such memory to the system, which clears it anew for every operator. A large batch
is therefore run in portions, one after another, if its samples do not see each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from spikeloom.convert.signgd.operators import Plan

__all__ = [
    "are_independent",
    "have_one_length",
    "head",
    "is_batched",
    "joined",
    "length",
    "portion_size",
    "portions",
]

# Bytes of a portion's largest value, over all steps; chosen by measurement.
LARGEST = 1 << 23


def portion_size(graph: fx.Graph, plan: Plan, steps: int) -> int:
    """How many samples to run at once, with all their steps.

    Args:
        graph: As captured, with an outline of each value.
        plan: Which values change with time.
        steps: T.
    """
    values = [node.meta["val"] for node in graph.nodes if node.name in plan.timed]
    most = max((v.nbytes // len(v) for v in values if isinstance(v, Tensor) and len(v)), default=1)
    return max(1, LARGEST // (steps * most))


def portions(inputs: Sequence[Any], size: int | None) -> list[list[Any]]:
    """Flat inputs, cut along the batch into parts that are about equal.

    On a GPU, and in a graph that is compiled for any batch, there is one part.

    Args:
        inputs: Tensors with the batch in front, and other values.
        size: How many samples a part may have; None leaves the batch whole.
    """
    if torch.compiler.is_compiling():
        return [list(inputs)]
    lengths = _lengths(inputs)
    if size is None or len(lengths) != 1 or any(value.is_cuda for value in _tensors(inputs)):
        return [list(inputs)]
    (length,) = lengths
    return _cut(inputs, max(1, -(-length // size)))


def _cut(inputs: Sequence[Any], count: int) -> list[list[Any]]:
    cut = [value.tensor_split(count) if is_batched(value) else None for value in inputs]
    return [
        [value if parts is None else parts[i] for value, parts in zip(inputs, cut, strict=True)]
        for i in range(count)
    ]


def head(inputs: Sequence[Any], count: int) -> list[Any]:
    """Flat inputs, of their first samples.

    Args:
        inputs: Tensors with the batch in front, and other values.
        count: How many samples; all, if there are fewer.
    """
    return [value[:count] if is_batched(value) else value for value in inputs]


def length(inputs: Sequence[Any]) -> int:
    """How many samples flat inputs hold; 1 if no tensor tells."""
    return next((len(value) for value in inputs if is_batched(value)), 1)


def have_one_length(calls: Sequence[Sequence[Any]]) -> bool:
    """Whether the tensors of each call have equally many samples.

    Args:
        calls: The flat inputs of each.
    """
    return all(len(_lengths(call)) == 1 for call in calls)


def joined(parts: Sequence[Any]) -> Any:
    """One output of all portions."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def are_independent(
    run: Callable[[list[Any]], list[Any]], inputs: Sequence[Any], outputs: Sequence[Any]
) -> bool:
    """Whether samples come out the same when the others are not there; False if it is unknown.

    Args:
        run: The plain network, on flat inputs.
        inputs: Calibration data.
        outputs: What ``run`` made of them.
    """
    lengths = _lengths(inputs)
    if len(lengths) != 1 or min(lengths) < 2:
        return False
    if not all(is_batched(value) and {len(value)} == lengths for value in outputs):
        return False
    halves = [run(part) for part in _cut(inputs, 2)]
    return all(
        _is_close(joined(parts), whole)
        for parts, whole in zip(zip(*halves, strict=True), outputs, strict=True)
    )


def _lengths(values: Sequence[Any]) -> set[int]:
    return {len(value) for value in values if is_batched(value)}


def _is_close(found: Tensor, expected: Tensor) -> bool:
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    tolerance = torch.finfo(expected.dtype).eps ** 0.5 * float(expected.abs().max())
    return bool(((found - expected).abs() <= tolerance).all())


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor)]


def is_batched(value: Any) -> bool:
    """Whether a flat input or output has the batch in front."""
    return isinstance(value, Tensor) and value.dim() > 0
