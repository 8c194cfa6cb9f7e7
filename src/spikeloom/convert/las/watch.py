"""What a place of a network refuses, and counts: values that its neuron cannot encode."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Watch"]


@dataclass
class Watch:
    """Refuses NaN and infinity, and counts values beyond the range of a neuron.

    Attributes:
        values: How many passed since the conversion.
        saturated: How many of them lay beyond the range.
    """

    values: int = 0
    saturated: int = 0
    _warned: bool = False

    def see(self, name: str, x: Tensor, high: float | Tensor, low: float | None = None) -> Tensor:
        """The values as they are, once they are looked at; it warns at the first beyond the range.

        Args:
            name: Of the place, for errors.
            x: Any shape.
            high: Where the range ends.
            low: Where it begins; None is ``-high``.

        Raises:
            ValueError: If a value is NaN or infinite.
        """
        if torch.compiler.is_compiling():
            # A compiled graph cannot raise: infinity becomes NaN, and NaN stays.
            return x + (x - x).detach()
        if x.numel():
            end = float(high)
            self._count(name or "the model", x.detach(), -end if low is None else low, end)
        return x

    def _count(self, name: str, x: Tensor, low: float, high: float) -> None:
        least, most = (float(value) for value in torch.aminmax(x))
        if not (math.isfinite(least) and math.isfinite(most)):
            raise ValueError(f"{name}: the input holds NaN or infinity")
        self.values += x.numel()
        if low <= least and most <= high:
            return
        self.saturated += int(((x < low) | (x > high)).sum())
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{name}: {self.saturated / self.values:.2e} of the values lie beyond "
                f"{high:g}, the largest range, and saturate; calibrate on more or other data",
                stacklevel=2,
            )
