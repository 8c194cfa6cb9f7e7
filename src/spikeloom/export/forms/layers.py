"""Weight layers, pooling and normalisation of torch and its hosts as NIR nodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn

from spikeloom.export.forms.foreign import refuse_foreign
from spikeloom.export.refuse import Refused

__all__ = [
    "LAYERS",
    "Bias",
    "Norm",
    "Transparent",
    "bias_node",
    "flatten_node",
    "gain_node",
    "layer_key",
    "require_counterpart",
    "translate_layer",
    "transparent",
]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Transparent:
    """A module that passes its input on."""


@dataclass(frozen=True)
class Norm:
    """A normalisation in evaluation: ``y = scale * x + shift`` for each channel."""

    scale: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True)
class Bias:
    """What is added to a signal, a number for each channel."""

    shift: np.ndarray


# Layers of up to so many features get the matrices that every reader knows.
SMALL = 1024


def gain_node(shape: Shape, gain: float | np.ndarray) -> nir.NIRNode:
    """A node that multiplies.

    Args:
        shape: Shape of the signal.
        gain: By what, broadcast to it.
    """
    gains = np.array(np.broadcast_to(np.asarray(gain, np.float32), shape))
    if len(shape) == 1 and shape[0] <= SMALL:
        return nir.Linear(weight=np.diag(gains))
    return nir.Scale(scale=gains)


def bias_node(shape: Shape, bias: Bias) -> nir.NIRNode:
    """A node that adds a number to each channel.

    Args:
        shape: Shape of the signal.
        bias: What it adds.

    Raises:
        Refused: If it would be a large matrix of zeros.
    """
    channels = len(bias.shift)
    if channels > SMALL or len(shape) not in (1, 3):
        raise Refused(
            f"adds a bias to {list(shape)} features that come from no weights of their own",
            "put the bias into the layer before it",
        )
    eye, shift = np.eye(channels, dtype=np.float32), bias.shift.astype(np.float32)
    if len(shape) == 1:
        return nir.Affine(weight=eye, bias=shift)
    weight = eye[:, :, None, None]
    return nir.Conv2d(
        input_shape=shape[1:],
        weight=weight,
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        groups=1,
        bias=shift,
    )


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().to(torch.float32).numpy().copy()


def _linear(module: Any, shape: Shape) -> nir.NIRNode:
    if len(shape) != 1:
        raise Refused(
            f"acts on the last axis of {list(shape)}, a NIR Affine takes one axis",
            "flatten before it, or write the mixing as one matrix over all axes",
        )
    if module.bias is None:
        return nir.Linear(weight=_array(module.weight))
    return nir.Affine(weight=_array(module.weight), bias=_array(module.bias))


def _pair(value: Any, rank: int) -> tuple[int, ...]:
    return (int(value),) * rank if isinstance(value, int) else tuple(int(v) for v in value)


def _conv(module: Any, shape: Shape) -> nir.NIRNode:
    """One NIR convolution with the same numbers.

    Groups are written as a dense kernel with zeros between the groups, and a kernel that is not
    square is padded with zeros to a square: NIR 1.0.8 infers wrong shapes for both.
    """
    rank = len(module.kernel_size)
    if module.padding_mode != "zeros":
        raise Refused(f"pads with padding_mode={module.padding_mode!r}", "use padding_mode='zeros'")
    if len(shape) != rank + 1:
        raise Refused(f"takes {rank + 1} axes, its input has {list(shape)}", "add the channel axis")
    stride, dilation = _pair(module.stride, rank), _pair(module.dilation, rank)
    weight = _ungrouped(_array(module.weight), module.groups)
    weight, padding = _squared(weight, _padding(module, rank, dilation), dilation)
    bias = np.zeros(len(weight), np.float32) if module.bias is None else _array(module.bias)
    common: dict[str, Any] = {"weight": weight, "groups": 1, "bias": bias}
    if rank == 1:
        sizes = {"stride": stride[0], "padding": padding[0], "dilation": dilation[0]}
        return nir.Conv1d(input_shape=shape[1], **sizes, **common)
    return nir.Conv2d(
        input_shape=shape[1:], stride=stride, padding=padding, dilation=dilation, **common
    )


def _padding(module: Any, rank: int, dilation: tuple[int, ...]) -> tuple[int, ...]:
    if module.padding == "valid":
        return (0,) * rank
    if module.padding != "same":
        return _pair(module.padding, rank)
    totals = [d * (k - 1) for d, k in zip(dilation, module.kernel_size, strict=True)]
    if any(total % 2 for total in totals):
        raise Refused(
            "pads one side more than the other (padding='same', even kernel)",
            "use an odd kernel",
        )
    return tuple(total // 2 for total in totals)


def _ungrouped(weight: np.ndarray, groups: int) -> np.ndarray:
    if groups == 1:
        return weight
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    dense = np.zeros((weight.shape[0], inputs * groups, *weight.shape[2:]), weight.dtype)
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        dense[rows, group * inputs : (group + 1) * inputs] = weight[rows]
    return dense


def _squared(
    weight: np.ndarray, padding: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[np.ndarray, tuple[int, ...]]:
    sizes = weight.shape[2:]
    missing = [max(sizes) - size for size in sizes]
    if any(extra % 2 for extra in missing):
        raise Refused(
            f"has a {'x'.join(map(str, sizes))} kernel, which zeros cannot make square evenly",
            "use kernel sizes that differ by an even number",
        )
    borders = [(extra // 2, extra // 2) for extra in missing]
    wider = tuple(
        p + d * extra // 2 for p, d, extra in zip(padding, dilation, missing, strict=True)
    )
    return np.pad(weight, [(0, 0), (0, 0), *borders]), wider


def _require_map(shape: Shape) -> None:
    if len(shape) != 3:
        raise Refused(f"takes 3 axes, its input has {list(shape)}", "add the channel axis")


def _pool(module: Any, shape: Shape) -> nir.NIRNode:
    _require_map(shape)
    if module.ceil_mode or module.divisor_override not in (None, 1):
        raise Refused(
            "uses ceil_mode or a divisor_override other than 1, which NIR has not",
            "use their defaults",
        )
    sizes = [_pair(v, 2) for v in (module.kernel_size, module.stride, module.padding)]
    is_sum = module.divisor_override == 1
    if any(sizes[2]) and not (module.count_include_pad or is_sum):
        raise Refused("leaves its padding out of the average", "use count_include_pad=True")
    kernel, stride, padding = map(np.array, sizes)
    pool = nir.SumPool2d if is_sum else nir.AvgPool2d
    return pool(kernel_size=kernel, stride=stride, padding=padding)


def _adaptive_pool(module: Any, shape: Shape) -> nir.NIRNode:
    """A pool with a fixed kernel, where each output averages as many inputs as the others."""
    _require_map(shape)
    inputs, wanted = shape[1:], module.output_size
    wanted = (wanted, wanted) if isinstance(wanted, int) else wanted
    outputs = [n if size is None else size for n, size in zip(inputs, wanted, strict=True)]
    if not all(size and n % size == 0 for n, size in zip(inputs, outputs, strict=True)):
        raise Refused(
            f"pools {list(inputs)} to {outputs}, by windows of different sizes",
            "use sizes that divide those of its input",
        )
    kernel = np.array([n // size for n, size in zip(inputs, outputs, strict=True)])
    return nir.AvgPool2d(kernel_size=kernel, stride=kernel.copy(), padding=np.zeros_like(kernel))


def flatten_node(shape: Shape) -> nir.Flatten:
    """A flattening of all axes, counted from the end, so that readers with a batch axis agree."""
    return nir.Flatten(input_type=np.array(shape), start_dim=-len(shape), end_dim=-1)


def _flatten(module: Any, shape: Shape) -> nir.NIRNode | Transparent:
    # Whether it flattens exactly the signal's own axes was seen when it ran.
    return flatten_node(shape) if len(shape) > 1 else Transparent()


def _norm(module: Any, shape: Shape) -> Norm:
    if module.running_mean is None:
        raise Refused(
            "normalises with the statistics of each batch", "use track_running_stats=True"
        )
    scale = 1.0 / np.sqrt(_double(module.running_var) + module.eps)
    if module.weight is not None:
        scale = scale * _double(module.weight)
    shift = -_double(module.running_mean) * scale
    return Norm(scale, shift if module.bias is None else shift + _double(module.bias))


def _double(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


def _scale(module: Any, shape: Shape) -> nir.Scale:
    return nir.Scale(scale=np.broadcast_to(_array(module.scale), shape).copy())


def transparent(module: Any, shape: Shape) -> Transparent:
    """A module that does nothing in evaluation."""
    return Transparent()


# Layer by class name, of torch and of the frameworks that wrap torch's under the same names.
LAYERS: dict[str, Callable[[Any, Shape], nir.NIRNode | Norm | Transparent]] = {
    "Linear": _linear,
    "Conv1d": _conv,
    "Conv2d": _conv,
    "AvgPool2d": _pool,
    "AdaptiveAvgPool2d": _adaptive_pool,
    "Flatten": _flatten,
    "Scale": _scale,
    "BatchNorm1d": _norm,
    "BatchNorm2d": _norm,
    "Identity": transparent,
    "Dropout": transparent,
    "Dropout1d": transparent,
    "Dropout2d": transparent,
    "AlphaDropout": transparent,
}
WRAPPERS = ("torch.nn.", "spikingjelly.activation_based.layer.", "spikeloom.export.")

_BAKE = 'write the weight down: torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")'
REMEDIES = {
    **dict.fromkeys(("ParametrizedLinear", "ParametrizedConv1d", "ParametrizedConv2d"), _BAKE),
    "Network": "it has feedback; export it by itself, and join the graphs",
    "ReLU": "convert the model to spikes first, see spikeloom.convert",
    "GELU": "convert the model to spikes first, see spikeloom.convert",
    **dict.fromkeys(
        ("MaxPool1d", "MaxPool2d", "AdaptiveMaxPool2d"),
        "the format has no maximum, so that no reader has one; use AvgPool2d",
    ),
    "LayerNorm": "NIR has no normalisation; use BatchNorm, which is folded into weights",
}


def layer_key(module: nn.Module) -> str | None:
    """The name of a layer in :data:`LAYERS`, by its exact class; a user's subclass has none."""
    # An event-driven layer is the dense one, but for how it adds.
    cls = getattr(module, "dense_class", type(module))
    if cls.__module__.startswith(WRAPPERS) and cls.__name__ in LAYERS:
        return cls.__name__
    return None


def require_counterpart(module: nn.Module) -> str:
    """The layer's name in :data:`LAYERS`.

    Raises:
        Refused: If it has none.
    """
    key = layer_key(module)
    if key is None:
        refuse_foreign(module)
        name = type(module).__name__
        raise Refused(
            f"NIR has no counterpart of {name}", REMEDIES.get(name, "replace or remove it")
        )
    return key


def translate_layer(
    module: nn.Module, shape: Shape, shape_out: Shape
) -> nir.NIRNode | Norm | Transparent:
    """A stateless layer in NIR's terms.

    Args:
        module: The layer.
        shape: Shape of its input for one sample at one step.
        shape_out: Shape of its output.

    Raises:
        Refused: If NIR has no exact form for it.
    """
    key = require_counterpart(module)
    if key == "Flatten" and shape_out != (math.prod(shape),):
        raise Refused(
            f"flattens only some axes, {list(shape)} -> {list(shape_out)}",
            "flatten all axes after time and batch",
        )
    return LAYERS[key](module, shape)
