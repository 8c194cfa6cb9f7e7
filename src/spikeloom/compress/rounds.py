r"""All rows of a layer lose weights together, in a few rounds.

Taken apart one by one, each row needs an inverse Hessian of its own. Here the rows share one: in
each round the cheapest weights of the whole layer leave, and the others are improved by a few steps
of conjugate gradients, each of which is one matrix product for all rows.

What a weight costs is :math:`w_p^2 / [H^{-1}]_{pp}`, with the inverse for all inputs. By that
alone, two inputs that are nearly the same would both be dispensable, and leave in one round. So
each input has a partner, the one that it is most correlated with given all others: once the partner
is gone, or where it costs less and so leaves first, a weight costs what it does without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spikeloom.compress.blocks import Block, damped_inverse, damping, working_dtype
from spikeloom.compress.descent import Descent
from spikeloom.compress.order import Order

__all__ = ["in_rounds", "working_memory"]

# Stands for the cost of a weight that is gone already: less than any other.
GONE = -1.0
# The weights that stay are solved for until this share of the error at most may be left to gain.
TOLERANCE = 1e-5
# Columns of an inverse Hessian that are searched at once.
STRIP = 256


def in_rounds(
    W: Tensor,
    blocks: Sequence[Block],
    count: int,
    factor: Tensor,
    order: Order,
    gone: Tensor,
) -> tuple[Tensor, Tensor]:
    """Remove weights from a layer and let the others compensate.

    Args:
        W: Float64 weights, shape ``[rows, d]``.
        blocks: Every row in exactly one of them.
        count: How many weights are removed, unless a pattern says so.
        factor: What the losses of each row are multiplied by, shape ``[rows]``.
        order: In how many rounds, and under which pattern.
        gone: True where a weight has been removed before and is zero; these count.

    Returns:
        Compensated weights in float64, and the mask of what is removed.
    """
    if order.groups is not None:
        count = int(order.fixed_counts(gone).sum())
    parts = [
        (_Silent if b.is_silent else _Part)(W[b.rows], b.hessian, factor[b.rows], gone[b.rows])
        for b in blocks
    ]
    before, mask = int((~gone).sum()), gone
    schedule = order.schedule(before, min(before, W.numel() - count))
    for at, kept in enumerate(schedule, start=1):
        costs = torch.empty_like(W)
        for block, part in zip(blocks, parts, strict=True):
            costs[block.rows] = part.costs()
        if order.groups is not None:
            costs.masked_fill_(order.kept_by_pattern(costs), math.inf)
        mask = _cheapest(costs, W.numel() - kept)
        del costs
        for block, part in zip(blocks, parts, strict=True):
            part.remove(mask[block.rows], order.last if at == len(schedule) else order.steps)
    pruned = torch.empty_like(W)
    for block, part in zip(blocks, parts, strict=True):
        pruned[block.rows] = part.weights()
    return pruned, mask


def working_memory(rows: int, width: int) -> int:
    """Bytes that pruning so many rows in rounds holds at once."""
    # Hessian, factor and inverse; weights, residual, three of a step, and the costs.
    return working_dtype(width).itemsize * width * (3 * width + 7 * rows)


def _cheapest(costs: Tensor, count: int) -> Tensor:
    """True for so many of the least costs; on a tie for the earlier ones."""
    flat = costs.flatten()
    last = flat.kthvalue(count).values
    chosen = flat < last
    ties = (flat == last).nonzero()[:, 0]
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen.view_as(costs)


class _Silent:
    """Rows whose inputs never fired: their smallest weights go, and nothing makes up for them."""

    def __init__(self, W: Tensor, H: Tensor, factor: Tensor, gone: Tensor) -> None:
        self.W, self.removed = W, gone
        self.units = factor[:, None]

    def costs(self) -> Tensor:
        return (self.W.square() * self.units).masked_fill_(self.removed, GONE)

    def remove(self, leave: Tensor, steps: int) -> None:
        self.removed = leave

    def weights(self) -> Tensor:
        return self.W.masked_fill(self.removed, 0.0)


class _Part:
    """Rows that share a Hessian, on their way.

    Weights and Hessian are in units of their own, so that neither leaves the range of float32.

    Args:
        W: Float64 weights, ``[rows, d]``.
        H: Their Hessian, ``[d, d]``, not damped.
        factor: What the losses of each row are multiplied by, ``[rows]``.
        gone: True where a weight has been removed before.

    Attributes:
        dense: The weights at the beginning.
        now: The weights that stay; the others are zero.
        removed: True where a weight is removed.
    """

    def __init__(self, W: Tensor, H: Tensor, factor: Tensor, gone: Tensor) -> None:
        self.W, self.H, self.removed = W, H, gone
        size = W.abs().amax(1, keepdim=True)
        self.size = torch.where(size == 0, 1.0, size)
        self.gain = H.diagonal().mean()
        self.units = self.size.square() * self.gain * factor[:, None]
        self.dense = (W / self.size).to(working_dtype(W.shape[1]))
        self.now = self.dense.clone()
        self.hessian = H.new_empty(H.shape, dtype=self.now.dtype)
        torch.div(H, self.gain, out=self.hessian)
        self.hessian.diagonal().add_(damping(H) / self.gain)
        self.coupling = _Coupling.of(self._inverse())
        self.descent = Descent(self.hessian)

    def _inverse(self) -> Tensor:
        factor, failed = torch.linalg.cholesky_ex(self.hessian)
        if int(failed):  # too ill-conditioned for float32, or no second moment
            return (damped_inverse(self.H) * self.gain).to(self.hessian.dtype)
        return torch.cholesky_inverse(factor)

    def costs(self) -> Tensor:
        """What removing each weight would cost, in float64 and common units."""
        costs = self.coupling.costs(self.now, self.removed).double() * self.units
        return costs.masked_fill_(self.removed, GONE)

    def remove(self, leave: Tensor, steps: int) -> None:
        """Remove weights, and let the others take so many steps at most to their best values."""
        self.now.masked_fill_(leave, 0.0)
        self.removed = leave
        change = self.dense - self.now
        residual = change @ self.hessian
        limit = TOLERANCE * change.mul_(residual).sum(1, keepdim=True)
        del change
        self.descent.descend(self.now, residual, leave, steps, limit)

    def weights(self) -> Tensor:
        """The weights in the units given; what has not moved is the same to the last bit."""
        moved = (self.now - self.dense).double() * self.size
        return moved.add_(self.W).masked_fill_(self.removed, 0.0)


@dataclass(frozen=True, eq=False)
class _Coupling:
    """What removing a weight costs, given which input may stand in for its own.

    Attributes:
        partner: The input that each one is most correlated with given all others, ``[d]``.
        share: What a unit of the partner's weight adds to a weight once the partner is removed.
        beside: The diagonal of the inverse Hessian.
        without: The same with the partner removed.
    """

    partner: Tensor
    share: Tensor
    beside: Tensor
    without: Tensor

    @classmethod
    def of(cls, inverse: Tensor) -> _Coupling:
        """Find the partners."""
        beside = inverse.diagonal().clone()
        partner = torch.cat(
            [
                _strongest(columns, beside, start * STRIP)
                for start, columns in enumerate(inverse.split(STRIP, 1))
            ]
        )
        inputs = torch.arange(len(beside), device=beside.device)
        between = inverse[inputs, partner].masked_fill(partner == inputs, 0.0)
        without = beside - between.square() / beside[partner]
        least = torch.finfo(beside.dtype).eps * beside
        return cls(partner, between / beside[partner], beside, torch.maximum(without, least))

    def costs(self, weights: Tensor, removed: Tensor) -> Tensor:
        """The costs of all weights ``[rows, d]``; meaningless where removed."""
        present = ~removed[:, self.partner]
        costs = weights.square() / torch.where(present, self.beside, self.without)
        others = costs[:, self.partner]
        inputs = torch.arange(len(self.partner), device=weights.device)
        second = (others < costs) | ((others == costs) & (self.partner < inputs))
        alone = (weights - self.share * weights[:, self.partner]).square_() / self.without
        return torch.where(present & second, torch.maximum(alone, others), costs)


def _strongest(columns: Tensor, diagonal: Tensor, start: int) -> Tensor:
    """The row of the largest correlation in each of some columns, which begin at ``start``."""
    strength = columns.square() / diagonal[:, None]
    strength.diagonal(-start).zero_()
    return strength.argmax(0)
