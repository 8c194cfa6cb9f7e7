"""Batch norms as pairs (a, d), and the weights that take them, in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

__all__ = [
    "affine",
    "has_time",
    "is_plain_norm",
    "is_weight",
    "normalises_outputs",
    "output_dims",
    "scale_current",
    "scale_inputs",
    "scale_outputs",
    "set_tensors",
]

SPATIAL: dict[int, tuple[type, ...]] = {
    1: (nn.BatchNorm1d, nn.Conv1d),
    2: (nn.BatchNorm2d, nn.Conv2d),
    3: (nn.BatchNorm3d, nn.Conv3d),
}


def is_weight(module: Any) -> bool:
    """Whether a module's weights can be scaled: not if they are computed from others."""
    is_layer = isinstance(module, (nn.Linear, _ConvNd)) and not isinstance(module, _ConvTransposeNd)
    return is_layer and not hasattr(module, "parametrizations")


def is_plain_norm(module: Any) -> bool:
    """Whether a batch norm does nothing else: hosts' subclasses do, temporal norms do not."""
    own = {name for name, _ in module.named_parameters()} if isinstance(module, nn.Module) else ()
    return (
        isinstance(module, _BatchNorm)
        and module.running_var is not None
        and not (set(own) - {"weight", "bias"})
    )


def affine(norm: Any) -> tuple[Tensor, Tensor]:
    """The pair (a, d) of ``y = a u + d``."""
    var = norm.running_var.double()
    a = (var + norm.eps).rsqrt()
    if norm.weight is not None:
        a = a * norm.weight.detach().double()
    d = -a * norm.running_mean.double()
    return a, d if norm.bias is None else d + norm.bias.detach().double()


def has_time(norm: Any) -> bool:
    """Whether a host's norm takes ``[T, N, ...]``."""
    return getattr(norm, "step_mode", "s") == "m"


def _spatial(layer: Any) -> int:
    """Spatial dimensions of a norm or a weight layer."""
    for number, kinds in SPATIAL.items():
        if isinstance(layer, kinds):
            return number
    return 0


def normalises_outputs(norm: Any, weight: Any) -> bool:
    """Whether a norm's features are the outputs of the weight layer in front."""
    fits = is_weight(weight) and _spatial(norm) == max(_spatial(weight), 1)
    return fits and weight.weight.shape[0] == len(norm.running_var)


def output_dims(norm: Any, weight: Any) -> int:
    """Dimensions of a weight layer's output, as its norm takes it."""
    return 2 + _spatial(weight) + has_time(norm)


def set_tensors(layer: Any, **values: Tensor) -> None:
    """New parameters, because another module may share the old ones."""
    dtype, trains = layer.weight.dtype, layer.weight.requires_grad
    for name, value in values.items():
        setattr(layer, name, nn.Parameter(value.to(dtype), requires_grad=trains))


def _bias(layer: Any) -> Tensor | float:
    return 0.0 if layer.bias is None else layer.bias.detach().double()


def scale_outputs(layer: Any, a: Tensor, d: Tensor) -> None:
    """Take ``y = a u + d`` of a layer's outputs u into its weights."""
    weight = layer.weight.detach().double()
    column = (-1, *(1 for _ in weight.shape[1:]))
    set_tensors(layer, weight=weight * a.reshape(column), bias=a * _bias(layer) + d)


def scale_inputs(layer: Any, norm: Any) -> bool:
    """Take a norm in front into the weights; False where padding or grouping forbids it."""
    a, d = affine(norm)
    weight = layer.weight.detach().double()
    if isinstance(layer, _ConvNd) and (
        layer.groups != 1 or any(side != 0 for side in layer.padding)
    ):
        return False
    if weight.shape[1] % len(a):
        return False
    # A flattened map has its channels first.
    a, d = (t.repeat_interleave(weight.shape[1] // len(a)) for t in (a, d))
    column = (1, -1, *(1 for _ in weight.shape[2:]))
    shift = (weight * d.reshape(column)).flatten(1).sum(1)
    set_tensors(layer, weight=weight * a.reshape(column), bias=shift + _bias(layer))
    return True


def scale_current(layer: Any, gain: float) -> None:
    """Multiply what a weight layer or a norm puts out."""
    if layer.weight is None:  # a norm without gain and shift of its own
        layer.weight = nn.Parameter(torch.ones_like(layer.running_var))
        layer.bias = nn.Parameter(torch.zeros_like(layer.running_var))
    set_tensors(layer, weight=layer.weight.detach().double() * gain)
    if layer.bias is not None:
        set_tensors(layer, bias=layer.bias.detach().double() * gain)
