"""What a folded norm leaves behind in the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["FeatureShift", "FoldedNorm"]


class FeatureShift(nn.Module):
    """What a norm in front of a neuron leaves behind: a choice of sign and an addition.

    Args:
        sign: -1, 0 or 1 for each feature, in a shape that broadcasts against the input.
        shift: What is added, in the same shape.
        dims: Dimensions of the input.
        tokens: The input's first axis holds this many tokens of each map, which is an axis of its
            own for sign and shift.
    """

    positive: Tensor
    negative: Tensor
    shift: Tensor

    def __init__(self, sign: Tensor, shift: Tensor, dims: int, tokens: int | None = None) -> None:
        super().__init__()
        self.dims = dims
        self.register_buffer("positive", sign > 0)
        self.register_buffer("negative", sign < 0)
        self.register_buffer("shift", shift)
        self.tokens = tokens

    def forward(self, x: Tensor) -> Tensor:
        """Choose x, -x or 0, and add."""
        _check_dims(x, self.dims)
        if self.tokens is not None:
            x = x.unflatten(0, (-1, self.tokens))
        other = torch.where(self.negative, -x, torch.zeros((), dtype=x.dtype, device=x.device))
        y = torch.where(self.positive, x, other) + self.shift
        return y if self.tokens is None else y.flatten(0, 1)


class FoldedNorm(nn.Identity):
    """In the place of a norm that is now part of the layer in front, or behind.

    Args:
        dims: Dimensions of an input whose feature axis is the layer's.
    """

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, input: Tensor) -> Tensor:
        """Pass on what the layer normalises."""
        _check_dims(input, *self.dims)
        return input


def _check_dims(x: Tensor, *dims: int) -> None:
    """A one-dimensional norm's feature axis is only known once it sees an input."""
    if x.dim() not in dims:
        raise ValueError(
            f"folded norm: an input of {' or '.join(map(str, dims))} dimensions was expected, "
            f"where the norm's features are where they were folded to, got {tuple(x.shape)}; name "
            f"this norm in fold_norms(..., keep=[...])"
        )
