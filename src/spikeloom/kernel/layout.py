"""Memory layout: a sequence as rows of neurons, without a copy wherever that is possible.

A kernel sees an input as T rows of N values, each row dense. Any order of the axes behind the
time axis will do (channels_last, say), as long as all tensors of one call share it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def row_order(x: Tensor) -> tuple[int, ...]:
    """The axes behind time, from the slowest in memory to the fastest.

    A tensor whose rows are dense in no order is taken in its own order.
    """
    axes = tuple(range(x.dim() - 1))
    order = tuple(sorted(axes, key=lambda axis: -x.stride(axis + 1)))
    return order if _dense(x.permute(0, *(axis + 1 for axis in order))) else axes


def rows(x: Tensor, order: Sequence[int]) -> Tensor:
    """A sequence ``[T, ...]`` with its axes in this order and dense rows, copied only if needed."""
    x = x.permute(0, *(axis + 1 for axis in order))
    if x.numel() == 0 or _dense(x):
        return x
    return x.contiguous()


def _dense(x: Tensor) -> bool:
    expected = 1
    for axis in range(x.dim() - 1, 0, -1):
        if x.shape[axis] != 1 and x.stride(axis) != expected:
            return False
        expected *= x.shape[axis]
    return True


def row(v: Tensor, order: Sequence[int]) -> Tensor:
    """One value a neuron, in this order and dense, copied only if needed."""
    return v.permute(*order).contiguous()


def empty_rows(shape: Sequence[int], order: Sequence[int], like: Tensor) -> Tensor:
    """A fresh sequence ``[T, ...]`` whose memory follows this order; its shape is as given."""
    stored = like.new_empty([shape[0], *(shape[axis + 1] for axis in order)])
    back = sorted(range(len(order)), key=lambda i: order[i])
    return stored.permute(0, *(axis + 1 for axis in back))


def empty_row(shape: Sequence[int], order: Sequence[int], like: Tensor) -> Tensor:
    """A fresh value a neuron whose memory follows this order."""
    stored = like.new_empty([shape[axis] for axis in order])
    return stored.permute(*sorted(range(len(order)), key=lambda i: order[i]))
