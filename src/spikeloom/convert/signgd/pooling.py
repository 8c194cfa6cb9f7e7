"""Max-pooling as maxima of shifted inputs, first along one axis, then along the next.

The published conversion takes it apart this way. On a CPU it is also several times as fast as
torch's own operator, which visits each window by itself and notes where the maximum was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spikeloom.observe.dialects import overload_of

__all__ = [
    "MAX_POOLS",
    "AxisWindow",
    "adaptive_max_pool",
    "max_pool",
    "maxima",
    "windows_of",
]

# How many of the last axes each pools.
MAX_POOLS = {"max_pool1d": 1, "max_pool2d": 2, "max_pool3d": 3}


class AxisWindow:
    """The windows of a pooling along one axis.

    Args:
        size: How long the axis is.
        kernel: Elements of a window.
        stride: From one window to the next.
        padding: Elements outside, at both ends.
        dilation: From one element of a window to the next.
        ceil_mode: Whether a last window may reach beyond the end.

    Attributes:
        before: Elements to add in front,
        after: and behind, so that all windows are full.
        shifts: Where the first window's elements are.
        size: How long the axis is.
        stride: From one window to the next.
        count: How many windows there are.
    """

    def __init__(
        self, size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
    ) -> None:
        span = dilation * (kernel - 1) + 1
        places = (size + 2 * padding - span) / stride
        self.count = (math.ceil(places) if ceil_mode else math.floor(places)) + 1
        if ceil_mode and (self.count - 1) * stride >= size + padding:
            self.count -= 1  # a window has to begin inside
        self.size, self.stride, self.shifts = size, stride, range(0, span, dilation)
        self.before = padding
        self.after = max(0, (self.count - 1) * stride + span - size - padding)

    @property
    def is_padded(self) -> bool:
        """Whether anything is added outside."""
        return bool(self.before or self.after)

    def parts(self, x: Any, axis: int) -> list[Any]:
        """For each element of a window, that element of all windows."""
        reach = self.stride * (self.count - 1) + 1
        return [
            overload_of("slice", "Tensor")(x, axis, shift, shift + reach, self.stride)
            for shift in self.shifts
        ]


def windows_of(
    sizes: Sequence[int],
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> list[AxisWindow]:
    """The windows along each of the last axes, of these sizes; otherwise torch's arguments."""
    stride = kernel if stride in ((), [], None) else stride
    settings = [_each(value, len(sizes)) for value in (kernel, stride, padding, dilation)]
    return [
        AxisWindow(size, length, step, around, apart, ceil_mode)
        for size, length, step, around, apart in zip(sizes, *settings, strict=True)
    ]


def _each(value: Any, count: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


def maxima(x: Any, windows: Sequence[AxisWindow], outside: float = -math.inf) -> Any:
    """The largest element of every window.

    Args:
        x: A tensor whose last axes are pooled, or what stands for one in a graph.
        windows: Along each of them.
        outside: What stands beyond the ends.
    """
    for axis, window in enumerate(windows, start=-len(windows)):
        if window.is_padded:
            # One axis at a time: no row or column lies outside as a whole.
            inner = [0, 0] * (-1 - axis)
            x = F.pad(x, [*inner, window.before, window.after], value=outside)
        first, *others = _from_the_middle(window.parts(x, axis))
        x = first
        for part in others:
            x = torch.maximum(x, part)
    return x


def _from_the_middle(parts: list[Any]) -> list[Any]:
    """The elements of a window, those at its ends last: of the first two, one lies inside."""
    middle = (len(parts) - 1) / 2
    return [part for _, part in sorted(enumerate(parts), key=lambda pair: abs(pair[0] - middle))]


def max_pool(axes: int, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``max_pool1d``, ``2d`` or ``3d``, with any axes in front.

    Args:
        axes: How many of the last axes are pooled.
        x: ``[*, *pooled]``.
        args: torch's further arguments.
        kwargs: Likewise.

    Example:
        >>> import torch
        >>> from spikeloom.convert.signgd.pooling import max_pool
        >>> max_pool(1, torch.tensor([1.0, 4.0, 2.0, 3.0]), 2)
        tensor([4., 3.])
    """
    return maxima(x, windows_of(x.shape[-axes:], *args, **kwargs))


def adaptive_max_pool(x: Tensor, counts: Sequence[int]) -> Tensor:
    """The largest element of each of so many windows, which share an axis as evenly as they can.

    Args:
        x: ``[*, *pooled]``.
        counts: How many windows each of the last axes has.

    Example:
        >>> import torch
        >>> from spikeloom.convert.signgd.pooling import adaptive_max_pool
        >>> adaptive_max_pool(torch.tensor([1.0, 4.0, 2.0, 3.0, 0.0]), [2])
        tensor([4., 3.])
    """
    for axis, windows in enumerate(counts, start=-len(counts)):
        size = x.shape[axis]
        edges = [(i * size // windows, -(-(i + 1) * size // windows)) for i in range(windows)]
        x = torch.stack([x.narrow(axis, a, b - a).amax(axis) for a, b in edges], axis)
    return x
