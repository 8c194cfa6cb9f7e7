"""How the modules of a model follow each other, read from torch.fx graphs.

A module that torch.fx cannot follow is opened, and its children are read on their own. Its own code
is taken to call its children, not to reach inside them.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spikeloom.observe import Effect, Operation, meaning_of
from spikeloom.observe.dialects import is_in_place, name_of
from spikeloom.verify.fold.plain import is_plain, is_transparent, is_weight

__all__ = ["Connections", "Path", "main_input"]

# What lies between two modules: the calls that a value passes, in order.
Path = tuple[fx.Node, ...]

# What keeps a value's features in one axis; where that axis is, a layout follows.
PASSED = frozenset(("contiguous", "flatten", "movedim", "unflatten"))


class Connections:
    """Who comes before and after each module of a model.

    A module has one name here, the first, however many the model has for it.

    Args:
        model: The model; its modules may be replaced later, under the same names.

    Attributes:
        calls: The places where each module is called, by its name.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.calls: dict[str, list[fx.Node]] = {}
        self._called: dict[fx.Node, str] = {}
        # Tensors that code reads from modules, and modules that it may call unseen.
        self._read: dict[int, Tensor] = {}
        self._unseen: set[str] = set()
        self._first = {id(module): name for name, module in model.named_modules()}
        self._follow(model)

    def module(self, name: str | None) -> Any:
        """The module of this name as it is now."""
        return None if name is None else self.model.get_submodule(name)

    def name(self, node: Any) -> str | None:
        """The module that a node calls."""
        return self._called.get(node) if isinstance(node, fx.Node) else None

    def is_seen(self, name: str) -> bool:
        """Whether all that the model does with a module is that it calls it, where we see it."""
        module = self.module(name)
        tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        known = name in self.calls and name not in self._unseen
        return known and not any(id(tensor) in self._read for tensor in tensors)

    def before(self, name: str) -> str | None:
        """The module whose output goes to this one and nowhere else."""
        node: Any = self.calls[name][0]
        while isinstance(node, fx.Node):
            node = main_input(node)
            producer = self.name(node)
            if producer is not None and not is_transparent(self.module(producer)):
                return producer if self.after(producer)[0] == name else None
        return None

    def after(
        self, name: str, through: Callable[[Any], bool] = is_transparent
    ) -> tuple[str | None, set[Path]]:
        """The one module that takes this module's output, at every call, and nothing else.

        Args:
            name: The module.
            through: Which modules may lie between.

        Returns:
            The other's name, None if there is none, and the ways there.
        """
        ways = [self._way(node, through) for node in self.calls.get(name, ())]
        ends = {way[-1] for way in ways if way}
        targets = {self.name(end) for end in ends}
        target = targets.pop() if len(targets) == 1 and all(ways) else None
        # Two calls that end in one are in a row, and what one takes the other must not.
        if target is None or ends != set(self.calls[target]) or len(ends) < len(ways):
            return None, set()
        if not (self.is_seen(name) and self.is_seen(target)):
            return None, set()
        return target, {way[:-1] for way in ways}

    def origins(self, node: Any) -> Iterator[fx.Node]:
        """Where a current comes from, backwards through sums and rearrangements."""
        if self._is_linear(node):
            values = node.args[0] if isinstance(node.args[0], (list, tuple)) else node.args
            for value in values:
                if isinstance(value, fx.Node) and not _is_description(value):
                    yield from self.origins(value)
        else:
            yield node

    def readers(self, node: fx.Node) -> Iterator[fx.Node]:
        """What reads a current, forwards through sums and rearrangements."""
        for user in node.users:
            if self._is_linear(user):
                yield from self.readers(user)
            elif not _is_description(user):
                yield user

    def _way(self, node: fx.Node, through: Callable[[Any], bool]) -> Path:
        """What a value passes, and the call that takes it; empty if it goes elsewhere too."""
        way: Path = ()
        while True:
            users = [user for user in node.users if not _is_description(user)]
            if len(users) != 1 or main_input(users[0]) is not node:
                return ()
            (node,) = users
            way = (*way, node)
            name = self.name(node)
            operation = None if name is not None else _operation(node)
            if name is None and (operation is None or operation.name not in PASSED):
                return ()
            if name is not None and not through(self.module(name)):
                # A second value would be a neuron's state.
                return way if len(node.all_input_nodes) == 1 else ()

    def _is_linear(self, node: Any) -> bool:
        if not isinstance(node, fx.Node) or _is_description(node):
            return False
        if node.op == "call_module":
            module = self.module(self.name(node))
            return is_transparent(module) or (isinstance(module, nn.Flatten) and is_plain(module))
        operation = _operation(node)
        if operation is not None and operation.effect is Effect.ADDS:
            terms = node.args[:2]
            return all(isinstance(x, fx.Node) and not _is_description(x) for x in terms)
        if operation is not None and operation.effect is Effect.KEEPS:
            return len(node.args) == 1 and not node.kwargs  # in the same dtype
        return operation is not None and operation.effect in (Effect.MOVES, Effect.JOINS)

    def _follow(self, module: nn.Module, prefix: str = "") -> None:
        """Read a module as one graph, or its children if it cannot be followed."""
        nodes = self._traced(module)
        if nodes is None:
            for name, child in module.named_children():
                self._unseen.add(self._first[id(child)])
                if any(is_weight(x) or isinstance(x, _BatchNorm) for x in child.modules()):
                    self._follow(child, f"{prefix}{name}.")
            return
        for node in nodes:
            if node.op == "call_module":
                called = self.model.get_submodule(f"{prefix}{node.target}")
                name, *inside = (self._first[id(x)] for x in called.modules())
                self._unseen.update(inside)
                self._called[node] = name
                self.calls.setdefault(name, []).append(node)

    def _traced(self, module: nn.Module) -> list[fx.Node] | None:
        """What a module calls, arguments with a default at it; None if it cannot be followed."""
        if "forward" in vars(module):  # torch.fx reads the one of the class
            return None
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(module.forward).parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }
        try:
            return list(_Tracer(self._read).trace(module, defaults).nodes)
        except Exception:  # torch.fx raises whatever the model's code raises on symbols
            return None


class _Tracer(fx.Tracer):
    """Opens only modules that hold a weight or a norm deeper down.

    Args:
        read: Receives the tensors that the code reads from modules.
    """

    def __init__(self, read: dict[int, Tensor]) -> None:
        super().__init__()
        self.read = read

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        inside = (module for module in m.modules() if module is not m)
        return is_weight(m) or not any(is_weight(x) or isinstance(x, _BatchNorm) for x in inside)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if isinstance(attr_val, Tensor):
            self.read[id(attr_val)] = attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def main_input(node: fx.Node) -> Any:
    """The value that a call works on: its first argument, by position or by name."""
    return next(iter((*node.args, *node.kwargs.values())), None)


def _operation(node: fx.Node) -> Operation | None:
    """What a node computes of its arguments, which it leaves as they are."""
    if node.op not in ("call_function", "call_method") or is_in_place(name_of(node.target)):
        return None
    return meaning_of(node.target)


def _is_description(node: fx.Node) -> bool:
    """Whether a node is about a tensor: ``x.shape``, ``x.size()`` and parts of them."""
    if node.op == "call_function" and node.target is operator.getitem:
        return isinstance(node.args[0], fx.Node) and _is_description(node.args[0])
    if node.op == "call_function" and node.target is getattr:
        operation = meaning_of(node.args[1])
    else:
        operation = _operation(node)
    return operation is not None and operation.effect is Effect.DESCRIBES
