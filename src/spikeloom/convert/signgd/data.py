"""Samples, and what the model makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Data", "relative_error"]


@dataclass(frozen=True)
class Data:
    """Samples, and what the model makes of them.

    Attributes:
        inputs: The flat arguments of a call.
        exact: The value at each node, by name.
        outputs: The flat outputs.
    """

    inputs: list[Any]
    exact: dict[str, Tensor]
    outputs: list[Any]


def relative_error(y: Tensor, exact: Tensor) -> float:
    """Squared error relative to the mean square."""
    power = exact.square().mean().clamp_min(torch.finfo(exact.dtype).tiny)
    return float((y - exact).square().mean() / power)
