"""Some of the calibration samples, spread over all of them, whatever order they come in.

Samples are often sorted by class, or classes take turns. So one is drawn from each of many equal
stretches: the first few would miss the last class, and every second one might miss half of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from spikeloom.convert.signgd.portions import is_batched, length

__all__ = ["halves", "spread"]


def spread(calls: Sequence[Sequence[Any]], count: int) -> list[Any]:
    """Flat inputs of some samples, spread over those of all calls.

    Args:
        calls: The flat inputs of each. A call whose values without a batch axis are not those of
            the first is left out.
        count: How many samples; all, if there are fewer.
    """
    calls = [call for call in calls if _have_same_numbers(call, calls[0])]
    lengths = [length(call) for call in calls]
    drawn = _places(sum(lengths), count)
    parts = []
    for call, size, end in zip(calls, lengths, accumulate(lengths), strict=True):
        start = end - size
        parts.append(_taken(call, drawn[(drawn >= start) & (drawn < end)] - start))
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


def _have_same_numbers(call: Sequence[Any], first: Sequence[Any]) -> bool:
    pairs = zip(call, first, strict=True)
    return all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor) and not a.dim())
