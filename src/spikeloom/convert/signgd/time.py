"""A graph over time: every operator on all steps at once.

A value that changes from step to step has the time axis in front of its batch. Affine operators
and functions do not care in which order steps come, so each runs once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from spikeloom.convert.signgd.graph import name_of, names
from spikeloom.convert.signgd.operators import Plan, Site

__all__ = ["AtSite", "Machine"]

# What happens at a spiking node: the site, and its operands -> the value that it sends.
AtSite = Callable[[Site, tuple[Any, ...], Callable[[], Tensor]], Tensor]

# They take any further axes in front.
POINTWISE = names(
    """
    relu silu sigmoid tanh abs square exp sqrt rsqrt reciprocal gelu leaky_relu elu softplus
    neg pow hardtanh relu6 hardswish hardsigmoid mish log erf clamp add sub mul div maximum
    minimum clone contiguous alias to mul_inverse_sqrt
    """
)
# So do these if time is in front of every operand.
BROADCAST = {"matmul": torch.matmul, "bmm": torch.matmul}
LAST_AXES = frozenset({"linear", "layer_norm", "rms_norm"})
# They take [batch, ...] of this many axes; time and batch can be one axis.
BATCHED = {
    "conv1d": 3,
    "conv2d": 4,
    "conv3d": 5,
    "max_pool1d": 3,
    "max_pool2d": 4,
    "avg_pool1d": 3,
    "avg_pool2d": 4,
    "adaptive_avg_pool1d": 3,
    "adaptive_avg_pool2d": 4,
}


class Machine:
    """Runs a graph operator by operator, and its sites as the caller decides.

    Args:
        module: The graph.
        plan: Its sites and which values change with time.
        over_time: Whether values have a time axis; False runs the plain network.
    """

    def __init__(self, module: fx.GraphModule, plan: Plan, *, over_time: bool) -> None:
        self.module = module
        self.sites = {site.name: site for site in plan.sites}
        self.timed = plan.timed if over_time else frozenset()
        self.operators = {
            node.name: _operator(node, self.timed)
            for node in module.graph.nodes
            if node.op == "call_function"
        }
        self._late = {
            node.name
            for node in module.graph.nodes
            if any(source.name in self.timed for source in node.all_input_nodes)
        }
        self.spent = _last_uses(module.graph)

    def __call__(self, inputs: Sequence[Any], at_site: AtSite) -> list[Any]:
        """Run the graph.

        Args:
            inputs: The flat inputs.
            at_site: Gets a site, its operands and a function that computes the operator; returns
                the value that the site sends.

        Returns:
            The flat outputs.
        """
        values: dict[fx.Node, Any] = {}
        arriving = iter(inputs)
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(arriving)
            elif node.op == "get_attr":
                values[node] = _attribute(self.module, str(node.target))
            elif node.op == "call_function":
                values[node] = self._run(node, values, at_site)
            else:
                return list(pytree.tree_leaves(fx.map_arg(node.args[0], values.__getitem__)))
            for old in self.spent.get(node, ()):
                del values[old]
        return []

    def reads_time(self, name: str) -> bool:
        """Whether an operator's operands change with time.

        Args:
            name: The operator's name in the graph.
        """
        return name in self._late

    def timed_outputs(self) -> list[bool]:
        """For each flat output, whether it changes with time."""
        output = next(node for node in self.module.graph.nodes if node.op == "output")
        return [_is_timed(leaf, self.timed) for leaf in pytree.tree_leaves(output.args[0])]

    def _run(self, node: fx.Node, values: dict[fx.Node, Any], at_site: AtSite) -> Any:
        args = fx.map_arg(node.args, values.__getitem__)
        kwargs = fx.map_arg(node.kwargs, values.__getitem__)
        operator = self.operators[node.name]
        if node.name not in self.sites:
            return operator(*args, **kwargs)
        return at_site(self.sites[node.name], args, lambda: operator(*args, **kwargs))


def _attribute(module: fx.GraphModule, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """For each operator, the values that nobody reads after it."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        last[node] = node
        for source in node.all_input_nodes:
            last[source] = node
    spent: dict[fx.Node, list[fx.Node]] = {}
    for source, user in last.items():
        spent.setdefault(user, []).append(source)
    return spent


def _is_timed(leaf: Any, timed: frozenset[str]) -> bool:
    return isinstance(leaf, fx.Node) and leaf.name in timed


def _operator(node: fx.Node, timed: frozenset[str]) -> Callable[..., Any]:
    """An operator on operands of which some have a time axis in front."""
    target: Any = node.target
    operands = node.all_input_nodes
    name = name_of(node)
    times = [operand.name in timed for operand in operands]
    if not any(times):
        return target
    if name == "getitem" and not isinstance(operands[0].meta["val"], Tensor):
        return target  # one of several values, each with its own time axis
    if name == "sym_size":
        return lambda x, axis: x.shape[axis + 1 if axis >= 0 else axis]
    ranks = [_rank(operand) for operand in operands]
    # Broadcasting aligns the last axes, so time must end up in front of the longest operand.
    aligned = all(
        rank == max(ranks) if is_timed else rank <= max(ranks)
        for rank, is_timed in zip(ranks, times, strict=True)
    )
    if name in POINTWISE and aligned:
        return target
    if name in BROADCAST and aligned and min(ranks) >= 2:
        return BROADCAST[name]
    first_only = times[0] and not any(times[1:])
    if name in LAST_AXES and first_only:
        return target
    if name in BATCHED and first_only and ranks[0] == BATCHED[name]:
        return _time_as_batch(target)
    return _mapped(target, _flags(node, timed))


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.dim() if isinstance(value, Tensor) else 0


def _time_as_batch(target: Callable[..., Any]) -> Callable[..., Any]:
    def run(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return target(x.flatten(0, 1), *args, **kwargs).unflatten(0, x.shape[:2])

    return run


def _flags(node: fx.Node, timed: frozenset[str]) -> list[int | None]:
    """For every leaf of an operator's arguments, 0 if it has a time axis in front."""
    leaves = pytree.tree_leaves((node.args, node.kwargs))
    return [0 if _is_timed(leaf, timed) else None for leaf in leaves]


def _mapped(target: Callable[..., Any], flags: list[int | None]) -> Callable[..., Any]:
    """An operator for one step, for all steps."""

    def run(*args: Any, **kwargs: Any) -> Any:
        leaves, structure = pytree.tree_flatten((args, kwargs))
        places = [i for i, flag in enumerate(flags) if flag == 0]

        def one(*moving: Tensor) -> Any:
            now = list(leaves)
            for place, value in zip(places, moving, strict=True):
                now[place] = value
            again, named = pytree.tree_unflatten(now, structure)
            return target(*again, **named)

        return torch.func.vmap(one)(*(leaves[place] for place in places))

    return run
