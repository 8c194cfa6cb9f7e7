"""What must hold before values are encoded: nothing has changed."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_same"]


def check_same(
    expected: dict[str, list[Tensor]], found: dict[str, list[Tensor]], dtype: torch.dtype
) -> None:
    """Refuse a network that computes something else once its layers are replaced.

    Args:
        expected: Outputs of the original's layers, by name; what they lack was replaced as a part
            of something larger.
        found: Those of the replaced layers, before any value is encoded.
        dtype: What they were computed in.

    Raises:
        ValueError: If a layer's output differs by more than rounding, or the original's is NaN or
            infinite.
    """
    # Models of transformers compute some of their layers in float32 whatever their dtype.
    allowed = 4 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps) ** 0.5
    pairs = [
        (name, *pair)
        for name in expected
        for pair in zip(expected[name], found.get(name, ()), strict=False)
    ]
    for name, wanted, given in pairs:
        if not bool(wanted.isfinite().all()):
            raise ValueError(
                f"calibration: {name} of the model itself is NaN or infinite on the first batch"
            )
        distance = float((given - wanted).norm() / wanted.norm().clamp(min=1e-30))
        if not distance <= allowed:
            raise ValueError(
                f"model: with its modules replaced, {name} computes something else, by "
                f"{distance:.1e} of its norm before any value is encoded; a module within looks "
                f"like one that a rule converts, and is not: name it in exclude"
            )
