r"""How many weights each row gives up, so that the rows together lose least.

A row gives up its weights in an order of its own, and giving up the first k of them costs the sum
:math:`C(k)` of their losses. The loss of a weight says nothing by itself: a dear weight may make
the next ones cheap. So what competes is not single weights but stretches of an order, each
with its mean loss: the edges of the lower convex envelope of C. Taking the cheapest edges of all
rows is optimal for every count that ends with an edge; for a count in between, the best change of
two rows makes up the difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spikeloom.compress.removal import Removals

__all__ = ["first_of_each", "shared_counts"]

# How far a row may move from a corner of its envelope, at least, to make up a difference.
REACH = 64


def first_of_each(removals: Removals, counts: Tensor) -> Tensor:
    """The mask of the first weights of each row's order.

    Args:
        removals: The orders.
        counts: How many each row gives up, shape ``[rows]``.

    Returns:
        True where a weight is removed, shape ``[rows, d]``.
    """
    index = removals.index
    leaves = torch.arange(index.shape[1], device=index.device) < counts[:, None]
    rows, steps = leaves.nonzero(as_tuple=True)
    mask = torch.zeros_like(leaves)
    mask[rows, index[rows, steps]] = True
    return mask


def shared_counts(losses: Tensor, count: int, least: Tensor) -> Tensor:
    """How many weights each row gives up.

    Args:
        losses: What each weight of a row adds to the error once those before it are gone, shape
            ``[rows, d]``.
        count: How many weights all rows give up together.
        least: How many each row gives up in any case, shape ``[rows]``; their sum may exceed count.

    Returns:
        Shape ``[rows]``; on a tie earlier rows give up more.
    """
    edges = _envelopes(losses, least)
    order = edges.slope.argsort(stable=True)
    wanted = count - int(least.sum())
    taken = int((edges.length[order].cumsum(0) <= wanted).sum())
    whole = order[:taken]
    counts = least.index_add(0, edges.row[whole], edges.length[whole])
    missing = count - int(counts.sum())
    if missing <= 0:
        return counts
    if len(losses) == 1:
        return counts + missing
    following = order[taken]
    reach = min(losses.shape[1], max(REACH, 2 * int(edges.length[following])))
    excess = _excess(losses, counts, least, edges.slope[following], reach)
    return _completed(counts, missing, excess)


@dataclass(frozen=True, eq=False)
class _Edges:
    """The edges of the lower convex envelopes of all rows, row by row.

    Attributes:
        row: Whose it is.
        length: How many weights it spans.
        slope: Their mean loss.
    """

    row: Tensor
    length: Tensor
    slope: Tensor


def _envelopes(losses: Tensor, least: Tensor) -> _Edges:
    """Join neighbours whose losses fall until the means of all stretches rise."""
    rows, width = losses.shape
    free = torch.arange(width, device=losses.device) >= least[:, None]
    row = torch.arange(rows, device=losses.device)[:, None].expand(rows, width)[free]
    length, total = torch.ones_like(row), losses[free]
    while True:
        slope = total / length
        falls = (slope[1:] < slope[:-1]) & (row[1:] == row[:-1])
        if not bool(falls.any()):
            return _Edges(row, length, slope)
        # Which stretch each one becomes a part of.
        whole = torch.cat([row.new_zeros(1), (~falls).long().cumsum(0)])
        size = int(whole[-1]) + 1
        total = total.new_zeros(size).index_add(0, whole, total)
        length = length.new_zeros(size).index_add(0, whole, length)
        row = row.new_zeros(size).scatter(0, whole, row)


def _excess(losses: Tensor, counts: Tensor, least: Tensor, slope: Tensor, reach: int) -> Tensor:
    """What other counts cost each row beyond the edge that follows.

    Returns:
        Shape ``[rows, 2 reach + 1]`` for changes from ``-reach`` to ``reach``; infinite where a row
        has not so many weights.
    """
    width = losses.shape[1]
    costs = torch.cat([torch.zeros_like(losses[:, :1]), losses.cumsum(1)], dim=1)
    change = torch.arange(-reach, reach + 1, device=losses.device)
    changed = counts[:, None] + change
    fits = (least[:, None] <= changed) & (changed <= width)
    paid = costs.gather(1, changed.clamp(0, width)) - costs.gather(1, counts[:, None])
    return torch.where(fits, paid - slope * change, torch.inf)


def _completed(counts: Tensor, missing: int, excess: Tensor) -> Tensor:
    """Change two rows by what is missing in all, at the least excess."""
    price, row = excess.topk(2, dim=0, largest=False)
    change = torch.arange(excess.shape[1], device=excess.device) - excess.shape[1] // 2
    # A change meets the one that adds up with it to what is missing.
    price, row, change = price[:, missing:], row[:, missing:], change[missing:]
    both = price[:, None] + price[None].flip(2)
    both[row[:, None] == row[None].flip(2)] = torch.inf
    first, second, at = torch.unravel_index(both.argmin(), both.shape)
    rows = torch.stack([row[first, at], row.flip(1)[second, at]])
    return counts.index_add(0, rows, torch.stack([change[at], missing - change[at]]))
