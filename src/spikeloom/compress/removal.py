r"""What each weight of a row costs at the moment the row gives it up.

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

import torch
from torch import Tensor

from spikeloom.compress.blocks import damped_inverse
from spikeloom.compress.order import Order

__all__ = ["magnitude_losses", "removal_losses", "working_memory"]

# Widest layer that is ordered in float64; float32 leaves errors of 1e-5 in the losses.
PRECISE_WIDTH = 256
# Removals that are collected before the inverse is brought up to date.
PANEL = 64
# Bytes of inverse Hessians that are held at once.
MEMORY = 128 << 20


def removal_losses(W: Tensor, H: Tensor, order: Order) -> Tensor:
    """What each weight costs at the moment its row gives it up.

    Args:
        W: Float64 weights, shape ``[rows, d]``.
        H: Their Hessian, ``[d, d]``, not damped.
        order: How the rows are taken apart; a weight that a pattern keeps costs infinity.

    Returns:
        Shape ``[rows, d]``.
    """
    inverse = damped_inverse(H)
    if W.shape[1] <= PRECISE_WIDTH:
        return _losses(W, inverse, order)
    # Pivots are safe: those of the inverse are at least the inverses of H's damped diagonal.
    # In units of their own, neither weights nor inverse leave the range of float32.
    size = W.abs().amax(1, keepdim=True)
    size = torch.where(size == 0, 1.0, size)
    gain = inverse.diagonal().mean()
    losses = _losses((W / size).float(), (inverse / gain).float(), order)
    return losses.double() * size.square() / gain


def _losses(W: Tensor, inverse: Tensor, order: Order) -> Tensor:
    if order.rounds:
        return _losses_in_rounds(W, inverse, order.share)
    together = _rows_together(*W.shape)
    memory = inverse.new_empty(together, *inverse.shape)
    losses = [
        _Dissection(rows, memory[: len(rows)].copy_(inverse), order).losses()
        for rows in W.split(max(1, together))
    ]
    return torch.cat(losses)


def magnitude_losses(W: Tensor, order: Order) -> Tensor:
    """The squared weights; a weight that a pattern keeps costs infinity."""
    losses = W.square()
    if order.groups is None:
        return losses
    # Sort by size, then, keeping that, by group: each group becomes a run from small to large.
    by_size = losses.argsort(dim=1, stable=True)
    groups = order.groups.to(W.device)
    runs = by_size.gather(1, groups[by_size].argsort(dim=1, stable=True))
    of = losses.shape[1] // (int(groups.max()) + 1)
    kept = runs.unflatten(1, (-1, of))[..., order.leaving :].flatten(1)
    return losses.scatter(1, kept, math.inf)


def working_memory(rows: int, width: int, order: Order) -> int:
    """Bytes of inverse Hessians that ordering so many rows holds at once."""
    # In rounds: what the rows share, and one row's own.
    return _inverse_bytes(width) * (2 if order.rounds else _rows_together(rows, width))


def _rows_together(rows: int, width: int) -> int:
    """How many rows have their inverses in memory at once."""
    return min(rows, max(1, MEMORY // max(_inverse_bytes(width), 1)))


def _inverse_bytes(width: int) -> int:
    return (4 if width > PRECISE_WIDTH else 8) * width * width


def _losses_in_rounds(W: Tensor, inverse: Tensor, share: float) -> Tensor:
    """Losses if a share of a row's remaining weights leaves at once."""
    losses = torch.empty_like(W)
    for row, result in zip(W, losses, strict=True):
        weights, left, index = row, inverse, torch.arange(len(row), device=row.device)
        while len(index):
            costs = weights.square() / left.diagonal()
            order = costs.argsort(stable=True)
            gone, stay = order.split_with_sizes(_division(len(order), share))
            result[index[gone]] = costs[gone]
            # In memory order, the copies below are faster.
            stay = stay.sort().values
            columns = left[gone]
            factor = torch.linalg.cholesky(columns[:, gone])
            panel = torch.linalg.solve_triangular(factor, columns[:, stay], upper=False)
            paid = torch.linalg.solve_triangular(factor, weights[gone, None], upper=False)
            weights = weights[stay] - (paid.mT @ panel)[0]
            left = left[stay][:, stay].addmm_(panel.mT, panel, alpha=-1)
            index = index[stay]
    return losses


def _division(count: int, share: float) -> list[int]:
    gone = max(1, math.ceil(share * count))
    return [gone, count - gone]


class _Dissection:
    """Rows that lose their weights in step, each in its own order.

    A row's remaining weights stand at the front of every array here, in any order.

    Args:
        W: Weights, ``[rows, d]``.
        inverse: The inverse Hessian, repeated for each row, ``[rows, d, d]``; overwritten.
        order: Under which pattern weights leave.

    Attributes:
        inverse: Inverse Hessian of each row's remaining weights, ``[rows, R, R]``.
        weights, index: The remaining weights and which inputs they belong to, ``[rows, R]``.
    """

    def __init__(self, W: Tensor, inverse: Tensor, order: Order) -> None:
        rows, width = W.shape
        self.order = order
        self.inverse = inverse
        self.weights = W.clone()
        self.index = torch.arange(width, device=W.device).repeat(rows, 1)
        self.result = torch.full_like(W, math.inf)
        self.each = torch.arange(rows, device=W.device)
        self.left = self.to_remove = width
        if order.groups is not None:
            self.group = order.groups.to(W.device)
            count = int(self.group.max()) + 1
            self.room = torch.full((rows, count), order.leaving, device=W.device)
            self.to_remove = count * order.leaving

    def losses(self) -> Tensor:
        """Take the rows apart; the losses at removal, ``[rows, d]``."""
        while self.to_remove:
            removed, panel = self._remove(min(PANEL, self.to_remove))
            self.to_remove -= removed.shape[1]
            self._close_ranks(removed, panel)
        return self.result

    def _remove(self, count: int) -> tuple[Tensor, Tensor]:
        """Remove the cheapest weight, ``count`` times.

        Returns:
            Their positions ``[rows, count]``, and the panel ``[rows, count, R]`` whose outer
            products the inverse has lost.
        """
        each, weights = self.each, self.weights
        diagonal = self.inverse.diagonal(dim1=1, dim2=2).clone()
        panel = self.inverse.new_empty(len(each), count, self.left)
        removed = self.index.new_empty(len(each), count)
        for n in range(count):
            losses = self._admitted(weights.square() / diagonal)
            lost, p = losses.min(dim=1)
            inputs = self.index[each, p]
            self.result[each, inputs] = lost
            self._note(inputs)
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

    def _admitted(self, losses: Tensor) -> Tensor:
        """The losses, infinite where a group has given up all that its pattern lets go."""
        if self.order.groups is None:
            return losses
        full = self.room.gather(1, self.group[self.index]) == 0
        return losses.masked_fill_(full, math.inf)

    def _note(self, inputs: Tensor) -> None:
        if self.order.groups is not None:
            self.room[self.each, self.group[inputs]] -= 1

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
        for array in (self.weights, self.index):
            array[each, targets] = array[each, sources]
        panel[each, :, targets] = panel[each, :, sources]
        moved = self.inverse[each, sources]
        moved[each, :, targets] = moved[each, :, sources]
        self.inverse[each, targets] = moved
        self.inverse[each, :, targets] = moved
        self.weights, self.index = self.weights[:, :left], self.index[:, :left]
        self.inverse = self.inverse[:, :left, :left]
        for matrix, part in zip(self.inverse, panel[:, :, :left], strict=True):
            matrix.addmm_(part.mT, part, alpha=-1)
        self.left = left
