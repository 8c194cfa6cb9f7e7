r"""One-shot quantisation of one layer: the grid, and who makes up for the rounding.

Inputs are rounded one after another, those with the least uncertain weight (the smallest diagonal
entry of the inverse Hessian) first, and the weights not yet rounded absorb each error:

.. math::
    w_k \leftarrow w_k + (q_j - w_j)\, [H^{-1}]_{jk} / [H^{-1}]_{jj}

All rows share the order, so the successive inverses are the rows of one Cholesky factor, and errors
reach distant columns once per block instead of once per column.

Source: Shi, Li, Ward-Cherrier, arXiv 2506.03996; the Cholesky form is GPTQ's (Frantar et al., arXiv
2210.17323).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spikeloom.compress.blocks import Block, check_weight, damped_inverse, split_blocks

__all__ = ["check_bits", "grid", "quantize_blocks", "quantize_weight", "round_to_grid"]

# Columns that are rounded before the errors are passed on to the columns behind them.
COLUMNS = 128


def quantize_weight(W: Tensor, H: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Round a layer's weights to a grid, each error absorbed by weights not yet rounded.

    The grid of a row is symmetric around its zero:

    .. math::
        w = \mathrm{scale} \cdot \mathrm{code},\qquad
        \mathrm{scale} = \frac{2 \max |w|}{2^b - 1},\qquad
        \mathrm{code} \in \{-2^{b-1}, \ldots, 2^{b-1} - 1\}

    Args:
        W: Weights, shape ``[rows, d]`` or a convolution's ``[rows, C, *kernel]``.
        H: Hessian from :func:`layer_hessian`, ``[d, d]`` or ``[groups, d, d]``, not damped; 1 % of
            the mean of its diagonal is added here.
        bits: b, from 2 to 8.

    Returns:
        ``(W, codes, scale)``: the weights on the grid, in the shape and dtype given; int8 codes of
        the same shape; the scale of each row, shape ``[rows]`` and the dtype of W, so that scale
        times code is the weight to the last bit.

    Raises:
        TypeError: If W is not a floating-point tensor, or bits not an integer.
        ValueError: If bits lie outside 2 to 8, a shape does not fit, or values are NaN or infinite.

    Example:
        >>> import torch
        >>> from spikeloom import compress
        >>> W = torch.tensor([[0.5, -0.2, 0.12]])
        >>> quantised, codes, scale = compress.quantize_weight(W, torch.eye(3), bits=4)
        >>> codes
        tensor([[ 7, -3,  2]], dtype=torch.int8)
        >>> torch.equal(quantised, scale[:, None] * codes)
        True
    """
    check_bits(bits)
    flat = check_weight(W)
    scale = grid(flat, bits, W.dtype)
    codes = quantize_blocks(flat, split_blocks(flat, H), scale.double(), bits)
    quantised = scale[:, None] * codes.to(W.dtype)
    return quantised.reshape(W.shape), codes.reshape(W.shape), scale


def check_bits(bits: int) -> None:
    """Raise unless bits is an integer from 2 to 8."""
    if isinstance(bits, bool) or not isinstance(bits, int):
        raise TypeError(f"bits: must be an integer, got {bits!r}")
    if not 2 <= bits <= 8:
        raise ValueError(f"bits: must be from 2 to 8, got {bits}")


def grid(W: Tensor, bits: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The step of each row's grid: the largest weight lies half a step beyond the last code."""
    largest = W.abs().amax(dim=1) if W.shape[1] else W.new_zeros(len(W))
    largest = torch.where(largest == 0, 1.0, largest)
    scale = (2 * largest / (2**bits - 1)).to(dtype)
    # A step that is too small for the dtype would leave nothing of the row.
    limits = torch.finfo(dtype)
    return torch.where(scale == 0, limits.smallest_normal * limits.eps, scale)


def round_to_grid(W: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The nearest code of each weight, half to even; out of range: the last code."""
    last = 2 ** (bits - 1)
    return (W / scale[:, None]).round().clamp(-last, last - 1)


def quantize_blocks(
    W: Tensor, blocks: Sequence[Block], scale: Tensor, bits: int, mask: Tensor | None = None
) -> Tensor:
    """:func:`quantize_weight` for rows that have different Hessians.

    Args:
        W: Float64 weights, shape ``[rows, d]``.
        blocks: Every row in exactly one of them.
        scale: Float64 step of each row.
        bits: Width of a code.
        mask: True where a weight is zero and stays so.

    Returns:
        Int8 codes, shape ``[rows, d]``.
    """
    codes = torch.empty(W.shape, dtype=torch.int8, device=W.device)
    for block in blocks:
        held = None if mask is None else mask[block.rows]
        codes[block.rows] = _quantize_rows(
            W[block.rows], block.hessian, scale[block.rows], bits, held
        ).to(torch.int8)
    return codes


def _quantize_rows(W: Tensor, H: Tensor, scale: Tensor, bits: int, mask: Tensor | None) -> Tensor:
    """Codes of rows that share a Hessian, as float64."""
    if not bool(H.diagonal().any()):
        # Inputs that never fired tell nothing: every weight is rounded for itself.
        codes = round_to_grid(W, scale, bits)
        return codes if mask is None else codes.masked_fill(mask, 0.0)
    inverse = damped_inverse(H)
    order = inverse.diagonal().argsort(stable=True)
    inverse = inverse.index_select(0, order).index_select(1, order)
    factor = torch.linalg.cholesky(inverse, upper=True)
    # An input's weights side by side in memory: that is how they are read.
    rest = W.mT.index_select(0, order)
    held = None if mask is None else mask.mT.index_select(0, order)
    codes = torch.empty_like(rest)
    for start in range(0, len(rest), COLUMNS):
        part = slice(start, start + COLUMNS)
        weights, diagonal = rest[part], factor[part, part]
        errors = torch.empty_like(weights)
        for j, column in enumerate(weights):
            code = round_to_grid(column[:, None], scale, bits)[:, 0]
            if held is not None:
                code = code.masked_fill(held[start + j], 0.0)
            codes[start + j] = code
            errors[j] = (column - scale * code) / diagonal[j, j]
            weights[j:].addr_(diagonal[j, j:], errors[j], alpha=-1)
        behind = slice(start + COLUMNS, None)
        rest[behind].addmm_(factor[part, behind].mT, errors, alpha=-1)
    return torch.empty_like(W).index_copy_(1, order, codes.mT)
