"""Memory layout: a sequence as rows of neurons, without a copy wherever that is possible.

A kernel sees an input as T rows of N values, each row dense. Any order of the axes behind the
time axis will do (channels_last, say), as long as all tensors of one call share it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Order = tuple[int, ...]

# What the emitters call the dtype of a stored sequence.
DTYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}


def row_order(x: Tensor) -> Order:
    """The axes behind time, from the slowest in memory to the fastest.

    A tensor whose rows are dense in no order is taken in its own order.
    """
    axes = tuple(range(x.dim() - 1))
    if x.is_contiguous():
        return axes
    order = tuple(sorted(axes, key=lambda axis: -x.stride(axis + 1)))
    return order if _dense(_ordered(x, order)) else axes


def rows(x: Tensor, order: Order) -> Tensor:
    """A sequence ``[T, ...]`` with its axes in this order and dense rows, copied only if needed."""
    x = _ordered(x, order)
    return x if x.numel() == 0 or _dense(x) else x.contiguous()


def row(v: Tensor, order: Order) -> Tensor:
    """One value a neuron, in this order and dense, copied only if needed."""
    return (v if _is_natural(order) else v.permute(order)).contiguous()


def empty_rows(shape: Sequence[int], order: Order, like: Tensor) -> Tensor:
    """A fresh sequence ``[T, ...]`` whose memory follows this order; its shape is as given."""
    if _is_natural(order):
        return like.new_empty(shape)
    stored = like.new_empty([shape[0], *(shape[axis + 1] for axis in order)])
    return _ordered(stored, _inverse(order))


def empty_row(shape: Sequence[int], order: Order, like: Tensor) -> Tensor:
    """A fresh value a neuron whose memory follows this order."""
    if _is_natural(order):
        return like.new_empty(shape)
    return like.new_empty([shape[axis] for axis in order]).permute(_inverse(order))


def _is_natural(order: Order) -> bool:
    return order == tuple(range(len(order)))


def _inverse(order: Order) -> Order:
    return tuple(sorted(range(len(order)), key=lambda i: order[i]))


def _ordered(x: Tensor, order: Order) -> Tensor:
    return x if _is_natural(order) else x.permute(0, *(axis + 1 for axis in order))


def _dense(x: Tensor) -> bool:
    expected = 1
    for axis in range(x.dim() - 1, 0, -1):
        if x.shape[axis] != 1 and x.stride(axis) != expected:
            return False
        expected *= x.shape[axis]
    return True
