r"""In which order a row gives up its weights, and what each costs at that moment.

Removing weight p costs :math:`w_p^2 / [H^{-1}]_{pp}` if the row's remaining weights are re-solved,
which changes them by :math:`-H^{-1}_{:p} w_p / [H^{-1}]_{pp}`.

The order needs the inverse Hessian of a row's remaining weights after every removal. It is held
as a matrix minus the outer products of a few recent removals: the removals read and write only that
narrow panel, and a matrix product brings the matrix up to date once the panel is full. Removed
indices leave the matrix, so it shrinks as the row does.

Source: Optimal Brain Surgeon (Hassibi, Stork 1992), row by row as in Frantar, Alistarh,
arXiv 2208.11580.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spikeloom.compress.blocks import damped_inverse, working_dtype
from spikeloom.compress.order import Order

__all__ = ["Removals", "by_least_loss", "by_magnitude", "working_memory"]

# Removals that are collected before the inverse is brought up to date.
PANEL = 64
# Bytes of inverse Hessians that are held at once.
MEMORY = 128 << 20
# Stands for the cost of a weight that is gone already: less than any other.
FIRST = -1.0


@dataclass(frozen=True, eq=False)
class Removals:
    """The order in which each row gives up its weights.

    Under a pattern a row's order ends with what the pattern removes; what follows is arbitrary.

    Attributes:
        index: Which weight leaves first, second and so on, shape ``[rows, d]``.
        losses: What each adds to the error once those before it are gone, shape ``[rows, d]``.
    """

    index: Tensor
    losses: Tensor


def by_least_loss(W: Tensor, H: Tensor, order: Order, gone: Tensor) -> Removals:
    """Take rows apart, always at the weight that costs least.

    Args:
        W: Float64 weights, shape ``[rows, d]``.
        H: Their Hessian, ``[d, d]``, not damped.
        order: How the rows are taken apart.
        gone: True where a weight has been removed before and is zero; these leave first.
    """
    inverse = damped_inverse(H)
    if working_dtype(W.shape[1]) == torch.float64:
        return _taken_apart(W, inverse, order, gone)
    # Pivots are safe: those of the inverse are at least the inverses of H's damped diagonal.
    # In units of their own, neither weights nor inverse leave the range of float32.
    size = W.abs().amax(1, keepdim=True)
    size = torch.where(size == 0, 1.0, size)
    gain = inverse.diagonal().mean()
    found = _taken_apart((W / size).float(), (inverse / gain).float(), order, gone)
    return Removals(found.index, found.losses.double() * size.square() / gain)


def _taken_apart(W: Tensor, inverse: Tensor, order: Order, gone: Tensor) -> Removals:
    together = max(1, _rows_together(*W.shape))
    memory = inverse.new_empty(together, *inverse.shape)
    parts = [
        _Dissection(rows, memory[: len(rows)].copy_(inverse), order, out).removals()
        for rows, out in zip(W.split(together), gone.split(together), strict=True)
    ]
    index, losses = zip(*((part.index, part.losses) for part in parts), strict=True)
    return Removals(torch.cat(index), torch.cat(losses))


def by_magnitude(W: Tensor, order: Order, gone: Tensor) -> Removals:
    """From the smallest weight to the largest; a loss is the square.

    Args:
        W: Weights, shape ``[rows, d]``.
        order: Whose pattern, if any, decides which weights leave.
        gone: True where a weight has been removed before; these leave first.
    """
    costs = W.square().masked_fill(gone, FIRST)
    if order.groups is not None:
        costs = costs.masked_fill(order.kept_by_pattern(costs) & ~gone, math.inf)
    losses, index = costs.sort(dim=1, stable=True)
    return Removals(index, losses.clamp(min=0.0))


def working_memory(rows: int, width: int) -> int:
    """Bytes of inverse Hessians that ordering so many rows holds at once."""
    return _inverse_bytes(width) * _rows_together(rows, width)


def _rows_together(rows: int, width: int) -> int:
    """How many rows have their inverses in memory at once."""
    return min(rows, max(1, MEMORY // max(_inverse_bytes(width), 1)))


def _inverse_bytes(width: int) -> int:
    return working_dtype(width).itemsize * width * width


class _Dissection:
    """Rows that lose their weights in step, each in its own order.

    A row's remaining weights stand at the front of every array here, in any order.

    Args:
        W: Weights, ``[rows, d]``.
        inverse: The inverse Hessian, repeated for each row, ``[rows, d, d]``; overwritten.
        order: Under which pattern weights leave.
        gone: True where a weight has been removed before.

    Attributes:
        inverse: Inverse Hessian of each row's remaining weights, ``[rows, R, R]``.
        weights, inputs: The remaining weights and which inputs they belong to, ``[rows, R]``.
    """

    def __init__(self, W: Tensor, inverse: Tensor, order: Order, gone: Tensor) -> None:
        rows, width = W.shape
        self.inverse = inverse
        self.weights = W.clone()
        self.inputs = torch.arange(width, device=W.device).repeat(rows, 1)
        self.index = torch.zeros_like(self.inputs)
        self.result = torch.full_like(W, math.inf)
        self.each = torch.arange(rows, device=W.device)
        self.left = self.to_remove = width
        self.done = 0
        self.waiting = gone.clone() if bool(gone.any()) else None
        self.groups = order.groups
        if order.groups is not None:
            self.groups = order.groups.to(W.device)
            groups = int(self.groups.max()) + 1
            self.room = torch.full((rows, groups), order.leaving, device=W.device)
            self.to_remove = int(order.fixed_counts(gone).max())

    def removals(self) -> Removals:
        """Take the rows apart."""
        while self.done < self.to_remove:
            removed, panel = self._remove(min(PANEL, self.to_remove - self.done))
            self._close_ranks(removed, panel)
        return Removals(self.index, self.result)

    def _remove(self, count: int) -> tuple[Tensor, Tensor]:
        """Remove the cheapest weight, ``count`` times.

        Returns:
            Their positions ``[rows, count]``, and the panel ``[rows, count, R]`` whose outer
            products the inverse has lost.
        """
        each, weights = self.each, self.weights
        diagonal = self.inverse.diagonal(dim1=1, dim2=2).clone()
        panel = self.inverse.new_empty(len(each), count, self.left)
        removed = self.inputs.new_empty(len(each), count)
        for n in range(count):
            lost, p = self._admitted(weights.square() / diagonal).min(dim=1)
            self._note(self.inputs[each, p], lost)
            column = self.inverse[each, p]
            if n:
                earlier = panel[:, :n]
                column = torch.baddbmm(
                    column[:, None], earlier[each, :, p][:, None], earlier, alpha=-1
                )[:, 0]
            root = diagonal[each, p].sqrt()[:, None]
            column /= root
            weights.addcmul_(column, weights[each, p][:, None] / root, value=-1)
            diagonal.addcmul_(column, column, value=-1)
            # A removed weight is never the cheapest again.
            weights[each, p] = math.inf
            diagonal[each, p] = 1.0
            panel[:, n] = column
            removed[:, n] = p
        return removed, panel

    def _admitted(self, costs: Tensor) -> Tensor:
        """The costs, infinite for what a pattern keeps, and least for what is gone already."""
        if self.groups is not None:
            full = self.room.gather(1, self.groups[self.inputs]) <= 0
            # A row that has given up all it must goes on without the pattern, in step.
            costs = costs.masked_fill_(full & (self.room > 0).any(1, keepdim=True), math.inf)
        if self.waiting is not None:
            costs = costs.masked_fill_(self.waiting.gather(1, self.inputs), FIRST)
        return costs

    def _note(self, inputs: Tensor, lost: Tensor) -> None:
        self.index[:, self.done] = inputs
        self.result[:, self.done] = lost.clamp(min=0.0)
        self.done += 1
        if self.groups is not None:
            self.room[self.each, self.groups[inputs]] -= 1
        if self.waiting is not None:
            self.waiting[self.each, inputs] = False

    def _close_ranks(self, removed: Tensor, panel: Tensor) -> None:
        """Move the last weights into the gaps of the removed, and update the inverse."""
        left = self.left - removed.shape[1]
        gone = torch.zeros_like(self.weights, dtype=torch.bool).scatter_(1, removed, True)
        back = torch.arange(left, self.left, device=gone.device)
        targets = removed.sort(dim=1).values
        sources = torch.where(gone[:, left:], self.left, back).sort(dim=1).values
        # There are as many gaps at the front as weights that stay at the back; where the gaps
        # end, the other removed ones at the back stay in place.
        sources = torch.where(targets < left, sources, targets)

        each = self.each[:, None]
        for array in (self.weights, self.inputs):
            array[each, targets] = array[each, sources]
        panel[each, :, targets] = panel[each, :, sources]
        moved = self.inverse[each, sources]
        moved[each, :, targets] = moved[each, :, sources]
        self.inverse[each, targets] = moved
        self.inverse[each, :, targets] = moved
        self.weights, self.inputs = self.weights[:, :left], self.inputs[:, :left]
        self.inverse = self.inverse[:, :left, :left]
        for matrix, part in zip(self.inverse, panel[:, :, :left], strict=True):
            matrix.addmm_(part.mT, part, alpha=-1)
        self.left = left
