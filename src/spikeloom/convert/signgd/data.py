"""Samples, and what the model makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Data", "off_by", "relative_error", "spread_of", "squared_error"]


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
    return squared_error(y, exact, exact)


def squared_error(y: Tensor, exact: Tensor, whole: Tensor) -> float:
    """What some samples add to the relative squared error of all.

    Args:
        y: The values of these samples.
        exact: What they should be.
        whole: What those of all samples should be.
    """
    power = whole.square().mean().clamp_min(torch.finfo(whole.dtype).tiny)
    return float((y - exact).square().sum() / whole.numel() / power)


def spread_of(exact: Tensor) -> float:
    """How far samples lie from their mean, root mean square; at least a tenth of their size."""
    values = exact.double()
    spread = (values - values.mean(0)).square().mean().sqrt()
    size = values.square().mean().sqrt().clamp_min(torch.finfo(exact.dtype).tiny)
    return max(float(spread), 0.1 * float(size))


def off_by(y: Tensor, exact: Tensor) -> float:
    """The root mean square error, relative to the spread of the exact values."""
    return float((y - exact).double().square().mean().sqrt()) / spread_of(exact)
