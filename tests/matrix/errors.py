"""How far two outputs are apart."""

from __future__ import annotations

from typing import Any

import torch

from tests.matrix.record import tensors_of

__all__ = ["relative"]


def relative(found: Any, expected: Any) -> float:
    """The norm of the difference over that of what is expected, of all tensors together."""
    pairs = list(zip(tensors_of(found), tensors_of(expected), strict=True))
    assert pairs
    assert all(one.shape == other.shape for one, other in pairs)
    one, other = (
        torch.cat([pair[i].detach().double().flatten() for pair in pairs]) for i in (0, 1)
    )
    return float((one - other).norm() / other.norm())
