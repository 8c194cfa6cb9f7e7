"""vmap: a batch is more neurons.

A mapped axis becomes the first axis of the neurons, and one call serves all samples. Where a
parameter that all neurons share differs between samples, or has one gradient a sample, the
samples are run one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Dims = Sequence[int | None]
# A gradient that did not arrive is None.
Tensors = Sequence[Tensor | None]
Results = tuple[Tensor, ...]
Mapped = tuple[Results, tuple[int, ...]]


def each_sample(size: int, dims: Dims, tensors: Tensors, one: Callable[..., Results]) -> Mapped:
    """Run the samples one by one and stack what they return."""

    def sample(i: int) -> list[Tensor | None]:
        pairs = zip(tensors, dims, strict=True)
        return [t if t is None or dim is None else t.select(dim, i) for t, dim in pairs]

    samples = [one(*sample(i)) for i in range(size)]
    results = tuple(torch.stack(parts) for parts in zip(*samples, strict=True))
    return results, (0,) * len(results)


def with_axis(tensor: Tensor, dim: int | None, axis: int, size: int) -> Tensor:
    """The mapped axis at this place; made by repetition, without a copy, if there is none."""
    if dim is not None:
        return tensor.movedim(dim, axis)
    shape = list(tensor.shape)
    return tensor.unsqueeze(axis).expand([*shape[:axis], size, *shape[axis:]])


def more_neurons(size: int, dims: Dims, tensors: Tensors, axes: Sequence[int | None]) -> list[Any]:
    """Every tensor with the mapped axis where it belongs: behind time, in front, or nowhere."""
    return [
        tensor if tensor is None or axis is None else with_axis(tensor, dim, axis, size)
        for tensor, dim, axis in zip(tensors, dims, axes, strict=True)
    ]
