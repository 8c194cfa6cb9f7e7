"""Batch norms as pairs (a, d), and the weights that take them, in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from spikeloom.grid import scale_weight

__all__ = [
    "affine",
    "scale_current",
    "scale_inputs",
    "scale_outputs",
    "set_tensors",
    "takes_inputs",
]


def affine(norm: Any) -> tuple[Tensor, Tensor]:
    """The pair (a, d) of ``y = a u + d``."""
    var = norm.running_var.double()
    a = (var + norm.eps).rsqrt()
    if norm.weight is not None:
        a = a * norm.weight.detach().double()
    d = -a * norm.running_mean.double()
    return a, d if norm.bias is None else d + norm.bias.detach().double()


def set_tensors(layer: Any, **values: Tensor) -> None:
    """New parameters, because another module may share the old ones."""
    dtype, trains = layer.weight.dtype, layer.weight.requires_grad
    for name, value in values.items():
        setattr(layer, name, nn.Parameter(value.to(dtype), requires_grad=trains))


def _bias(layer: Any) -> Tensor | float:
    return 0.0 if layer.bias is None else layer.bias.detach().double()


def scale_outputs(layer: Any, a: Tensor, d: Tensor) -> None:
    """Take ``y = a u + d`` of a layer's outputs u into its weights."""
    column = (-1, *(1 for _ in layer.weight.shape[1:]))
    set_tensors(layer, weight=scale_weight(layer, a.reshape(column)), bias=a * _bias(layer) + d)


def takes_inputs(layer: Any, features: int, positions: bool) -> bool:
    """Whether a weight layer can take a norm in front: each output must see all that it shifts.

    Args:
        layer: The weight layer.
        features: The norm's.
        positions: Whether each feature has come with its positions, flattened.
    """
    if isinstance(layer, _ConvNd):
        # A border of zeros is not shifted.
        padded = layer.padding != "valid" and any(side != 0 for side in layer.padding)
        return layer.groups == 1 and not padded and layer.weight.shape[1] == features
    inputs = layer.weight.shape[1]
    return bool(inputs % features == 0 if positions else inputs == features)


def scale_inputs(layer: Any, a: Tensor, d: Tensor) -> None:
    """Take ``a u + d`` of a layer's inputs u into its weights; a map's channels come first."""
    weight = layer.weight.detach().double()
    a, d = (t.repeat_interleave(weight.shape[1] // len(a)) for t in (a, d))
    column = (1, -1, *(1 for _ in weight.shape[2:]))
    shift = (weight * d.reshape(column)).flatten(1).sum(1)
    set_tensors(layer, weight=scale_weight(layer, a.reshape(column)), bias=shift + _bias(layer))


def scale_current(layer: Any, gain: float) -> None:
    """Multiply what a weight layer or a norm puts out."""
    if layer.weight is None:  # a norm without gain and shift of its own
        layer.weight = nn.Parameter(torch.ones_like(layer.running_var))
        layer.bias = nn.Parameter(torch.zeros_like(layer.running_var))
    is_norm = layer.weight.dim() == 1
    weight = layer.weight.detach().double() * gain if is_norm else scale_weight(layer, gain)
    set_tensors(layer, weight=weight)
    if layer.bias is not None:
        set_tensors(layer, bias=layer.bias.detach().double() * gain)
