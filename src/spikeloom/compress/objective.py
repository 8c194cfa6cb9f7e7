r"""What a change of weights does to the membranes behind them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from spikeloom.compress.blocks import Block

__all__ = ["quadratic_error"]


def quadratic_error(
    change: Tensor, blocks: Sequence[Block], row_scale: Tensor | None = None
) -> float:
    r"""The mean squared movement of the membranes, over samples and summed over steps.

    .. math:: \tfrac{1}{2} \sum_o a_o^2\; \Delta w_o\, H\, \Delta w_o^T

    Args:
        change: Float64 difference of weights, shape ``[rows, d]``.
        blocks: Rows and their Hessians, not damped.
        row_scale: :math:`a_o`, or None for 1.

    Returns:
        The error, in the units of the Hessian.
    """
    total = 0.0
    for block in blocks:
        rows = change[block.rows]
        per_row = ((rows @ block.hessian) * rows).sum(1)
        if row_scale is not None:
            per_row = per_row * row_scale[block.rows].square()
        total += 0.5 * float(per_row.sum())
    return total
