"""A graph of operators that can be pickled node by node.

torch's own graph modules are pickled as Python code and traced anew, which renames and reorders
their nodes, and forgets what was noted at them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import fx, nn

__all__ = ["Operators"]

# What is kept of the notes at a node.
NOTES = ("val", "batch", "nn_module_stack")


class Operators(fx.GraphModule):
    """A graph module whose nodes come out of a pickle as they went in."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        tensors = nn.Module()
        for part in ("_parameters", "_buffers", "_modules"):
            getattr(tensors, part).update(getattr(self, part))
        tensors.training = self.training
        return _restored, (tensors, [_stored(node) for node in self.graph.nodes])


class _Node(NamedTuple):
    """A node as data; other nodes among its arguments are references."""

    op: str
    name: str
    target: Any
    args: Any
    kwargs: Any
    notes: dict[str, Any]


@dataclass(frozen=True)
class _Reference:
    """Stands for a node, by its name."""

    name: str


@dataclass(frozen=True)
class _Operator:
    """Stands for an operator of torch, by namespace, name and overload."""

    path: tuple[str, str, str]


def _stored(node: fx.Node) -> _Node:
    args, kwargs = _mapped((node.args, node.kwargs), fx.Node, lambda arg: _Reference(arg.name))
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        namespace, _, name = target._schema.name.partition("::")
        target = _Operator((namespace, name, target._overloadname))
    notes = {key: node.meta[key] for key in NOTES if key in node.meta}
    return _Node(node.op, node.name, target, args, kwargs, notes)


def _restored(tensors: nn.Module, nodes: list[_Node]) -> Operators:
    graph, made = fx.Graph(), dict[str, fx.Node]()
    for stored in nodes:
        target, name = stored.target, stored.name
        if isinstance(target, _Operator):
            target = torch.ops
            for part in stored.target.path:
                target = getattr(target, part)
        arguments = (stored.args, stored.kwargs)
        args, kwargs = _mapped(arguments, _Reference, lambda reference: made[reference.name])
        made[name] = graph.create_node(stored.op, target, args, kwargs, name)
        made[name].meta.update(stored.notes)
        if made[name].name != name:
            raise ValueError(f"pickle: the node {name!r} cannot be restored under its name")
    return Operators(tensors, graph)


def _mapped(value: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """Arguments with the function applied to what is of a kind, however deep."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, dict):
        return {key: _mapped(part, kind, function) for key, part in value.items()}
    if isinstance(value, slice):
        parts = (value.start, value.stop, value.step)
        return slice(*(_mapped(part, kind, function) for part in parts))
    if isinstance(value, (list, tuple)):
        each = [_mapped(part, kind, function) for part in value]
        return tuple(each) if isinstance(value, tuple) else each
    return value
