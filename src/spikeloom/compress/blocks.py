"""A layer's weights as rows, and the Hessians that rows share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Block", "check_weight", "damped", "damped_inverse", "split_blocks"]

# Relative damping: this share of the mean of the diagonal is added to it.
DAMPING = 0.01
# How far a Hessian may be from symmetric, as a share of its trace.
SYMMETRY = 1e-6


@dataclass(frozen=True)
class Block:
    """Rows of a weight that share a Hessian.

    Attributes:
        rows: Indices of output rows.
        hessian: Shape ``[d, d]``, float64, not damped.
    """

    rows: Tensor
    hessian: Tensor


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
    diagonals = stack.diagonal(dim1=1, dim2=2)
    away = (stack - stack.mT).abs().amax((1, 2)) if width else stack.new_zeros(len(stack))
    if bool((diagonals < 0).any()) or bool((away > SYMMETRY * diagonals.sum(1)).any()):
        raise ValueError("H: must be symmetric with no negative diagonal; see layer_hessian")
    if rows % len(stack):
        raise ValueError(f"H: {len(stack)} groups do not divide {rows} rows")
    parts = torch.arange(rows, device=W.device).chunk(len(stack)) if rows else ()
    return [Block(part, hessian) for part, hessian in zip(parts, stack, strict=False)]


def damped(H: Tensor) -> Tensor:
    """The Hessian with 1 % of the mean of its diagonal added to it."""
    H = H.double()
    return H + DAMPING * H.diagonal().mean() * torch.eye(len(H), dtype=H.dtype, device=H.device)


def damped_inverse(H: Tensor) -> Tensor:
    """The inverse of the damped Hessian.

    Raises:
        ValueError: If H is not the second moment of anything.
    """
    factor, failed = torch.linalg.cholesky_ex(damped(H))
    if int(failed):
        raise ValueError(
            "H: must be positive semidefinite, as a second moment is; see layer_hessian"
        )
    return torch.cholesky_inverse(factor)
