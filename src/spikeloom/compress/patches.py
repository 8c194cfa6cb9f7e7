"""What a convolution's weights are multiplied with: its input's patch at each output position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from spikeloom.rows import Transposed, WeightLayer, is_transposed

__all__ = ["patches"]


def patches(layer: WeightLayer, images: Tensor) -> Tensor:
    """The patches under a convolution's kernel, transposed or not.

    Args:
        layer: The convolution.
        images: Shape ``[n, C, *space]``.

    Returns:
        Shape ``[n, C * kernel, positions]``, in the order of the weights of a row.
    """
    if is_transposed(layer):
        return _scattered(layer, images)
    convolution: Any = layer
    padding = _padding(convolution)
    if any(padding):
        mode = "constant" if convolution.padding_mode == "zeros" else convolution.padding_mode
        images = F.pad(images, padding, mode=mode)
    found = _windows(images, convolution.kernel_size, convolution.stride, convolution.dilation)
    return _flat(found)


def _padding(layer: Any) -> list[int]:
    """A convolution's padding as ``F.pad`` takes it, the last axis first."""
    padding: list[int] = []
    for axis, size in enumerate(layer.kernel_size):
        if layer.padding == "same":
            total = layer.dilation[axis] * (size - 1)
            before, after = total // 2, total - total // 2
        else:
            before = after = 0 if layer.padding == "valid" else int(layer.padding[axis])
        padding = [before, after, *padding]
    return padding


def _scattered(layer: Transposed, images: Tensor) -> Tensor:
    """The patches of a transposed convolution.

    It is a convolution by the reversed kernel of its input with ``stride - 1`` zeros between
    neighbours.
    """
    sizes, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    space = images.shape[2:]
    spread = images.new_zeros(
        *images.shape[:2],
        *((size - 1) * step + 1 for size, step in zip(space, stride, strict=True)),
    )
    places: tuple[Any, ...] = tuple(slice(None, None, step) for step in stride)
    spread[(..., *places)] = images
    padding: list[int] = []
    for axis, size in enumerate(sizes):
        border = dilation[axis] * (size - 1) - int(layer.padding[axis])
        padding = [border, border + int(layer.output_padding[axis]), *padding]
    found = _windows(F.pad(spread, padding), sizes, (1,) * len(sizes), dilation)
    return _flat(found.flip(tuple(range(2, 2 + len(sizes)))))


def _windows(
    images: Tensor, sizes: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """A view ``[n, C, *kernel, *positions]`` of images ``[n, C, *space]``."""
    space = images.shape[2:]
    axes = zip(space, sizes, stride, dilation, strict=True)
    positions = [(have - wide * (size - 1) - 1) // step + 1 for have, size, step, wide in axes]
    steps = images.stride()
    taps = [step * wide for step, wide in zip(steps[2:], dilation, strict=True)]
    moves = [step * by for step, by in zip(steps[2:], stride, strict=True)]
    shape = (*images.shape[:2], *sizes, *positions)
    return images.as_strided(shape, (*steps[:2], *taps, *moves))


def _flat(windows: Tensor) -> Tensor:
    axes = (windows.dim() - 2) // 2
    return windows.flatten(2 + axes).flatten(1, 1 + axes)
