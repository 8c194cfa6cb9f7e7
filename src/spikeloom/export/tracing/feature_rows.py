"""Moved features as the rows on which a layer acts, the same at every step and in every sample.

A linear layer works along some axes and does the same along all others. Each place along those is
a row; which features of which sources make it up must not depend on time, nor on the sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.export.forms.layers import layer_key
from spikeloom.export.tracing.positions import Moved

__all__ = ["Rows", "Wire", "labels_after", "row_axes", "rows_of"]


@dataclass(frozen=True)
class Wire:
    """How one source reaches the rows on which a layer acts, at each step and in each sample.

    Attributes:
        source: The source's name.
        shape: How many rows there are, and how long they are.
        data: The source's feature for each entry, -1 where it has no share, as int64.
    """

    source: str
    shape: tuple[int, int]
    data: bytes

    @classmethod
    def of(cls, source: str, index: Tensor) -> Wire:
        """From an index of shape ``[rows, length]``."""
        return cls(source, (index.shape[0], index.shape[1]), index.numpy().tobytes())

    @property
    def index(self) -> Tensor:
        """The features, of shape ``[rows, length]``."""
        return torch.frombuffer(bytearray(self.data), dtype=torch.int64).reshape(self.shape)


def row_axes(module: nn.Module) -> tuple[int, ...] | None:
    """The axes that a linear layer works along; it does the same along all others.

    Args:
        module: The layer.

    Returns:
        Axes counted from the end, None for a layer that is not linear.
    """
    name = layer_key(module)
    if name == "Linear":
        return (-1,)
    if name not in ("Conv1d", "Conv2d", "AvgPool2d", "AdaptiveAvgPool2d"):
        return None
    spatial = 1 if name == "Conv1d" else 2
    # A kernel of one element mixes channels at each place by itself, whatever lies along the map.
    if name.startswith("Conv") and _is_pointwise(module):
        return (-1 - spatial,)
    return tuple(range(-1 - spatial, 0))


def _is_pointwise(conv: Any) -> bool:
    plain = (set(conv.kernel_size), set(conv.stride), conv.groups) == ({1}, {1}, 1)
    return plain and (conv.padding in ("same", "valid") or not any(conv.padding))


class _Mixed(Exception):
    """Rows that hold values of several steps or samples, or of none."""


@dataclass(frozen=True)
class Rows:
    """A layer's input as the rows it acts on, gathered for each step and sample.

    Attributes:
        wires: How each source reaches them.
        starts: The first step of each.
        numbers: For each row of the input ``(step * batch + sample) * rows + row``.
        steps: How many steps there are.
        problem: Why there are no such rows, empty if there are.
    """

    wires: tuple[Wire, ...]
    starts: tuple[tuple[str, int], ...]
    numbers: Tensor
    steps: int
    problem: str = ""


def rows_of(moved: Moved, axes: tuple[int, ...], batch: int) -> Rows:
    """A layer's input as rows, or why it cannot be seen so.

    Args:
        moved: What is known of the input.
        axes: The axes along which it works; empty for a layer that works on each element.
        batch: The batch size.
    """
    try:
        return _gathered(moved, axes, batch)
    except _Mixed as problem:
        starts = tuple((source, 0) for source in sorted(moved.sources))
        return Rows((), starts, torch.arange(0), 0, str(problem))


def _gathered(moved: Moved, axes: tuple[int, ...], batch: int) -> Rows:
    rows = [_rows(term.labels, axes) for term in moved.terms]
    moments, starts = [], []
    for term, labels in zip(moved.terms, rows, strict=True):
        when = _when(labels, term.size) if labels.numel() else labels
        if not when.numel():
            raise _Mixed("has no rows")
        first = int(when[when >= 0].min()) // batch
        starts.append((term.source, first))
        moments.append(torch.where(when < 0, when, when - first * batch))
    when = torch.stack(moments)
    last = when.amax(0)
    if not bool(((when == last) | (when < 0)).all()):
        raise _Mixed("mixes steps or samples")
    if bool((last < 0).any()):
        raise _Mixed("holds features that come from nowhere")
    order = last.argsort(stable=True)
    lead = int(last.max()) + 1
    count, rest = divmod(len(last), lead)
    regular = torch.arange(lead).repeat_interleave(count)
    if rest or lead % batch or not torch.equal(last[order], regular):
        raise _Mixed("does not hold every sample at consecutive steps")
    wires = []
    for term, labels in zip(moved.terms, rows, strict=True):
        index = torch.where(labels < 0, labels, labels % term.size)[order]
        index = index.unflatten(0, (lead, count))
        if not bool((index == index[0]).all()):
            raise _Mixed("holds other features in other steps or samples, which")
        wires.append(Wire.of(term.source, index[0].contiguous()))
    numbers = torch.empty_like(order)
    numbers[order] = torch.arange(len(order))
    return Rows(tuple(wires), tuple(starts), numbers, lead // batch)


def _rows(labels: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Labels as ``[rows, length]``."""
    if not axes:
        return labels.reshape(-1, 1)
    return labels.movedim(axes, tuple(range(-len(axes), 0))).flatten(-len(axes)).flatten(0, -2)


def _when(rows: Tensor, size: int) -> Tensor:
    """The moment that each row belongs to; -1 for an empty one.

    Raises:
        _Mixed: If there are several in one row.
    """
    moments = torch.where(rows < 0, rows, rows // size)
    latest = moments.amax(1)
    if not bool(((moments == latest[:, None]) | (moments < 0)).all()):
        raise _Mixed("mixes steps or samples")
    return latest


def labels_after(rows: Rows, start: int, y: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The labels of a layer's output, whose features are row after row.

    Args:
        rows: Its input.
        start: The step of its own that it begins with.
        y: The output.
        axes: The axes along which the layer works.
    """
    ends = tuple(range(-len(axes), 0))
    lengths = [y.shape[axis] for axis in axes]
    features = torch.arange(math.prod(lengths))
    labels = rows.numbers[:, None] * len(features) + features
    labels = labels + start * y.numel() // rows.steps
    moved = y.movedim(axes, ends) if axes else y
    labels = labels.reshape(moved.shape)
    return labels.movedim(ends, axes) if axes else labels
