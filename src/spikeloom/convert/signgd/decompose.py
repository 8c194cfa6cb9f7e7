"""Whole operators as chains of elementary nodes, as published.

A max-pool becomes maxima of shifted inputs, first along each row, then along each column; a
normalisation becomes a square and an ``a / sqrt(b)``; a softmax an exp and a division; a matrix
product of two streams one multiplication for each term of its sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import fx

from spikeloom.convert.signgd.graph import Captured, note_values
from spikeloom.convert.signgd.nodes import name_of, place_of
from spikeloom.convert.signgd.operators import mul_inverse_sqrt
from spikeloom.convert.signgd.pooling import MAX_POOLS, maxima, windows_of

__all__ = ["decompose_operators"]

# Outside the picture; no true value is smaller.
OUTSIDE = -200.0


def decompose_operators(captured: Captured) -> None:
    """Replace every operator that has a chain by it, in place.

    Args:
        captured: The graph of a model.

    Raises:
        NotImplementedError: If an attention product is causal, grouped or with dropout.
    """
    graph = captured.module.graph
    tracer = fx.proxy.GraphAppendingTracer(graph)

    def symbol(arg: Any) -> Any:
        return fx.Proxy(arg, tracer) if isinstance(arg, fx.Node) else arg

    again = True
    while again:  # an attention becomes products and a softmax, which have chains themselves
        again = False
        for node in list(graph.nodes):
            chain = CHAINS.get(name_of(node)) if node.op == "call_function" else None
            if chain is None or _is_product_with_constant(node):
                continue
            before = set(graph.nodes)
            with graph.inserting_before(node):
                args, kwargs = fx.node.map_aggregate((node.args, node.kwargs), symbol)
                result = chain(node, *args, **kwargs)
            for made in set(graph.nodes) - before:
                made.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
            result.node.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(result.node)
            graph.erase_node(node)
            again = True
        note_values(captured.module, captured.example)


def _is_product_with_constant(node: fx.Node) -> bool:
    return name_of(node) in ("matmul", "bmm") and any(
        source.op == "get_attr" for source in node.all_input_nodes
    )


def _max_pool(axes: int, node: fx.Node, x: Any, *args: Any, **kwargs: Any) -> Any:
    sizes = node.args[0].meta["val"].shape[-axes:]  # type: ignore[union-attr]  # a node
    return maxima(x, windows_of(sizes, *args, **kwargs), OUTSIDE)


def _normalised(x: Any, axes: list[int], eps: float) -> Any:
    u = torch.sub(x, torch.mean(x, axes, keepdim=True))
    variance = torch.add(torch.mean(torch.square(u), axes, keepdim=True), eps)
    return _times_inverse_root(u, variance)


def _times_inverse_root(u: Any, variance: Any) -> Any:
    return u.tracer.create_proxy("call_function", mul_inverse_sqrt, (u, variance), {})


def _scaled(x: Any, weight: Any, bias: Any) -> Any:
    x = x if weight is None else torch.mul(x, weight)
    return x if bias is None else torch.add(x, bias)


def _layer_norm(
    node: fx.Node,
    x: Any,
    shape: list[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:
    return _scaled(_normalised(x, [-1 - i for i in range(len(shape))], eps), weight, bias)


def _group_norm(
    node: fx.Node,
    x: Any,
    groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    shape = node.meta["val"].shape
    split = torch.unflatten(x, 1, (groups, shape[1] // groups))
    normal = _normalised(split, [-1 - i for i in range(len(shape) - 1)], eps)
    channels = (shape[1], *(1 for _ in shape[2:]))
    weight, bias = (None if p is None else torch.reshape(p, channels) for p in (weight, bias))
    return _scaled(torch.flatten(normal, 1, 2), weight, bias)


def _rms_norm(
    node: fx.Node, x: Any, shape: list[int], weight: Any = None, eps: float | None = None
) -> Any:
    axes = [-1 - i for i in range(len(shape))]
    least = torch.finfo(node.meta["val"].dtype).eps if eps is None else eps
    power = torch.add(torch.mean(torch.square(x), axes, keepdim=True), least)
    return _scaled(_times_inverse_root(x, power), weight, None)


def _softmax(node: fx.Node, x: Any, axis: int, dtype: Any = None) -> Any:
    e = torch.exp(x)
    return torch.div(e, torch.sum(e, axis, keepdim=True))


def _matmul(node: fx.Node, a: Any, b: Any) -> Any:
    ranks = [arg.meta["val"].dim() for arg in node.args if isinstance(arg, fx.Node)]
    if min(ranks) < 2:
        return torch.sum(torch.mul(a, b), -1)
    return torch.sum(torch.mul(torch.unsqueeze(a, -1), torch.unsqueeze(b, -3)), -2)


def _attention(
    node: fx.Node,
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if is_causal or enable_gqa or dropout_p:
        raise NotImplementedError(
            f"scaled_dot_product_attention at {place_of(node)}: is_causal, enable_gqa and "
            f"dropout_p have no chain; use decompose=False"
        )
    width = node.args[0].meta["val"].shape[-1]  # type: ignore[union-attr]  # a node, not a number
    scores = torch.mul(torch.matmul(q, torch.transpose(k, -2, -1)), scale or 1.0 / math.sqrt(width))
    if mask is not None:
        # Without weight after exp, yet within what float and schedule can hold.
        allowed = node.args[3].meta["val"].dtype == torch.bool  # type: ignore[union-attr]  # a node
        scores = torch.where(mask, scores, OUTSIDE) if allowed else torch.add(scores, mask)
    return torch.matmul(torch.softmax(scores, -1), v)


CHAINS: dict[str, Callable[..., Any]] = {
    **{name: partial(_max_pool, axes) for name, axes in MAX_POOLS.items()},
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "rms_norm": _rms_norm,
    "softmax": _softmax,
    "matmul": _matmul,
    "bmm": _matmul,
    "scaled_dot_product_attention": _attention,
}
