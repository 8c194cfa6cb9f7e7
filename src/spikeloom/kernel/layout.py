"""Memory layout: a sequence as rows of neurons, without a copy where possible.

A kernel sees an input as T rows of N values, each row dense. Any order of the axes behind the
time axis will do (channels_last, say), as long as all tensors of one call share it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spikeloom.kernel.huge_pages import advise_huge_pages

# The axes behind time, from the slowest in memory to the fastest; empty if that is their own order.
Order = tuple[int, ...]

# What the emitters call the dtype of a stored sequence.
DTYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}


def row_order(x: Tensor) -> Order:
    """The order of the axes behind time in memory.

    A tensor whose rows are dense in no order is taken in its own order.
    """
    if x.is_contiguous():
        return ()
    axes = tuple(range(x.dim() - 1))
    order = tuple(sorted(axes, key=lambda axis: -x.stride(axis + 1)))
    return order if order != axes and _dense(ordered(x, order)) else ()


def rows(x: Tensor, order: Order) -> Tensor:
    """A sequence ``[T, ...]`` with its axes in this order and dense rows, copied only if needed.

    Of a sequence that repeats one row, as the gradient of a sum does, only that row is copied.
    """
    x = ordered(x, order)
    if is_dense(x):
        return x
    return _copy(x) if x.stride(0) else _copy(x[:1]).expand_as(x)


def is_dense(x: Tensor) -> bool:
    """Whether the rows of a sequence are dense, in the axes' own order."""
    return x.is_contiguous() or _dense(x)


def places(x: Tensor) -> Tensor:
    """Where in a row of a sequence each neuron's value is, int32."""
    found = torch.zeros((), dtype=torch.int32)
    for size, stride in zip(x.shape[1:], x.stride()[1:], strict=True):
        found = found[..., None] + torch.arange(size, dtype=torch.int32) * stride
    return found


def row(v: Tensor, order: Order) -> Tensor:
    """One value a neuron, in this order and dense, copied only if needed."""
    return (v.permute(order) if order else v).contiguous()


def unrow(values: Tensor, like: Tensor, order: Order) -> Tensor:
    """Dense values in this order, one a neuron, in the axes' own order, as a view."""
    return (
        values.view(like.permute(order).shape).permute(_inverse(order))
        if order
        else values.view(like.shape)
    )


def empty_rows(like: Tensor, order: Order) -> Tensor:
    """A fresh sequence of the same shape whose memory follows this order."""
    return ordered(empty(ordered(like, order)), _inverse(order)) if order else empty(like)


def empty_row(like: Tensor, order: Order) -> Tensor:
    """A fresh value a neuron, of the same shape, whose memory follows this order."""
    return empty(like.permute(order)).permute(_inverse(order)) if order else empty(like)


def empty(like: Tensor) -> Tensor:
    """A fresh contiguous tensor of the same shape."""
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _copy(x: Tensor) -> Tensor:
    """A contiguous copy; on a CPU, touching ordinary pages would take longer than the kernel."""
    copy = empty(x)
    if copy.is_cpu:
        advise_huge_pages([copy])
    return copy.copy_(x)


def _inverse(order: Order) -> Order:
    return tuple(sorted(range(len(order)), key=lambda i: order[i]))


def ordered(x: Tensor, order: Order) -> Tensor:
    """A sequence ``[T, ...]`` with its axes in this order, as a view."""
    return x.permute(0, *(axis + 1 for axis in order)) if order else x


def _dense(x: Tensor) -> bool:
    expected = 1
    for axis in range(x.dim() - 1, 0, -1):
        if x.shape[axis] != 1 and x.stride(axis) != expected:
            return False
        expected *= x.shape[axis]
    return True
