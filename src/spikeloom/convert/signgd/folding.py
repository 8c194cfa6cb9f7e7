"""Norms by running statistics are affine: into the weights before them, or a scale and a shift."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from spikeloom.convert.signgd.nodes import name_of, place_of
from spikeloom.observe.dialects import overload_of

__all__ = ["fold_norms"]

# Norms that may use statistics of earlier batches instead of their input's.
RUNNING = frozenset({"batch_norm", "instance_norm"})


def fold_norms(module: fx.GraphModule) -> None:
    """Fold each norm into the weights before it where that is exact, else make it explicit.

    Args:
        module: A graph whose nodes have an outline of their values; changed in place.

    Raises:
        ValueError: If a batch norm would use the statistics of the batch.
    """
    for node in list(module.graph.nodes):
        if node.op != "call_function" or name_of(node) not in RUNNING:
            continue
        if not node.args[5]:
            _fold_norm(module, node)
        elif name_of(node) == "batch_norm":
            raise ValueError(
                f"model: batch_norm at {place_of(node)} uses the statistics of the batch; it needs "
                f"running statistics (track_running_stats=True)"
            )


def _fold_norm(module: fx.GraphModule, node: fx.Node) -> None:
    layer: Any = node.args[0]
    scale, shift, mean, variance = (_attribute(module, arg) for arg in node.args[1:5])
    fuse = _fusing(layer) if len(layer.users) == 1 else None
    if fuse is None:
        ones = torch.ones_like(mean)
        scale = (ones if scale is None else scale) * torch.rsqrt(variance + node.args[7])
        shift = (0.0 if shift is None else shift) - mean * scale
        _scale_and_shift(module, node, scale, shift)
        return
    weight, bias = (_attribute(module, arg) for arg in _padded(layer.args, 3)[1:3])
    fused = fuse(weight, bias, mean, variance, node.args[7], scale, shift)
    place = str(layer.args[1].target).rpartition(".")[0]
    layer.args = (layer.args[0], *_held(module, layer, place, fused), *layer.args[3:])
    node.replace_all_uses_with(layer)
    module.graph.erase_node(node)


def _fusing(layer: fx.Node) -> Callable[..., Any] | None:
    """What puts a norm into this layer's weights; None if it has none that it could go into."""
    kind = name_of(layer)
    # On [batch, tokens, channels] a batch norm is over the tokens.
    is_flat = kind == "linear" and layer.meta["val"].dim() == 2
    if not (is_flat or re.fullmatch("conv[123]d", kind)):
        return None
    weights = [arg for arg in _padded(layer.args, 3)[1:3] if arg is not None]
    if any(arg.op != "get_attr" for arg in weights):
        return None
    return fuse_linear_bn_weights if is_flat else fuse_conv_bn_weights


def _scale_and_shift(module: fx.GraphModule, norm: fx.Node, scale: Tensor, shift: Tensor) -> None:
    """A norm as a multiplication and an addition, channel by channel."""
    channels = (-1, *(1,) * (norm.meta["val"].dim() - 2))
    constants = tuple(value.reshape(channels) for value in (scale, shift))
    value: Any = norm.args[0]
    held = _held(module, norm, str(norm.all_input_nodes[1].target).rpartition(".")[0], constants)
    for operator, constant in zip(("mul", "add"), held, strict=True):
        with module.graph.inserting_before(norm):
            value = module.graph.call_function(overload_of(operator, "Tensor"), (value, constant))
        value.meta = dict(norm.meta)
    norm.replace_all_uses_with(value)
    module.graph.erase_node(norm)


def _held(
    module: fx.GraphModule, before: fx.Node, place: str, parts: tuple[Tensor, ...]
) -> list[fx.Node]:
    """A folded weight and bias as buffers of the module at a place, read before a node."""
    names = [
        _add_buffer(module, f"{place}.folded_{part}".lstrip("."), tensor)
        for part, tensor in zip(("weight", "bias"), parts, strict=True)
    ]
    with module.graph.inserting_before(before):
        return [module.graph.get_attr(name) for name in names]


def _padded(args: tuple[Any, ...], length: int) -> tuple[Any, ...]:
    return (*args, *(None,) * (length - len(args)))


def _attribute(module: fx.GraphModule, node: Any) -> Any:
    """The tensor that a get_attr node reads; None for no node."""
    if node is None:
        return None
    owner, _, name = str(node.target).rpartition(".")
    return getattr(module.get_submodule(owner), name)


def _add_buffer(module: fx.GraphModule, path: str, tensor: Tensor) -> str:
    owner, _, name = path.rpartition(".")
    holder = module.get_submodule(owner)
    while hasattr(holder, name):
        name += "_"
    holder.register_buffer(name, tensor.detach())
    return f"{owner}.{name}" if owner else name
