"""A layer's weights as rows, and the Hessians that rows share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "Block",
    "check_weight",
    "damped",
    "damped_inverse",
    "damping",
    "split_blocks",
    "working_dtype",
]

# Relative damping: this share of the mean of the diagonal is added to it.
DAMPING = 0.01
# Widest layer that is ordered in float64; float32 leaves errors of 1e-5 in the losses.
PRECISE_WIDTH = 256
# Size of the tiles of a Hessian that are checked at once.
TILE = 256
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

    @property
    def is_silent(self) -> bool:
        """Whether the inputs never fired."""
        return not bool(self.hessian.diagonal().any())


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
    if not _is_finite(H):
        raise ValueError("H: must be finite, got NaN or infinity")
    stack = H.double() if H.dim() == 3 else H.double()[None]
    diagonals = stack.diagonal(dim1=1, dim2=2)
    if bool((diagonals < 0).any()) or bool((_asymmetry(stack) > SYMMETRY * diagonals.sum(1)).any()):
        raise ValueError("H: must be symmetric with no negative diagonal; see layer_hessian")
    if rows % len(stack):
        raise ValueError(f"H: {len(stack)} groups do not divide {rows} rows")
    parts = torch.arange(rows, device=W.device).chunk(len(stack)) if rows else ()
    return [Block(part, hessian) for part, hessian in zip(parts, stack, strict=False)]


def _asymmetry(stack: Tensor) -> Tensor:
    """How far each Hessian is from its transpose, tile by tile: no other Hessian is made."""
    furthest = stack.new_zeros(len(stack))
    for at in range(0, stack.shape[1], TILE):
        for below in range(at, stack.shape[1], TILE):
            one = stack[:, at : at + TILE, below : below + TILE]
            other = stack[:, below : below + TILE, at : at + TILE]
            furthest = torch.maximum(furthest, (one - other.mT).abs_().amax((1, 2)))
    return furthest


def _is_finite(values: Tensor) -> bool:
    """Whether all are; their sum tells most often."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def working_dtype(width: int) -> torch.dtype:
    """In which the order of a layer's weights is found."""
    return torch.float32 if width > PRECISE_WIDTH else torch.float64


def damping(H: Tensor) -> Tensor:
    """What is added to the diagonal of a Hessian: 1 % of its mean."""
    return DAMPING * H.diagonal().double().mean()


def damped(H: Tensor) -> Tensor:
    """The Hessian with 1 % of the mean of its diagonal added to it."""
    result = H.to(torch.float64, copy=True)
    result.diagonal().add_(damping(H))
    return result


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
