"""Nodes of a graph: what their operators are called, and where they stand."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from spikeloom.observe import dialects

__all__ = ["name_of", "place_of"]


def name_of(node: fx.Node) -> str:
    """An operator's name without overload, such as ``layer_norm`` or ``mylib::spike``."""
    target: Any = node.target
    if node.op != "call_function":
        return str(target)
    if isinstance(target, torch._ops.OpOverload):
        return dialects.name_of(target)
    return getattr(target, "__name__", str(target))


def place_of(node: fx.Node) -> str:
    """Where a node stands in the user's module tree, such as ``encoder.0 (Encoder)``."""
    stack = [v for v in (node.meta.get("nn_module_stack") or {}).values() if v[0][:1] != "_"]
    if not stack:
        return "the model's forward"
    path, owner = stack[-1]
    kind = owner if isinstance(owner, str) else owner.__name__
    kind = kind.rpartition(".")[2]
    return f"{path} ({kind})" if path else f"the forward of {kind}"
