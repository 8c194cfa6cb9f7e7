"""The grid of a quantised layer: a whole number for each weight, and a step for each row.

:func:`spikeloom.compress.quantize` leaves them on a layer as its buffers ``weight_codes`` and
``weight_scale``. Whatever scales a weight later scales the steps along.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spikeloom.rows import in_weight_shape, outputs_first

__all__ = ["BUFFERS", "GRID", "bits_of", "has_grid", "is_held", "is_on_grid", "scale_weight"]

GRID = ("weight_codes", "weight_scale")
# What a compressed layer keeps beside its weight.
BUFFERS = ("weight_mask", *GRID)
# A cast rounds the weight, the step and their product once each.
ROUNDINGS = 3


def has_grid(layer: Any) -> bool:
    """Whether a layer was quantised."""
    return all(isinstance(getattr(layer, name, None), Tensor) for name in GRID)


def is_held(layer: Any) -> bool:
    """Whether zeros and codes are still held true in every call, which ``compress.finish`` ends."""
    marked = any(isinstance(getattr(layer, name, None), Tensor) for name in BUFFERS)
    return marked and bool(layer._state_dict_pre_hooks)


def is_on_grid(layer: Any, weight: Tensor, codes: Tensor) -> bool:
    """Whether a weight is the layer's step times codes, to the last bit."""
    return torch.equal(outputs_first(layer, weight).flatten(1), _products(layer, codes))


def bits_of(layer: Any) -> int | None:
    """How many bits hold every code of a layer.

    Args:
        layer: Any module.

    Returns:
        The width of the signed numbers; None for a layer that was not quantised, or whose weight
        has changed since by more than a cast to another dtype changes it.
    """
    if not has_grid(layer):
        return None
    weight = outputs_first(layer, layer.weight.detach()).flatten(1)
    dtypes = (torch.float32, weight.dtype)
    rounding = ROUNDINGS * max(torch.finfo(dtype).eps for dtype in dtypes)
    products = _products(layer, layer.weight_codes).double()
    if bool(((weight.double() - products).abs() > rounding * products.abs()).any()):
        return None
    codes = layer.weight_codes
    low, high = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
    return max(1, (-low - 1).bit_length() + 1 if low < 0 else 0, high.bit_length() + (high > 0))


def scale_weight(layer: Any, factor: Tensor | float) -> Tensor:
    """A layer's weight times a factor; the steps of its grid take the factor too.

    A factor for each input leaves no common step to a row, unless all are equal: the layer loses
    its grid then.

    Args:
        layer: A weight layer, whose buffers are changed and whose weight is not.
        factor: Broadcasts against ``[rows, C, *kernel]``.

    Returns:
        The new weight in float64; on a grid it is step times code to the last bit once it is
        rounded to the layer's dtype.
    """
    weight = outputs_first(layer, layer.weight.detach())
    factor = torch.as_tensor(factor, dtype=torch.float64, device=weight.device)
    scaled = weight.double() * factor
    if has_grid(layer):
        was_on_grid = is_on_grid(layer, layer.weight.detach(), layer.weight_codes)
        by_row = factor.expand(weight.shape).flatten(1)
        if not bool((by_row == by_row[:, :1]).all()):
            for name in GRID:
                delattr(layer, name)
        else:
            _scale_steps(layer, by_row[:, 0])
            if was_on_grid:
                scaled = _products(layer, layer.weight_codes).double().reshape(weight.shape)
    return in_weight_shape(layer, scaled.flatten(1))


def _scale_steps(layer: Any, factor: Tensor) -> None:
    """A row that nothing is left of has the codes 0, and keeps its step."""
    steps = (layer.weight_scale.double() * factor).to(layer.weight_scale.dtype)
    gone = steps == 0
    codes = outputs_first(layer, layer.weight_codes).flatten(1).masked_fill(gone[:, None], 0)
    layer.weight_codes = in_weight_shape(layer, codes)
    layer.weight_scale = torch.where(gone, layer.weight_scale, steps)


def _products(layer: Any, codes: Tensor) -> Tensor:
    scale = layer.weight_scale
    rows = outputs_first(layer, codes).flatten(1)
    products: Tensor = scale[:, None] * rows.to(scale.dtype)
    return products
