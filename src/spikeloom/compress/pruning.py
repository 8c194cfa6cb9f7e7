r"""One-shot pruning of one layer: which weights go, and what the others take over.

Removing weight p from an output row costs :math:`w_p^2 / [H^{-1}]_{pp}` if the remaining weights of
the row are re-solved, which changes them by :math:`-H^{-1}_{:p} w_p / [H^{-1}]_{pp}`. Every row is
taken apart completely in the order of least cost; the costs of all rows together tell how many
weights each row gives up; the weights that stay are then solved for at once.

The order needs the inverse Hessian of a row's remaining weights after every removal. It is held
as a matrix minus the outer products of a few recent removals: the removals read and write only that
narrow panel, and a matrix product brings the matrix up to date once the panel is full. Removed
indices leave the matrix, so it shrinks as the row does.

Source: Shi, Li, Ward-Cherrier, arXiv 2506.03996; the removal of single weights is Optimal Brain
Surgeon (Hassibi, Stork 1992) as in Frantar, Alistarh, arXiv 2208.11580.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Block", "Order", "Pattern", "prune_blocks", "prune_weight"]

# Relative damping: this share of the mean of the diagonal is added to it.
DAMPING = 0.01
# Widest layer whose weights are ordered one by one unless asked for.
EXACT_WIDTH = 1024
# Number of rounds that wider layers are ordered in.
ROUNDS = 16
# Widest layer that is ordered in float64; float32 leaves errors of 1e-5 in the losses.
PRECISE_WIDTH = 256
# Removals that are collected before the inverse is brought up to date.
PANEL = 64
# Bytes of inverse Hessians that are held at once.
MEMORY = 128 << 20


@dataclass(frozen=True)
class Block:
    """Rows of a weight that share a Hessian.

    Attributes:
        rows: Indices of output rows.
        hessian: Shape ``[d, d]``, float64, not damped.
    """

    rows: Tensor
    hessian: Tensor


@dataclass(frozen=True)
class Pattern:
    """At most ``keep`` weights stay among each ``of`` neighbours of a row.

    Args:
        keep: How many stay.
        of: Size of a group of neighbouring inputs.

    Raises:
        ValueError: If not 0 < keep < of.
    """

    keep: int
    of: int

    def __post_init__(self) -> None:
        if not 0 < self.keep < self.of:
            raise ValueError(f"pattern: must be N:M with 0 < N < M, got {self}")

    @classmethod
    def parse(cls, text: str | Pattern) -> Pattern:
        """A pattern from text such as ``"2:4"``."""
        if isinstance(text, Pattern):
            return text
        parts = str(text).split(":")
        if len(parts) != 2 or not all(part.isdigit() for part in parts):
            raise ValueError(f"pattern: must be text such as '2:4', got {text!r}")
        return cls(int(parts[0]), int(parts[1]))

    def __str__(self) -> str:
        return f"{self.keep}:{self.of}"

    def groups(self, shape: Sequence[int]) -> Tensor:
        """Which group each weight of a row belongs to; neighbours are input channels.

        Args:
            shape: Shape of the layer's weight, ``[rows, C, *kernel]``.

        Returns:
            Shape ``[d]``, in the order of ``weight.flatten(1)``.

        Raises:
            ValueError: If the groups do not divide the input channels.
        """
        channels, taps = shape[1], math.prod(shape[2:])
        if channels % self.of:
            raise ValueError(
                f"pattern: {self} does not divide {channels} inputs; leave the layer out"
            )
        group = torch.arange(channels)[:, None] // self.of * taps + torch.arange(taps)
        return group.flatten()

    def check_count(self, weights: int, count: int | None) -> int:
        """How many of a layer's weights it removes; raises if that is not the count given."""
        fixed = weights * (self.of - self.keep) // self.of
        if count not in (None, fixed):
            raise ValueError(f"count: pattern {self} removes {fixed} weights, got {count}")
        return fixed


@dataclass(frozen=True, eq=False)
class Order:
    """How the weights of a row are ordered.

    Attributes:
        rounds: How many rounds lead to the wanted sparsity; 0: one by one.
        share: Share of a row's remaining weights that leaves in one round.
        groups: Which group each input belongs to, under a pattern.
        leaving: How many weights of a group leave, under a pattern.
    """

    rounds: int = 0
    share: float = 0.0
    groups: Tensor | None = None
    leaving: int = 0

    @classmethod
    def plan(
        cls, shape: Sequence[int], count: int, rounds: int | None, pattern: Pattern | None
    ) -> Order:
        """The order for a layer: exact up to a width of 1024, or as ``rounds`` says."""
        width = math.prod(shape[1:])
        if rounds is None:
            rounds = 0 if width <= EXACT_WIDTH or pattern else ROUNDS
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
            raise ValueError(
                f"rounds: must be 0 (one weight at a time) or a number of rounds, got {rounds!r}"
            )
        if pattern is not None:
            if rounds:
                raise ValueError("rounds: an N:M pattern is ordered one by one; use rounds=0")
            return cls(groups=pattern.groups(shape), leaving=pattern.of - pattern.keep)
        kept = max(1 - count / max(math.prod(shape), 1), 1 / max(width, 1))
        return cls(rounds, 1 - kept ** (1 / rounds)) if rounds else cls()


def prune_weight(
    W: Tensor,
    H: Tensor,
    count: int | None = None,
    row_scale: Tensor | None = None,
    *,
    rounds: int | None = None,
    pattern: str | Pattern | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Remove weights from a layer and let the others compensate.

    Row o's losses are multiplied by ``row_scale[o] ** 2`` before all rows compete; the compensation
    of a row with kept weights S is, with the damped Hessian,

    .. math:: w_S \leftarrow H_{SS}^{-1} H_{S,:}\, w .

    Args:
        W: Weights, shape ``[rows, d]`` or a convolution's ``[rows, C, *kernel]``.
        H: Hessian from :func:`layer_hessian`, ``[d, d]`` or ``[groups, d, d]``, not damped; 1 % of
            the mean of its diagonal is added here.
        count: How many weights of the whole layer are removed; may be left out with a pattern.
        row_scale: The factor of a normalisation behind each row (:math:`\gamma / \sqrt{var +
            \epsilon}`); None is 1.
        rounds: 0 takes one weight at a time; R > 0 reaches the count in R rounds of many at once,
            re-solved in between (a slightly worse choice of weights; what stays is solved for as
            well); None takes one at a time up to d = 1024, and 16 rounds beyond.
        pattern: Such as ``"2:4"``: of each 4 neighbouring inputs of a row, 2 stay.

    Returns:
        ``(W, mask)``: new weights of the shape and dtype given, and True where a weight is removed.

    Raises:
        TypeError: If W is not a floating-point tensor, or the count not an integer.
        ValueError: If a shape, the count, the rounds or the pattern does not fit, or values are NaN
            or infinite.

    Warns:
        UserWarning: If the Hessian is zero: the smallest weights are removed then.

    Example:
        >>> import torch
        >>> from spikeloom import compress
        >>> H = torch.tensor([[2.0, 1.9, 0.0], [1.9, 2.0, 0.0], [0.0, 0.0, 1.0]])
        >>> W, mask = compress.prune_weight(torch.tensor([[0.6, 0.5, 0.4]]), H, count=1)
        >>> mask
        tensor([[False,  True, False]])
        >>> W  # the first input does almost the same as the second, and takes over its weight
        tensor([[1.0711, 0.0000, 0.4000]])
    """
    flat = check_weight(W)
    blocks = split_blocks(flat, H)
    pattern = None if pattern is None else Pattern.parse(pattern)
    if pattern is not None:
        count = pattern.check_count(flat.numel(), count)
    try:
        count = operator.index(count)  # type: ignore[arg-type]  # None is refused here
    except TypeError:
        raise TypeError(f"count: must be an integer, or a pattern given; got {count!r}") from None
    if not 0 <= count <= flat.numel():
        raise ValueError(f"count: must be from 0 to {flat.numel()}, got {count}")
    order = Order.plan(W.shape, count, rounds, pattern)
    pruned, mask = prune_blocks(flat, blocks, count, _check_scale(row_scale, flat), order)
    return pruned.to(W.dtype).reshape(W.shape), mask.reshape(W.shape)


def prune_blocks(
    W: Tensor,
    blocks: Sequence[Block],
    count: int,
    row_scale: Tensor | None,
    order: Order,
    name: str = "the layer",
) -> tuple[Tensor, Tensor]:
    """:func:`prune_weight` for rows that have different Hessians.

    Args:
        W: Float64 weights, shape ``[rows, d]``.
        blocks: Every row in exactly one of them.
        count: How many weights are removed.
        row_scale: Shape ``[rows]``, or None.
        order: How the rows are taken apart.
        name: How a warning calls the layer.

    Returns:
        Compensated weights in float64, and the mask of what was removed.
    """
    losses = torch.empty_like(W)
    silent = [bool((block.hessian.diagonal() == 0).all()) for block in blocks]
    # Inputs that never fired cost nothing; among themselves the smallest weights go first.
    negligible = 1.0 if all(silent) else torch.finfo(torch.float64).tiny
    for block, is_silent in zip(blocks, silent, strict=True):
        rows = W[block.rows]
        if is_silent:
            warnings.warn(
                f"prune: the inputs of {name} ({len(block.rows)} rows) never fired, so its "
                "smallest weights are removed; check the calibration data",
                stacklevel=3,
            )
            losses[block.rows] = magnitude_losses(rows, order) * negligible
        else:
            losses[block.rows] = removal_losses(rows, block.hessian, order)
    if row_scale is not None:
        losses = losses * row_scale.square()[:, None]
    mask = lowest(losses, count)
    pruned = W.masked_fill(mask, 0.0)
    for block, is_silent in zip(blocks, silent, strict=True):
        if not is_silent:
            pruned[block.rows] = compensate(W[block.rows], block.hessian, mask[block.rows])
    return pruned, mask


def lowest(losses: Tensor, count: int) -> Tensor:
    """The mask of the ``count`` smallest entries; on a tie the earlier one."""
    mask = torch.zeros(losses.numel(), dtype=torch.bool, device=losses.device)
    mask[losses.flatten().argsort(stable=True)[:count]] = True
    return mask.reshape(losses.shape)


def damped(H: Tensor) -> Tensor:
    """The Hessian with 1 % of the mean of its diagonal added to it."""
    H = H.double()
    return H + DAMPING * H.diagonal().mean() * torch.eye(len(H), dtype=H.dtype, device=H.device)


def damped_inverse(H: Tensor) -> Tensor:
    """The inverse of the damped Hessian."""
    return torch.cholesky_inverse(torch.linalg.cholesky(damped(H)))


# --- The order ------------------------------------------------------------------------------


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
    if W.shape[1] > PRECISE_WIDTH:
        # Pivots are safe: those of the inverse are at least the inverses of H's damped diagonal.
        W, inverse = W.float(), inverse.float()
    if order.rounds:
        return _losses_in_rounds(W, inverse, order.share).double()
    together = _rows_together(*W.shape)
    memory = inverse.new_empty(together, *inverse.shape)
    losses = [
        _Dissection(rows, memory[: len(rows)].copy_(inverse), order).losses()
        for rows in W.split(max(1, together))
    ]
    return torch.cat(losses).double()


def _rows_together(rows: int, width: int) -> int:
    """How many rows have their inverses in memory at once."""
    return min(rows, max(1, MEMORY // max(_inverse_bytes(width), 1)))


def _inverse_bytes(width: int) -> int:
    return (4 if width > PRECISE_WIDTH else 8) * width * width


def working_memory(rows: int, width: int, order: Order) -> int:
    """Bytes of inverse Hessians that ordering so many rows holds at once."""
    # In rounds: what the rows share, and one row's own.
    return _inverse_bytes(width) * (2 if order.rounds else _rows_together(rows, width))


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


# --- The compensation -----------------------------------------------------------------------


def compensate(W: Tensor, H: Tensor, mask: Tensor) -> Tensor:
    """The weights that remain, solved for at once; the removed ones become zero.

    Args:
        W: Float64 weights, shape ``[rows, d]``.
        H: Their Hessian, ``[d, d]``, not damped.
        mask: True where a weight is removed.

    Returns:
        Shape ``[rows, d]``.
    """
    H = damped(H)
    wanted = W @ H
    result = torch.zeros_like(W)
    inverse = None
    for row, kept in enumerate(~mask):
        stay, gone = kept.nonzero()[:, 0], (~kept).nonzero()[:, 0]
        if len(stay) <= len(gone):
            factor = torch.linalg.cholesky(H[stay][:, stay])
            result[row, stay] = torch.cholesky_solve(wanted[row, stay, None], factor)[:, 0]
            continue
        # Fewer removed than kept: the same result from the inverse of the whole.
        if inverse is None:
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(H))
        columns = inverse[gone]
        factor = torch.linalg.cholesky(columns[:, gone])
        share = torch.cholesky_solve(W[row, gone, None], factor)[:, 0]
        result[row] = (W[row] - share @ columns).masked_fill(mask[row], 0.0)
    return result


# --- What a call must satisfy ---------------------------------------------------------------


def check_weight(W: Tensor) -> Tensor:
    """The weights as float64 rows ``[rows, d]``."""
    if not isinstance(W, Tensor) or not W.is_floating_point():
        raise TypeError(f"W: must be a floating-point tensor, got {W!r}")
    if W.dim() < 2:
        raise ValueError(f"W: must have shape [rows, d] or more axes, got {tuple(W.shape)}")
    if not bool(torch.isfinite(W).all()):
        raise ValueError("W: must be finite, got NaN or infinity")
    return W.detach().flatten(1).double()


def split_blocks(W: Tensor, H: Tensor) -> list[Block]:
    """The rows of each group with its Hessian."""
    rows, width = W.shape
    if not isinstance(H, Tensor) or H.dim() not in (2, 3) or H.shape[-2:] != (width, width):
        got = tuple(H.shape) if isinstance(H, Tensor) else H
        raise ValueError(f"H: must have shape [{width}, {width}] or [groups, ...], got {got}")
    if not bool(torch.isfinite(H).all()):
        raise ValueError("H: must be finite, got NaN or infinity")
    stack = H.double() if H.dim() == 3 else H.double()[None]
    if rows % len(stack):
        raise ValueError(f"H: {len(stack)} groups do not divide {rows} rows")
    parts = torch.arange(rows, device=W.device).chunk(len(stack)) if rows else ()
    return [Block(part, hessian) for part, hessian in zip(parts, stack, strict=False)]


def _check_scale(row_scale: Tensor | None, W: Tensor) -> Tensor | None:
    if row_scale is None:
        return None
    scale = torch.as_tensor(row_scale, dtype=W.dtype, device=W.device)
    if scale.shape != W.shape[:1] or not bool(torch.isfinite(scale).all()):
        raise ValueError(
            f"row_scale: must be {len(W)} finite numbers, one for each row, got {row_scale!r}"
        )
    return scale
