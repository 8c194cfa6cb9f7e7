"""How the modules of a model follow each other, read from torch.fx graphs.

A module that torch.fx cannot follow is opened, and its children are read on their own.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spikeloom.verify.fold.weights import is_weight

__all__ = ["Connections", "Graph"]

# What a value passes through unchanged, or merely rearranged with its features where they were.
TRANSPARENT = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
# What a current passes on its way to a neuron; each is linear, so a common factor passes too.
LINEAR_METHODS = frozenset(
    (
        *("add", "chunk", "clone", "contiguous", "expand", "flatten", "movedim", "permute"),
        *("repeat", "reshape", "select", "split", "squeeze", "transpose", "unflatten"),
        *("unsqueeze", "view"),
    )
)
LINEAR_FUNCTIONS = frozenset(
    {operator.add, operator.getitem, torch.add, torch.cat, torch.flatten, torch.stack}
)


@dataclass
class Graph:
    """A traced (part of a) model; ``prefix`` leads from the model to it."""

    prefix: str
    nodes: list[fx.Node]

    def name(self, node: Any) -> str | None:
        """The module that a node calls."""
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return None
        return f"{self.prefix}{node.target}"


class Connections:
    """Who comes before and after each module of a model.

    Args:
        model: The model; its modules may be replaced later, under the same names.

    Attributes:
        calls: The places where each module is called, by its name.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.calls: dict[str, list[tuple[Graph, fx.Node]]] = {}
        for graph in _graphs(model):
            for node in graph.nodes:
                name = graph.name(node)
                if name is not None:
                    self.calls.setdefault(name, []).append((graph, node))

    def module(self, name: str | None) -> Any:
        """The module of this name as it is now."""
        return None if name is None else self.model.get_submodule(name)

    def before(self, name: str) -> str | None:
        """The weight layer whose output goes to this norm and nowhere else."""
        found = {
            graph.name(_source(graph, node.args[0], self.module))
            for graph, node in self.calls[name]
        }
        producer = found.pop() if len(found) == 1 else None
        if producer is None or self.after(producer) != name:
            return None
        return producer

    def after(
        self, name: str, through: tuple[type, ...] = TRANSPARENT, *, mapped: bool = False
    ) -> str | None:
        """The one module that this module's output goes to, at every call."""
        calls = self.calls.get(name, ())
        found = {self._user(graph, node, through, mapped) for graph, node in calls}
        return found.pop() if len(found) == 1 else None

    def weight_behind(self, name: str) -> str | None:
        """The weight layer behind a module, with nothing but pools and flattening between."""
        pools = (*TRANSPARENT, nn.AvgPool2d, nn.Flatten)
        target = self.after(name, pools)
        return target if is_weight(self.module(target)) else None

    def origins(self, graph: Graph, node: Any) -> Iterator[fx.Node]:
        """Where a current comes from, backwards through sums and rearrangements."""
        if self._is_linear(graph, node):
            values = node.args[0] if isinstance(node.args[0], (list, tuple)) else node.args
            for value in values:
                if isinstance(value, fx.Node) and not _is_shape(value):
                    yield from self.origins(graph, value)
        else:
            yield node

    def readers(self, graph: Graph, node: fx.Node) -> Iterator[fx.Node]:
        """What reads a current, forwards through sums and rearrangements."""
        for user in node.users:
            if self._is_linear(graph, user):
                yield from self.readers(graph, user)
            elif not _is_shape(user):
                yield user

    def _user(
        self, graph: Graph, node: fx.Node, through: tuple[type, ...], mapped: bool
    ) -> str | None:
        while len(node.users) == 1:
            (node,) = node.users
            name = graph.name(node)
            if name is not None and not isinstance(self.module(name), through):
                return name
            # Features that are positions know their place, however the map's axes are ordered.
            moves = mapped and node.op == "call_method" and node.target == "movedim"
            if name is None and not moves and not _keeps_features(node):
                return None
        return None

    def _is_linear(self, graph: Graph, node: fx.Node) -> bool:
        if _is_shape(node):
            return False
        if node.op == "call_module":
            return isinstance(self.module(graph.name(node)), (*TRANSPARENT, nn.Flatten))
        return (node.op == "call_method" and node.target in LINEAR_METHODS) or (
            node.op == "call_function" and node.target in LINEAR_FUNCTIONS
        )


class _Tracer(fx.Tracer):
    """Opens only modules that hold a weight or a norm deeper down."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        inside = (module for module in m.modules() if module is not m)
        return is_weight(m) or not any(is_weight(x) or isinstance(x, _BatchNorm) for x in inside)


def _graphs(model: nn.Module, prefix: str = "") -> Iterator[Graph]:
    """The model as one graph, or as one for each part that can be followed."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    try:
        yield Graph(prefix, list(_Tracer().trace(model, defaults).nodes))
    except Exception:  # torch.fx raises whatever the model's code raises on symbols
        for name, child in model.named_children():
            if any(is_weight(x) or isinstance(x, _BatchNorm) for x in child.modules()):
                yield from _graphs(child, f"{prefix}{name}.")


def _is_shape(node: fx.Node) -> bool:
    """Whether a node is about a tensor's shape: ``x.shape``, ``x.size()`` and parts of them."""
    if node.op == "call_function" and node.target is operator.getitem:
        return isinstance(node.args[0], fx.Node) and _is_shape(node.args[0])
    is_attribute = node.op == "call_function" and node.target is getattr
    return is_attribute or (node.op == "call_method" and node.target in ("size", "dim"))


def _keeps_features(node: fx.Node) -> bool:
    """Whether a call changes at most the leading axes: time and batch, joined or separated."""
    if node.op != "call_method":
        return False
    first = node.args[1:2]
    return node.target == "contiguous" or (
        (node.target == "unflatten" and first == (0,))
        or (node.target == "flatten" and node.args[1:] == (0, 1))
    )


def _source(graph: Graph, node: Any, module: Callable[[str | None], Any]) -> Any:
    """The node that made a value, back through what passes it on unchanged."""
    while isinstance(node, fx.Node):
        if not isinstance(module(graph.name(node)), TRANSPARENT) and not _keeps_features(node):
            break
        node = node.args[0]
    return node
