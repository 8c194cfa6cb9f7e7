"""Weights on a grid: what a file says about them, and how few bits would hold them.

A file holds every weight as float32, zeros included, so readers need not know of any grid. What
pruning and quantisation left on a layer, the buffers ``weight_mask`` and ``weight_scale``, is told
in the node's metadata, for people and tools; no reader needs it.
"""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
from torch import Tensor, nn

__all__ = ["MARKS", "bits_of_rows", "tell_of_grid"]

# What a node's metadata may say about its weights.
MARKS = ("weight_sparsity", "weight_bits", "weight_scale")
# Wider grids are not looked for.
MAX_BITS = 8


def tell_of_grid(node: nir.NIRNode, module: nn.Module | None) -> str:
    """Add bits, step and sparsity to a weight node's metadata, if the file's weights have them.

    Args:
        node: The finished node; folding may have changed its weights.
        module: The layer that it was made from.

    Returns:
        The same in words, empty if there is nothing to tell.
    """
    weight = getattr(node, "weight", None)
    if weight is None:
        return ""
    found: dict[str, Any] = {}
    if isinstance(getattr(module, "weight_mask", None), Tensor):
        found["weight_sparsity"] = float((weight == 0).mean())
    step = getattr(module, "weight_scale", None)
    if isinstance(step, Tensor):
        scale = step.detach().cpu().float().numpy()
        bits = _bits_with(weight.reshape(len(weight), -1), scale)
        if bits is not None:
            found |= {"weight_bits": bits, "weight_scale": scale}
    node.metadata = {**node.metadata, **found}
    words = []
    if "weight_sparsity" in found:
        words.append(f"{found['weight_sparsity']:.1%} zeros")
    if "weight_bits" in found:
        words.append(f"{found['weight_bits']} bits")
    return ", ".join(words)


def _bits_with(rows: np.ndarray, scale: np.ndarray) -> int | None:
    """The width of the codes whose products with the scale are the weights, bit by bit."""
    if scale.shape != (len(rows),):
        return None
    codes = np.rint(rows / scale[:, None]).astype(np.float32)
    return _width(codes) if np.array_equal(scale[:, None] * codes, rows) else None


def bits_of_rows(weight: np.ndarray) -> int | None:
    """The fewest bits of whole numbers that hold each row of weights, times a step of its own.

    Args:
        weight: Weights, the rows first.

    Returns:
        The width of the signed numbers, None if 8 bits do not suffice.

    Example:
        >>> import numpy
        >>> bits_of_rows(numpy.array([[0.3, -0.1, 0.2], [7.0, 0.0, -8.0]], dtype="float32"))
        4
    """
    rows = np.asarray(weight, np.float64).reshape(len(weight), -1)
    rows = rows[np.any(rows != 0, axis=1)]
    widest = 1
    for divisor in range(1, 2 ** (MAX_BITS - 1) + 1):
        if not len(rows):
            return widest
        smallest = np.where(rows == 0, np.inf, np.abs(rows)).min(1)
        codes = rows / (smallest[:, None] / divisor)
        whole = np.rint(codes)
        # A product with the step was rounded to float32 once.
        fits = (np.abs(codes - whole) <= np.abs(whole) * 2.0**-22).all(1)
        widths = [_width(row) for row in whole[fits]]
        if None in widths:
            return None
        widest = max([widest, *(width for width in widths if width is not None)])
        rows = rows[~fits]
    return widest if not len(rows) else None


def _width(codes: np.ndarray) -> int | None:
    """Bits of signed numbers that hold all codes; None beyond 8."""
    low, high = (float(codes.min()), float(codes.max())) if codes.size else (0.0, 0.0)
    for bits in range(1, MAX_BITS + 1):
        if -(2 ** (bits - 1)) <= low and high <= 2 ** (bits - 1) - 1:
            return bits
    return None
