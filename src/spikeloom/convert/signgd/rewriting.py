"""Operators that say more than is read, or several things at once, as the ones they stand for.

A maximum along an axis comes with indices, a variance with the mean, an attention's scores with the
mask added. What is left afterwards is what the table of operations knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from spikeloom.convert.signgd.nodes import name_of
from spikeloom.convert.signgd.pooling import MAX_POOLS, adaptive_max_pool
from spikeloom.observe.dialects import overload_of

__all__ = ["rewrite"]

Rule = Callable[[fx.Graph, fx.Node], None]
# The least and the largest slope of a randomized leaky ReLU, unless others are given.
DRAWN = (1 / 8, 1 / 3)


def rewrite(graph: fx.Graph) -> None:
    """Put the simplest operators of equal value in an operator's place, throughout a graph.

    Args:
        graph: Its nodes have an outline of their values; changed in place.
    """
    for node in list(graph.nodes):
        rule = RULES.get(name_of(node)) if node.op == "call_function" else None
        if rule is not None:
            with graph.inserting_before(node):
                rule(graph, node)


def _replace(graph: fx.Graph, old: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """An operator in the place of another, which is then unused."""
    new = _made(graph, old, target, *args, **kwargs)
    old.replace_all_uses_with(new)
    graph.erase_node(old)
    return new


def _made(graph: fx.Graph, near: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """An operator that stands where another does in the user's module tree."""
    node = graph.call_function(target, args, kwargs)
    node.meta = {"nn_module_stack": near.meta.get("nn_module_stack"), "val": near.meta["val"]}
    return node


def _parts(node: fx.Node) -> dict[int, fx.Node] | None:
    """Who takes which of an operator's values; None if it is used in another way."""
    if any(name_of(user) != "getitem" for user in node.users):
        return None
    return {int(user.args[1]): user for user in node.users}  # type: ignore[arg-type]  # an index


def _values_alone(graph: fx.Graph, node: fx.Node, target: Any, *args: Any) -> None:
    """The values of an operator that also tells where it found them, if those places are unused."""
    parts = _parts(node)
    if parts is None or set(parts) != {0}:
        return
    parts[0].replace_all_uses_with(_made(graph, parts[0], target, *args))
    graph.erase_node(parts[0])
    graph.erase_node(node)


def _extreme(whole: str, of_two: str) -> Rule:
    def rule(graph: fx.Graph, node: fx.Node) -> None:
        overload = node.target._overloadname  # type: ignore[union-attr]  # of aten
        if overload == "other":
            _replace(graph, node, overload_of(of_two), *node.args)
        elif overload == "dim":
            x, axis, *keepdim = node.args
            _values_alone(graph, node, overload_of(whole), x, [axis], *keepdim)
        elif overload == "default":
            _replace(graph, node, overload_of(whole), *node.args)

    return rule


def _pool_with_indices(graph: fx.Graph, node: fx.Node) -> None:
    pool = overload_of(name_of(node).removesuffix("_with_indices"))
    _values_alone(graph, node, pool, *node.args)


def _adaptive_pool(graph: fx.Graph, node: fx.Node) -> None:
    """A max-pool if all windows are equal."""
    x, wanted = node.args
    name = name_of(node).removeprefix("adaptive_")
    sizes = x.meta["val"].shape[-MAX_POOLS[name] :]  # type: ignore[union-attr]  # a node
    counts: list[int] = list(wanted)  # type: ignore[arg-type]  # numbers
    if any(size % count for size, count in zip(sizes, counts, strict=True)):
        _values_alone(graph, node, adaptive_max_pool, x, counts)
        return
    kernel = [int(size) // count for size, count in zip(sizes, counts, strict=True)]
    _values_alone(graph, node, overload_of(name), x, kernel)


def _moments(spread: str) -> Rule:
    """A variance or deviation and the mean, each by itself."""

    def rule(graph: fx.Graph, node: fx.Node) -> None:
        parts = _parts(node)
        if parts is None or len(node.args) < 2 or not node.args[1]:
            return
        x, axes, *rest = node.args
        overload = overload_of(spread, node.target._overloadname)  # type: ignore[union-attr]  # of aten
        keepdim = node.kwargs.get("keepdim", rest[1] if len(rest) > 1 else False)
        for place, part in parts.items():
            if place:
                _replace(graph, part, overload_of("mean", "dim"), x, axes, keepdim)
            else:
                _replace(graph, part, overload, *node.args, **node.kwargs)
        graph.erase_node(node)

    return rule


def _sum_with_product(product: str) -> Rule:
    """A sum beta * c + alpha * (a @ b); c may be a mask of minus infinity, which no node tracks."""

    def rule(graph: fx.Graph, node: fx.Node) -> None:
        c, a, b = node.args
        beta, alpha = (node.kwargs.get(name, 1) for name in ("beta", "alpha"))
        value = _made(graph, node, overload_of(product), a, b)
        if alpha != 1:
            value = _made(graph, node, overload_of("mul", "Tensor"), value, alpha)
        if beta == 0:
            node.replace_all_uses_with(value)
            graph.erase_node(node)
        else:
            _replace(graph, node, overload_of("add", "Tensor"), value, c, alpha=beta)

    return rule


def _randomized_leaky_relu(graph: fx.Graph, node: fx.Node) -> None:
    """In evaluation its slope is the mean of those that it would draw from."""
    x, *given = node.args
    training = any(given[2:])
    bounds: list[Any] = [*given[:2], *DRAWN[len(given) :]]  # torch.export leaves out defaults
    if not training:
        _replace(graph, node, overload_of("leaky_relu"), x, sum(bounds) / 2)


def _tile(graph: fx.Graph, node: fx.Node) -> None:
    """A repetition along each axis: tile also takes fewer counts, and calls them axes."""
    x, given = node.args
    counts: list[int] = list(given)  # type: ignore[arg-type]  # numbers
    ones = x.meta["val"].dim() - len(counts)  # type: ignore[union-attr]  # a node
    _replace(graph, node, overload_of("repeat"), x, [1] * ones + counts)


RULES: dict[str, Rule] = {
    "max": _extreme("amax", "maximum"),
    "min": _extreme("amin", "minimum"),
    **{f"{name}_with_indices": _pool_with_indices for name in MAX_POOLS},
    **{f"adaptive_{name}": _adaptive_pool for name in MAX_POOLS},
    "var_mean": _moments("var"),
    "std_mean": _moments("std"),
    "addmm": _sum_with_product("mm"),
    "baddbmm": _sum_with_product("bmm"),
    "rrelu": _randomized_leaky_relu,
    "tile": _tile,
}
