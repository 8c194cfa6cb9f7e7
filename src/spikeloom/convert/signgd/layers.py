"""A converted network as torch layers and neurons, under the names of the user's modules.

The graph of a converted network calls functions. Here each operator that torch has a layer for is
that layer, and each node a neuron that sees a value at every step and sends its estimate: what an
export can name and write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from spikeloom.convert.signgd.domains import within_domain
from spikeloom.convert.signgd.graph import Captured
from spikeloom.convert.signgd.nodes import name_of
from spikeloom.convert.signgd.operators import Plan, Site
from spikeloom.kernel.neuron import Neuron
from spikeloom.layer import SpikingLayer
from spikeloom.observe import Effect, meaning_of

__all__ = ["layers_of"]

# They move values, and stay functions; so does a sum.
PLAIN = (Effect.KEEPS, Effect.MOVES, Effect.DESCRIBES)

# From a node to the neuron of its site, given the function that it computes of its input.
Tracker = Callable[[Site, str], Neuron]


def layers_of(captured: Captured, plan: Plan, tracker: Tracker) -> fx.GraphModule:
    """The network as a module from ``[T, batch, *]`` to ``[T, batch, *]``.

    Args:
        captured: The operators.
        plan: Which of them are nodes.
        tracker: Makes the neuron of a node.

    Raises:
        ValueError: If the model takes or returns more than one tensor, or a value has no single
            axis of samples.
    """
    return _Builder(captured, plan, tracker).build()


class Operator(nn.Module):
    """An operator that torch has no layer for, so that it has a name."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class _Builder:
    """Rewrites a graph, operator by operator; time and batch are one axis but at neurons."""

    steps: fx.Node
    samples: int

    def __init__(self, captured: Captured, plan: Plan, tracker: Tracker) -> None:
        self.captured, self.tracker = captured, tracker
        self.sites, self.timed = {site.name: site for site in plan.sites}, plan.timed
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.new: dict[fx.Node, Any] = {}
        self.taken: set[str] = set()
        operators = [node for node in captured.module.graph.nodes if node.op == "call_function"]
        self.inside = Counter(prefix for node in operators for prefix in _prefixes(_path(node)))

    def build(self) -> fx.GraphModule:
        inputs = [node for node in self.captured.module.graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise ValueError(f"model: takes {len(inputs)} tensors; layers over time take one")
        for node in self.captured.module.graph.nodes:
            if node.op == "placeholder":
                x = self.graph.placeholder("x")
                self.samples = len(node.meta["val"])
                self.steps = self._method("size", x, 0)
                self.new[node] = self._method("flatten", x, 0, 1)
            elif node.op == "call_function":
                self.new[node] = self._operator(node)
            elif node.op == "output":
                results = pytree.tree_leaves(node.args[0])
                if len(results) != 1:
                    raise ValueError(f"model: returns {len(results)} tensors; layers return one")
                self.graph.output(self._unflattened(self.new[results[0]]))
        return fx.GraphModule(self.root, self.graph, "Layers")

    def _operator(self, node: fx.Node) -> fx.Node:
        site = self.sites.get(node.name)
        if site is None:
            return self._affine(node)
        if site.function is not None and site.reads_operand:
            function, drive, role = site.function, self.new[node.all_input_nodes[0]], ""
        else:
            function, drive, role = "identity", self._call(node), "neuron"
        axis = _axis_of_samples(site, node.meta["val"].shape, self.samples)
        layer = SpikingLayer(self.tracker(site, function))
        drive = self._method("movedim", drive, axis, 0) if axis else drive
        sent = self._module(node, layer, (self._unflattened(drive),), role=role)
        sent = self._method("flatten", sent, 0, 1)
        return self._method("movedim", sent, 0, axis) if axis else sent

    def _affine(self, node: fx.Node) -> fx.Node:
        make = LAYERS.get(name_of(node))
        weights = [arg.op == "get_attr" for arg in node.all_input_nodes[1:]]
        if make is None or not all(weights):
            return self._call(node)
        args = [self._held(arg) for arg in node.args[1:]]
        layer = make(*args, **node.kwargs)
        return self._module(node, layer, (self._value(node.all_input_nodes[0]),))

    def _call(self, node: fx.Node) -> fx.Node:
        """The operator as a function of torch; one that is not plain gets a name."""
        name = name_of(node)
        is_torchs = isinstance(node.target, torch._ops.OpOverload) and name != "sym_size"
        function: Any = getattr(torch, name, node.target) if is_torchs else node.target
        args, kwargs = fx.map_arg((node.args, node.kwargs), self._value)
        operation = meaning_of(name)
        if operation is not None and (operation.effect in PLAIN or operation.name == "add"):
            return self.graph.call_function(function, args, kwargs)
        return self._module(node, Operator(within_domain(node, function, self.timed)), args, kwargs)

    def _module(
        self,
        node: fx.Node,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        role: str = "",
    ) -> fx.Node:
        """A call of a module under the name of the user's module where the operator stands."""
        path = _path(node)
        if not path or self.inside[path] != 1:
            path = f"{path}.{name_of(node).replace('::', '_')}".lstrip(".")
        path = f"{path}.{role}" if role else path
        stem, number = path, 1
        while path in self.taken or hasattr(nn.Module, path):
            number += 1
            path = f"{stem}_{number}"
        self.taken.add(path)
        _place(self.root, path, module)
        return self.graph.call_module(path, args, kwargs)

    def _value(self, node: fx.Node) -> Any:
        """What stands for a value in the new graph; weights only where no layer holds them."""
        if node.op == "get_attr" and node not in self.new:
            name = f"constant_{len(self.new)}"
            self.root.register_buffer(name, self._tensor(str(node.target)).detach())
            self.new[node] = self.graph.get_attr(name)
        return self.new[node]

    def _held(self, arg: Any) -> Any:
        return self._tensor(str(arg.target)) if isinstance(arg, fx.Node) else arg

    def _tensor(self, path: str) -> Tensor:
        owner, _, name = path.rpartition(".")
        return getattr(self.captured.module.get_submodule(owner), name)

    def _unflattened(self, value: fx.Node) -> fx.Node:
        return self._method("unflatten", value, 0, (self.steps, -1))

    def _method(self, name: str, *args: Any) -> fx.Node:
        return self.graph.call_method(name, args)


def _axis_of_samples(site: Site, shape: torch.Size, samples: int) -> int:
    """Where a value has its samples, of each as many rows."""
    if len(site.batch) != 1 or shape[site.batch[0]] % samples:
        raise ValueError(
            f"model: the value of {site.title} at {site.place} has no single axis with as many "
            f"rows for every sample, so it cannot be a layer of neurons; use the network itself"
        )
    return site.batch[0]


def _path(node: fx.Node) -> str:
    """The user's module in which an operator stands; empty for the model itself."""
    stack = [v for v in (node.meta.get("nn_module_stack") or {}).values() if v[0][:1] != "_"]
    return stack[-1][0] if stack else ""


def _prefixes(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts) + 1)]


def _place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a place in a tree, and plain modules around it."""
    *outer, name = path.split(".")
    for part in outer:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    root.add_module(name, module)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    module = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    return _with_weights(module, weight, bias)


def _conv(kind: type[nn.Module]) -> Callable[..., nn.Module]:
    def make(
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> nn.Module:
        rank = weight.dim() - 2
        sizes = [_each(value, rank) for value in (stride, padding, dilation)]
        module = kind(
            weight.shape[1] * groups,
            weight.shape[0],
            tuple(weight.shape[2:]),
            *sizes,
            groups=groups,
            bias=bias is not None,
            device="meta",
        )
        return _with_weights(module, weight, bias)

    return make


def _each(value: Any, rank: int) -> Any:
    if isinstance(value, str):
        return value
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * (rank // len(values))


def _with_weights(module: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    for name, tensor in (("weight", weight), ("bias", bias)):
        held = None if tensor is None else nn.Parameter(tensor.detach(), tensor.requires_grad)
        module.register_parameter(name, held)
    return module


def _average(kernel: Any, stride: Any = (), *args: Any, **kwargs: Any) -> nn.Module:
    return nn.AvgPool2d(kernel, stride or None, *args, **kwargs)


LAYERS: dict[str, Callable[..., nn.Module]] = {
    "linear": _linear,
    "conv1d": _conv(nn.Conv1d),
    "conv2d": _conv(nn.Conv2d),
    "avg_pool2d": _average,
    "flatten": lambda start=0, end=-1: nn.Flatten(start, end),
}
