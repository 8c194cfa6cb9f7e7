r"""One-shot pruning of one layer: which weights go, and what the others take over.

Every row is taken apart completely, always at the weight that costs least; the costs of all rows
tell how many of its first weights each row gives up; those that stay are then solved for at once.

Source: Shi, Li, Ward-Cherrier, arXiv 2506.03996.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from spikeloom.compress.blocks import Block, check_weight, damped, split_blocks
from spikeloom.compress.order import Order, Pattern
from spikeloom.compress.removal import Removals, by_least_loss, by_magnitude
from spikeloom.compress.selection import first_of_each, shared_counts

__all__ = ["choose", "prune_blocks", "prune_weight"]


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

    Each row loses the first weights of its own order of least cost. Row o's losses are multiplied
    by ``row_scale[o] ** 2`` before all rows compete. The compensation of a row with kept weights S
    is, with the damped Hessian,

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
    held: Tensor | None = None,
    name: str = "the layer",
) -> tuple[Tensor, Tensor]:
    """:func:`prune_weight` for rows that have different Hessians.

    Args:
        W: Float64 weights, shape ``[rows, d]``.
        blocks: Every row in exactly one of them.
        count: How many weights are removed.
        row_scale: Shape ``[rows]``, or None.
        order: How the rows are taken apart.
        held: True where a weight has been removed before and stays so, shape ``[rows, d]``.
        name: How a warning calls the layer.

    Returns:
        Compensated weights in float64, and the mask of what was removed.
    """
    gone = torch.zeros_like(W, dtype=torch.bool) if held is None else held
    index, losses = torch.empty_like(W, dtype=torch.long), torch.empty_like(W)
    silent = [bool((block.hessian.diagonal() == 0).all()) for block in blocks]
    # Inputs that never fired cost nothing; among themselves the smallest weights go first.
    negligible = 1.0 if all(silent) else torch.finfo(torch.float64).tiny
    for block, is_silent in zip(blocks, silent, strict=True):
        rows = block.rows
        if is_silent:
            warnings.warn(
                f"prune: the inputs of {name} ({len(rows)} rows) never fired, so its "
                "smallest weights are removed; check the calibration data",
                stacklevel=3,
            )
            found = by_magnitude(W[rows], order, gone[rows])
            index[rows], losses[rows] = found.index, found.losses * negligible
        else:
            found = by_least_loss(W[rows], block.hessian, order, gone[rows])
            index[rows], losses[rows] = found.index, found.losses
    if row_scale is not None:
        losses *= row_scale.square()[:, None]
    mask = choose(Removals(index, losses), count, order, gone)
    pruned = W.masked_fill(mask, 0.0)
    for block, is_silent in zip(blocks, silent, strict=True):
        if not is_silent:
            pruned[block.rows] = compensate(W[block.rows], block.hessian, mask[block.rows])
    return pruned, mask


def choose(removals: Removals, count: int, order: Order, gone: Tensor) -> Tensor:
    """The mask of the weights that go: the first ones of each row's order.

    Args:
        removals: The orders; those gone already lead them.
        count: How many go, unless a pattern says so.
        order: How the rows were taken apart.
        gone: True where a weight has been removed before: these count, and stay removed even if
            they are more.
    """
    if order.groups is not None:
        counts = order.fixed_counts(gone)
    else:
        counts = shared_counts(removals.losses, count, gone.sum(1))
    return first_of_each(removals, counts)


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


def _check_scale(row_scale: Tensor | None, W: Tensor) -> Tensor | None:
    if row_scale is None:
        return None
    scale = torch.as_tensor(row_scale, dtype=W.dtype, device=W.device)
    if scale.shape != W.shape[:1] or not bool(torch.isfinite(scale).all()):
        raise ValueError(
            f"row_scale: must be {len(W)} finite numbers, one for each row, got {row_scale!r}"
        )
    return scale
