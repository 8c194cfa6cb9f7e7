"""The weight layers that can be compressed, and their weights as rows.

A row holds what one output adds up. It is the first axis of the weights of linear layers and
convolutions; transposed convolutions and the ``Conv1D`` of transformers keep inputs in front.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "KINDS",
    "WeightLayer",
    "entering",
    "groups_of",
    "in_weight_shape",
    "inputs_of",
    "is_linear",
    "is_transposed",
    "is_weight_layer",
    "outputs_first",
    "outputs_of",
    "product",
]

# What ``is_weight_layer`` vouches for; a Conv1D has the attributes of a Linear that are used.
WeightLayer = (
    nn.Linear
    | nn.Conv1d
    | nn.Conv2d
    | nn.Conv3d
    | nn.ConvTranspose1d
    | nn.ConvTranspose2d
    | nn.ConvTranspose3d
)
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d

# How errors name them.
KINDS = "Linear, Conv1d/2d/3d, ConvTranspose1d/2d/3d or (transformers') Conv1D"


def is_weight_layer(module: Any) -> TypeGuard[WeightLayer]:
    """Whether a module is of a kind that is compressed."""
    return isinstance(module, WeightLayer) or _is_conv1d(module)


def _is_conv1d(module: Any) -> bool:
    """Whether it is GPT-2's linear layer, which is known by its name, for its package is large."""
    names = ((cls.__module__, cls.__name__) for cls in type(module).__mro__)
    return ("transformers.pytorch_utils", "Conv1D") in names


def is_linear(layer: WeightLayer) -> bool:
    """Whether the layer's inputs are the last axis, instead of channels of images."""
    return layer.weight.dim() == 2


def is_transposed(layer: WeightLayer) -> TypeGuard[Transposed]:
    """Whether it is a transposed convolution."""
    return isinstance(layer, Transposed)


def groups_of(layer: WeightLayer) -> int:
    """Into how many groups a convolution's channels fall; 1 for other layers."""
    return int(getattr(layer, "groups", 1))


def inputs_of(layer: WeightLayer) -> int:
    """How many features or channels the layer takes."""
    return _channels(layer)[0]


def outputs_of(layer: WeightLayer) -> int:
    """How many features or channels the layer puts out: its rows."""
    return _channels(layer)[1]


def _channels(layer: WeightLayer) -> tuple[int, int]:
    first, second = layer.weight.shape[:2]
    if is_transposed(layer) or _is_conv1d(layer):
        return first, second * groups_of(layer)
    return second * groups_of(layer), first


def outputs_first(layer: WeightLayer, values: Tensor) -> Tensor:
    """Values of the shape of a layer's weight as ``[rows, C, *kernel]``.

    Args:
        layer: The layer.
        values: Its weight, or what there is one of for each weight.
    """
    if _is_conv1d(layer):
        return values.T
    if is_transposed(layer):
        return values.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
    return values


def in_weight_shape(layer: WeightLayer, rows: Tensor) -> Tensor:
    """The way back from rows ``[rows, d]`` to the shape of a layer's weight.

    The result is contiguous, as safetensors asks of what it saves.

    Args:
        layer: The layer.
        rows: A value for each weight.
    """
    shape = layer.weight.shape
    if _is_conv1d(layer):
        return rows.T.contiguous()
    if is_transposed(layer):
        grouped = rows.reshape(layer.groups, shape[1], -1, *shape[2:])
        return grouped.transpose(1, 2).reshape(shape).contiguous()
    return rows.reshape(shape)


def entering(layer: WeightLayer, x: Tensor) -> Tensor:
    """What the layer's weight multiplies: its input, or what the layer encodes it as.

    A layer of weights that encodes its input has a method ``encoded`` for that, as the layers of
    :class:`spikeloom.convert.LAS` have.

    Args:
        layer: The layer.
        x: What it is called with.
    """
    encoded: Callable[[Tensor], Tensor] | None = getattr(layer, "encoded", None)
    return x if encoded is None else encoded(x)


def product(layer: WeightLayer, x: Tensor) -> Tensor:
    """The layer's weight times an input, plus its bias; images with any axes in front.

    Args:
        layer: The layer, of which hooks and what a subclass adds are left out.
        x: Its input.
    """
    if is_linear(layer):
        return F.linear(x, outputs_first(layer, layer.weight), layer.bias)
    images = x.reshape(-1, *x.shape[1 - layer.weight.dim() :])
    convolution: Any = layer
    if not is_transposed(layer):
        product: Tensor = convolution._conv_forward(images, layer.weight, layer.bias)
        return product
    transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
    return transposed[layer.weight.dim() - 3](
        images,
        layer.weight,
        layer.bias,
        convolution.stride,
        convolution.padding,
        convolution.output_padding,
        convolution.groups,
        convolution.dilation,
    )
