r"""One-shot pruning of one layer: which weights go, and what the others take over.

A narrow layer is taken apart row by row: every row completely, always at the weight that costs
least; the costs of all rows tell how many of its first weights each row gives up; those that stay
are then solved for at once. In a wide layer, all rows lose weights together in a few rounds.

Source: Shi, Li, Ward-Cherrier, arXiv 2506.03996.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from spikeloom.compress import removal, rounds
from spikeloom.compress.blocks import Block, check_weight, damped, split_blocks
from spikeloom.compress.order import Order, Pattern
from spikeloom.compress.removal import Removals, by_least_loss, by_magnitude
from spikeloom.compress.selection import first_of_each, shared_counts

__all__ = ["choose", "prune_blocks", "prune_weight", "working_memory"]


def prune_weight(
    W: Tensor,
    H: Tensor,
    count: int | None = None,
    row_scale: Tensor | None = None,
    *,
    effort: str = "balanced",
    pattern: str | Pattern | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Remove weights from a layer and let the others compensate.

    The weights that cost least leave. Row o's losses are multiplied by ``row_scale[o] ** 2`` before
    all rows compete. The compensation of a row with kept weights S
    is, with the damped Hessian,

    .. math:: w_S \leftarrow H_{SS}^{-1} H_{S,:}\, w .

    Args:
        W: Weights, shape ``[rows, d]`` or a convolution's ``[rows, C, *kernel]``.
        H: Hessian from :func:`layer_hessian`, ``[d, d]`` or ``[groups, d, d]``, not damped; 1 % of
            the mean of its diagonal is added here.
        count: How many weights of the whole layer are removed; may be left out with a pattern.
        row_scale: The factor of a normalisation behind each row (:math:`\gamma / \sqrt{var +
            \epsilon}`); None is 1.
        effort: ``"exact"`` takes one weight at a time from each row. ``"balanced"`` does so up to
            d = 512; in wider layers all rows together lose weights in 24 rounds (fewer below 90 %),
            and what stays is solved for. ``"fast"`` takes 2 rounds at any width, and stops before
            what stays is solved for to the end.
        pattern: Such as ``"2:4"``: of each 4 neighbouring inputs of a row, 2 stay.

    Returns:
        ``(W, mask)``: new weights of the shape and dtype given, and True where a weight is removed.

    Raises:
        TypeError: If W is not a floating-point tensor, or the count not an integer.
        ValueError: If a shape, the count, the effort or the pattern does not fit, or values are NaN
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
    order = Order.plan(W.shape, count, effort, pattern)
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
    scale = _with_silence(W, blocks, row_scale, name)
    if order.rounds:
        return rounds.in_rounds(W, blocks, count, scale, order, gone)
    index, losses = torch.empty_like(W, dtype=torch.long), torch.empty_like(W)
    for block in blocks:
        rows = block.rows
        if block.is_silent:
            found = by_magnitude(W[rows], order, gone[rows])
        else:
            found = by_least_loss(W[rows], block.hessian, order, gone[rows])
        index[rows], losses[rows] = found.index, found.losses
    mask = choose(Removals(index, losses * scale[:, None]), count, order, gone)
    pruned = W.masked_fill(mask, 0.0)
    for block in blocks:
        if not block.is_silent:
            pruned[block.rows] = compensate(W[block.rows], block.hessian, mask[block.rows])
    return pruned, mask


def _with_silence(
    W: Tensor, blocks: Sequence[Block], row_scale: Tensor | None, name: str
) -> Tensor:
    """What the losses of each row are multiplied by; warn of inputs that never fired."""
    factor = torch.ones_like(W[:, 0]) if row_scale is None else row_scale.square()
    silent = [block.rows for block in blocks if block.is_silent]
    for rows in silent:
        warnings.warn(
            f"prune: the inputs of {name} ({len(rows)} rows) never fired, so its "
            "smallest weights are removed; check the calibration data",
            stacklevel=4,
        )
        # Such inputs cost nothing; among themselves the smallest weights go first.
        if len(silent) < len(blocks):
            factor[rows] *= torch.finfo(torch.float64).tiny
    return factor


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


def working_memory(rows: int, width: int, order: Order) -> int:
    """Bytes that pruning so many rows holds at once, beside their Hessian."""
    return (rounds if order.rounds else removal).working_memory(rows, width)


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
