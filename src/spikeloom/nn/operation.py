"""What linear layers and convolutions do with spikes, and without."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from spikeloom.kernel import events
from spikeloom.kernel.events import Spikes

__all__ = ["Linear", "Operation"]

Packed = tuple[Spikes, int]


@dataclass(frozen=True)
class Operation:
    """A product of an input and a weight, linear in both."""

    def fits(self, x: Tensor, weight: Tensor) -> bool:
        """Whether events know these shapes; torch says what is wrong with others."""
        raise NotImplementedError

    def products(self, shape: torch.Size, weight: torch.Size) -> int:
        """How many products of two numbers the dense operation takes."""
        raise NotImplementedError

    def lines(self, x: Tensor) -> Tensor:
        """The input as rows that are packed one by one, ``[rows, inputs]`` with dense rows."""
        raise NotImplementedError

    def packed(self, x: Tensor) -> Packed | None:
        """The input as spikes and their number; None if it is none."""
        raise NotImplementedError

    def dense(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Torch's operation."""
        raise NotImplementedError

    def dense_weight_gradient(self, x: Tensor, gy: Tensor, weight: torch.Size) -> Tensor:
        """The gradient of the weight as torch computes it."""
        raise NotImplementedError

    def input_gradient(self, shape: torch.Size, gy: Tensor, weight: Tensor) -> Tensor:
        """The gradient of an input of this shape."""
        raise NotImplementedError

    def bias_gradient(self, gy: Tensor) -> Tensor:
        """The gradient of the bias."""
        raise NotImplementedError

    def product(
        self, spikes: Spikes, shape: torch.Size, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """The sum of the weights of what fired, for an input of this shape."""
        raise NotImplementedError

    def weight_gradient(
        self, spikes: Spikes, shape: torch.Size, gy: Tensor, weight: torch.Size
    ) -> Tensor:
        """The sum of the output's gradients where something fired."""
        raise NotImplementedError


@dataclass(frozen=True)
class Linear(Operation):
    """``F.linear``: the last axis of the input is multiplied."""

    def fits(self, x: Tensor, weight: Tensor) -> bool:
        """Whether the input is as wide as the weight."""
        return x.dim() > 0 and weight.dim() == 2 and x.shape[-1] == weight.shape[1]

    def products(self, shape: torch.Size, weight: torch.Size) -> int:
        """Those of a matrix product."""
        return shape.numel() * weight[0]

    def lines(self, x: Tensor) -> Tensor:
        """The last axis as rows."""
        rows = x.reshape(-1, x.shape[-1])
        return rows if rows.stride(1) == 1 else rows.contiguous()

    def packed(self, x: Tensor) -> Packed | None:
        """The last axis as rows of bits, which may differ in their amplitude."""
        return events.pack(self.lines(x))

    def dense(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Torch's own."""
        return F.linear(x, weight, bias)

    def dense_weight_gradient(self, x: Tensor, gy: Tensor, weight: torch.Size) -> Tensor:
        """A matrix product."""
        return self._rows(gy).t() @ self._rows(x)

    def input_gradient(self, shape: torch.Size, gy: Tensor, weight: Tensor) -> Tensor:
        """A matrix product."""
        return gy @ weight

    def bias_gradient(self, gy: Tensor) -> Tensor:
        """The sum over all rows."""
        return self._rows(gy).sum(0)

    def product(
        self, spikes: Spikes, shape: torch.Size, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """``[*, outputs]``."""
        return events.product(spikes, weight, bias).view(*shape[:-1], weight.shape[0])

    def weight_gradient(
        self, spikes: Spikes, shape: torch.Size, gy: Tensor, weight: torch.Size
    ) -> Tensor:
        """``[outputs, inputs]``."""
        return events.weight_gradient(spikes, self.lines(gy))

    @staticmethod
    def _rows(x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[-1])
