"""Some of the calibration samples, spread over all of them, whatever order they come in.

Samples are often sorted by class, or classes take turns. So one is drawn from each of many equal
stretches: the first few would miss the last class, and every second one might miss half of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spikeloom.convert.signgd.portions import is_batched, length

__all__ = ["drawn", "halves", "have_same_numbers", "put_together", "spread"]


def spread(calls: Sequence[Sequence[Any]], count: int) -> list[Any]:
    """Flat inputs of some samples, spread over those of all calls.

    Args:
        calls: The flat inputs of each. A call whose values without a batch axis are not those of
            the first is left out.
        count: How many samples; all, if there are fewer.
    """
    calls = [call for call in calls if have_same_numbers(call, calls[0])]
    return put_together(drawn(calls, 0, sum(map(length, calls)), count))


def drawn(calls: Sequence[Sequence[Any]], before: int, total: int, count: int) -> list[list[Any]]:
    """Of each call the samples that are drawn of a larger whole.

    Args:
        calls: The flat inputs of each.
        before: How many samples of the whole come before theirs.
        total: How many there are in all.
        count: How many are drawn of all.
    """
    places = _places(total, count) - before
    parts = []
    for call in calls:
        size = length(call)
        parts.append(_taken(call, places[(places >= 0) & (places < size)]))
        places = places - size
    return parts


def put_together(parts: Sequence[Sequence[Any]]) -> list[Any]:
    """The samples of several flat inputs as one."""
    return [
        torch.cat(values) if is_batched(values[0]) else values[0]
        for values in zip(*parts, strict=True)
    ]


def halves(inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Flat inputs of either half of the samples: one drawn from each pair, and the other ones.

    Args:
        inputs: Tensors with the batch in front, and other values.
    """
    total = length(inputs)
    is_drawn = torch.zeros(total, dtype=torch.bool)
    is_drawn[_places(total, total // 2)] = True
    one, other = is_drawn.nonzero().flatten(), (~is_drawn).nonzero().flatten()
    return _taken(inputs, one), _taken(inputs, other)


def _places(total: int, count: int) -> Tensor:
    """One of each of ``count`` stretches of ``range(total)``, the same ones at every call."""
    count = min(count, total)
    edges = torch.arange(count + 1) * total // count
    within = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return edges[:-1] + (within * edges.diff()).long()


def _taken(inputs: Sequence[Any], places: Tensor) -> list[Any]:
    return [x[places.to(x.device)] if is_batched(x) else x for x in inputs]


def have_same_numbers(call: Sequence[Any], first: Sequence[Any]) -> bool:
    """Whether the values without a batch axis are those of the first call."""
    pairs = zip(call, first, strict=True)
    return all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor) and not a.dim())
