"""Calibration: a model and some batches, and what its layers saw.

Recipes take batches in any usual form: one tensor, or an iterable of tensors, of tuples (the
model's positional arguments; a label behind them is left out) or of dicts (keyword arguments).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

__all__ = ["Batch", "batch_quantile", "batches"]


@dataclass(frozen=True)
class Batch:
    """The arguments of one call of a model."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def batches(
    model: nn.Module, data: Any, *, name: str = "calibration", progress: bool = True
) -> Iterator[Batch]:
    """The calls that calibration data stand for.

    Args:
        model: Whose forward they are for.
        data: A tensor, or an iterable of tensors, tuples, lists or dicts.
        name: How errors and the progress bar call the data.
        progress: Show a bar when there are many batches.

    Yields:
        One :class:`Batch` after another.

    Raises:
        TypeError: If a batch is none of these.
        ValueError: If there is no batch.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikeloom.calibrate import batches
        >>> pairs = [(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]))]
        >>> [len(batch.args) for batch in batches(nn.Linear(3, 2), pairs)]
        [1]
    """
    if isinstance(data, (Tensor, Mapping)):
        data = [data]
    if not isinstance(data, Iterable):
        raise TypeError(f"{name}: must be batches of tensors, tuples or dicts, got {data!r}")
    accepted = _positional(model)
    count = 0
    for item in tqdm(data, desc=name, leave=False, delay=2.0, disable=not progress):
        count += 1
        if isinstance(item, Tensor):
            yield Batch((item,), {})
        elif isinstance(item, Mapping):
            yield Batch((), dict(item))
        elif isinstance(item, (tuple, list)) and item:
            yield Batch(tuple(item[:accepted]), {})
        else:
            raise TypeError(
                f"{name}: a batch must be a tensor, a tuple or a dict, got {type(item).__name__}"
            )
    if not count:
        raise ValueError(f"{name}: holds no batch; give at least one")


def _positional(model: nn.Module) -> int | None:
    """How many positional arguments the model's forward takes; None for any number."""
    kinds = [p.kind for p in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return None
    return sum(
        kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for kind in kinds
    )


def batch_quantile(values: Tensor, q: float, axes: Sequence[int]) -> Tensor:
    """The magnitude that a share q of the values does not exceed, over some axes.

    Args:
        values: Any shape.
        q: In (0, 1]; 1 is the largest magnitude.
        axes: Which axes to look over; they have length 1 in the result.

    Raises:
        ValueError: If a value is NaN or infinite.

    Example:
        >>> import torch
        >>> from spikeloom.calibrate import batch_quantile
        >>> batch_quantile(torch.tensor([[1.0, -2.0], [-3.0, 0.5]]), 1.0, axes=[0])
        tensor([[3., 2.]])
    """
    if not bool(torch.isfinite(values).all()):
        raise ValueError("calibration: the model yields NaN or infinity on these batches")
    magnitude = values.detach().abs()
    if not axes or not values.numel():
        return magnitude
    if q == 1.0:
        return magnitude.amax(tuple(axes), keepdim=True)
    kept = [axis for axis in range(values.dim()) if axis not in axes]
    shape = [1 if axis in axes else length for axis, length in enumerate(values.shape)]
    rows = magnitude.permute(*axes, *kept).flatten(0, len(axes) - 1)
    return rows.kthvalue(max(1, math.ceil(q * len(rows))), dim=0).values.reshape(shape)
