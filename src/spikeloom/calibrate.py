"""Calibration: a model and some batches, and what its layers saw.

Whoever takes batches takes them in any usual form, by one rule: :func:`arguments_of`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

__all__ = ["Batch", "arguments_of", "batch_quantile", "batches", "each_batch"]


@dataclass(frozen=True)
class Batch:
    """The arguments of one call of a model."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def batches(
    model: nn.Module,
    data: Any,
    *,
    name: str = "calibration",
    progress: bool = True,
    required: bool = True,
) -> Iterator[Batch]:
    """The calls that calibration data stand for.

    Args:
        model: Whose forward they are for.
        data: A tensor, or an iterable of tensors, tuples, lists or dicts.
        name: How errors and the progress bar call the data.
        progress: Show a bar when there are many batches.
        required: Refuse data without a batch.

    Yields:
        One :class:`Batch` after another.

    Raises:
        TypeError: As :func:`each_batch` and :func:`arguments_of`.
        ValueError: As :func:`each_batch` and :func:`arguments_of`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikeloom.calibrate import batches
        >>> pairs = [(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]))]
        >>> [len(batch.args) for batch in batches(nn.Linear(3, 2), pairs)]
        [1]
    """
    for item in each_batch(data, name=name, progress=progress, required=required):
        yield arguments_of(model, item, name=name)


def each_batch(
    data: Any, *, name: str = "calibration", progress: bool = True, required: bool = True
) -> Iterator[Any]:
    """The batches that data hold, as they are.

    Args:
        data: One tensor, dict or :class:`Batch`; or an iterable of batches, such as a list or a
            DataLoader.
        name: How errors and the progress bar call the data.
        progress: Show a bar when there are many batches.
        required: Refuse data without a batch; one of several processes may have none.

    Yields:
        One batch after another.

    Raises:
        TypeError: If data are neither.
        ValueError: If there is no batch, and one is required.
    """
    if isinstance(data, (Tensor, Mapping, Batch)):
        data = [data]
    if not isinstance(data, Iterable):
        raise TypeError(
            f"{name}: must be a tensor, or a list or DataLoader of batches, got {data!r}"
        )
    count = 0
    for item in tqdm(data, desc=name, leave=False, delay=2.0, disable=not progress):
        count += 1
        yield item
    if required and not count:
        raise ValueError(
            f"{name}: holds no batch; give at least one, and a list instead of a generator that "
            f"was read before"
        )


def arguments_of(model: nn.Module, batch: Any, *, name: str = "calibration") -> Batch:
    """The arguments that a batch stands for.

    A tensor is the only argument. A dict gives arguments by name. A tuple or list gives, in order,
    the arguments that the model's ``forward`` has no defaults for; whatever follows them, such as
    labels, is left out. So an argument with a default is given by name, in a dict, and a model
    whose arguments all have defaults, as those of transformers, takes no tuple of several values.

    Args:
        model: Whose forward they are for.
        batch: A tensor, tuple, list, dict, or :class:`Batch`, which is taken as it is.
        name: How errors call the data.

    Raises:
        TypeError: If the batch is none of these, or has fewer or more values than ``forward`` can
            be seen to need.
        ValueError: If it has an empty tensor, or an input without an axis for the batch.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikeloom.calibrate import arguments_of
        >>> class Scaled(nn.Module):
        ...     def forward(self, x, gain=None):
        ...         return x if gain is None else gain * x
        >>> x, labels = torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])
        >>> len(arguments_of(Scaled(), (x, labels)).args)
        1
        >>> list(arguments_of(Scaled(), {"x": x, "gain": torch.ones(3)}).kwargs)
        ['x', 'gain']
    """
    if isinstance(batch, Batch):
        call = batch
    elif isinstance(batch, Mapping):
        call = Batch((), dict(batch))
    elif isinstance(batch, Tensor):
        call = Batch(_required(model, (batch,), name), {})
    elif isinstance(batch, (tuple, list)) and batch:
        call = Batch(_required(model, tuple(batch), name), {})
    else:
        found = repr(batch) if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(f"{name}: a batch must be a tensor, a tuple or a dict, got {found}")
    _check_tensors(call, name)
    return call


def _required(model: nn.Module, values: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    """The first values: as many as the model's forward has no defaults for, but at least one."""
    parameters = inspect.signature(model.forward).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in named if p.default is p.empty]
    taken = max(1, len(required))
    if len(values) < len(required):
        raise TypeError(
            f"{name}: {type(model).__name__} needs the arguments {', '.join(required)}, a batch "
            f"has {len(values)}; give tuples of {len(required)}, or dicts"
        )
    is_open = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(values) > taken and (is_open or (not required and len(named) > 1)):
        raise TypeError(
            f"{name}: a batch has {len(values)} values, and {type(model).__name__}.forward does "
            f"not say how many of them it needs; give tensors, dicts of arguments by name, or "
            f"spikeloom.calibrate.Batch(args, kwargs)"
        )
    return values[:taken]


def _check_tensors(call: Batch, name: str) -> None:
    for leaf in tree_leaves((call.args, call.kwargs)):
        if isinstance(leaf, Tensor) and not leaf.numel():
            raise ValueError(
                f"{name}: a batch holds no sample, its shape is {tuple(leaf.shape)}; leave it out"
            )
    first = call.args[0] if call.args else None
    if isinstance(first, Tensor) and first.dim() < (2 if first.is_floating_point() else 1):
        raise ValueError(
            f"{name}: a batch must have an axis for its samples in front, got shape "
            f"{tuple(first.shape)}; one sample is x[None], inputs with labels are [(x, labels)]"
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
    # In decimals: 0.07 of 100 values are 7, not the 8 that binary rounding makes of them.
    rank = max(1, math.ceil(len(rows) * Fraction(repr(float(q)))))
    return rows.kthvalue(rank, dim=0).values.reshape(shape)
