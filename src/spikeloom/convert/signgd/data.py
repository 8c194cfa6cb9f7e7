"""Samples, and what the model makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Data", "are_alike", "relative_error"]


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


def are_alike(calls: Sequence[Sequence[Any]]) -> bool:
    """Whether there are several samples, and all are the same.

    Args:
        calls: The flat arguments of calls.
    """
    columns = [
        [value for value in values if isinstance(value, Tensor) and value.dim()]
        for values in zip(*calls, strict=True)
    ]
    columns = [tensors for tensors in columns if tensors]
    several = any(sum(map(len, tensors)) > 1 for tensors in columns)
    return several and all(
        bool((tensor == tensors[0][:1]).all()) for tensors in columns for tensor in tensors
    )
