"""Attention by blocks of queries: their scores stay in the cache, and hidden keys are left out.

Every row of probabilities is that of the whole attention, to the bit, for the same scores.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

__all__ = ["attend", "masked"]

# Scores of a block, chosen by measurement; on other devices than a CPU one block holds all.
BLOCK = 1 << 18
# Keys beside each other that are computed together: a cache line of them.
TOGETHER = 16


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scaling: float,
    probabilities: Callable[[Tensor], Tensor],
    weights: bool,
) -> tuple[Tensor, Tensor | None]:
    """Attention of encoded queries, keys and values, without gradients.

    Args:
        q: ``[batch, heads, queries, features]``.
        k: ``[batch, groups, keys, features]``; each serves ``heads / groups`` heads.
        v: Likewise.
        mask: Boolean, or added to the scores; broadcasts to ``[batch, heads, queries, keys]``.
        scaling: Times the scores.
        probabilities: Makes them of scores ``[..., keys]``, whose memory it may write.
        weights: Whether the probabilities are asked for.

    Returns:
        The context ``[batch, heads, queries, features]``, and the probabilities or None.
    """
    (batch, heads, queries, features), (groups, keys) = q.shape, k.shape[1:3]
    shared = heads // groups
    q = q.view(batch, groups, shared, queries, features)
    mask = None if mask is None else _grouped(mask, groups, keys)
    b, g, i = _sizes(batch, groups, queries, shared * keys, _limit(q))
    if (b, g, i) == (batch, groups, queries) and _seen(mask, keys) == slice(0, keys):
        context, p = _block(q, k, v, mask, scaling, probabilities)
        context = context.view(batch, heads, queries, v.shape[-1])
        return context, p.flatten(1, 2) if weights else None
    context = q.new_empty(batch, groups, shared, queries, v.shape[-1])
    kept = q.new_zeros(batch, groups, shared, queries, keys) if weights else None
    for asking in _pieces(queries, i):
        hidden = None if mask is None else _along(mask, 3, asking)
        seen = _seen(hidden, keys)
        hidden = None if hidden is None else hidden[..., seen]
        for sequences, sets in product(_pieces(batch, b), _pieces(groups, g)):
            found, p = _block(
                q[sequences, sets, :, asking],
                k[sequences, sets, seen],
                v[sequences, sets, seen],
                None if hidden is None else _along(_along(hidden, 0, sequences), 1, sets),
                scaling,
                probabilities,
            )
            context[sequences, sets, :, asking] = found
            if kept is not None:
                kept[sequences, sets, :, asking, seen] = p
    return context.flatten(1, 2), None if kept is None else kept.flatten(1, 2)


def _block(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scaling: float,
    probabilities: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """The context and the probabilities of ``[batch, groups, heads of a group, queries, *]``."""
    shape = q.shape[:-1]
    # The heads of a group ask the same keys: one product for all of them.
    scores = q.flatten(2, 3) @ k.transpose(-2, -1)
    p = probabilities(masked(scores.mul_(scaling).view(*shape, -1), mask))
    return (p.flatten(2, 3) @ v).view(*shape, -1), p


def masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """The scores, their mask applied.

    Args:
        scores: ``[..., keys]``.
        mask: As for :func:`attend`, for these scores.
    """
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores + mask[..., : scores.shape[-1]]


def _limit(q: Tensor) -> int:
    return BLOCK if q.device.type == "cpu" else 1 << 62


def _grouped(mask: Tensor, groups: int, keys: int) -> Tensor:
    """The mask as ``[batch or 1, groups or 1, heads of a group or 1, queries or 1, keys]``."""
    mask = mask[..., :keys]
    mask = mask.view((1,) * (4 - mask.dim()) + mask.shape)
    return mask[:, None] if mask.shape[1] == 1 else mask.unflatten(1, (groups, -1))


def _along(mask: Tensor, axis: int, part: slice) -> Tensor:
    """A part of a mask along an axis; one entry serves all."""
    return mask if mask.shape[axis] == 1 else mask.narrow(axis, part.start, part.stop - part.start)


def _sizes(batch: int, groups: int, queries: int, row: int, limit: int) -> tuple[int, int, int]:
    """How many sequences, groups and queries a block holds, at least one of each.

    Args:
        batch: How many sequences there are.
        groups: How many sets of keys each has.
        queries: How many queries.
        row: Scores of one query in all heads of a group.
        limit: Scores of a block.
    """
    counts, size = [], max(1, row)
    for count in (queries, groups, batch):
        counts.append(max(1, min(count, limit // size)))
        size *= max(1, count)
    i, g, b = counts
    return b, g, i


def _pieces(count: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def _seen(mask: Tensor | None, keys: int) -> slice:
    """The keys that some query of a block sees; all of them if one query sees nothing.

    A query that sees nothing attends to everything alike, as softmax of equal scores does.
    """
    if mask is None or mask.shape[-2] == 1 or keys <= TOGETHER:
        return slice(0, keys)
    least = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min / 4
    if not bool((mask.amax(-1) > least).all()):
        return slice(0, keys)
    places = (mask.flatten(0, -2).amax(0) > least).nonzero()
    first, last = int(places[0]), int(places[-1]) + 1
    return slice(first // TOGETHER * TOGETHER, min(keys, -(-last // TOGETHER) * TOGETHER))
