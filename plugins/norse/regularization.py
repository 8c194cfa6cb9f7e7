"""Accumulators for Norse's ``RegularizationCell``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["magnitude_accumulator"]


def magnitude_accumulator(z: Tensor, s: Any, state: Any = None) -> Any:
    """Sum the magnitude of the spikes.

    For neurons with negative spikes: Norse's ``spike_accumulator`` is a plain sum, in which +1 and
    -1 cancel.

    Args:
        z: Spikes of a cell.
        s: State of the cell, not used.
        state: What was accumulated before, None for nothing.

    Returns:
        ``state + sum(abs(z))``.

    Example:
        >>> import torch
        >>> from norse.torch.module.regularization import RegularizationCell
        >>> cell = RegularizationCell(magnitude_accumulator)
        >>> cell(torch.tensor([1.0, -1.0, 0.0]), None)[1]
        tensor(2.)
    """
    total = z.abs().sum()
    return total if state is None else state + total
