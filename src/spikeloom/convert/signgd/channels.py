"""Which axis of a value has its channels or features."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from spikeloom.convert.signgd.nodes import name_of

__all__ = ["channel_axis"]

# Their channels are behind the batch.
SECOND = re.compile(r"conv.*d|(?:batch|group|instance)_norm")
# Their features are last.
LAST = re.compile(r"linear|(?:layer|rms)_norm|embedding")
# Behind them the axes may be others.
REGROUPED = frozenset({"reshape", "view", "einsum"})


def channel_axis(node: fx.Node, before: Mapping[fx.Node, int | None]) -> int | None:
    """The axis of a value's channels; None if nothing tells.

    Args:
        node: Of the value.
        before: The axes of the values before it.
    """
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or "batch" not in node.meta:
        return None
    axis = _named(node, value.dim(), before)
    return axis if axis is not None and axis not in node.meta["batch"] else None


def _named(node: fx.Node, rank: int, before: Mapping[fx.Node, int | None]) -> int | None:
    name = name_of(node)
    if rank == 2 or SECOND.fullmatch(name) or (node.op == "placeholder" and rank > 3):
        return 1 if rank > 1 else None
    if LAST.fullmatch(name):
        return rank - 1
    source = node.all_input_nodes[0] if node.all_input_nodes else None
    axis = None if source is None else before.get(source)
    if source is None or axis is None or name in REGROUPED:
        return None
    seen: Any = source.meta["val"]
    return _moved(node, axis, rank) if seen.dim() == rank else None


def _moved(node: fx.Node, axis: int, rank: int) -> int:
    """Where an axis is behind an operator that keeps their number."""
    name, args = name_of(node), node.args
    if name == "permute":
        order: Any = args[1]
        return [place % rank for place in order].index(axis)
    if name in ("transpose", "swapaxes"):
        places: Any = args[1:3]
        one, other = (int(place) % rank for place in places)
        return {one: other, other: one}.get(axis, axis)
    return axis
