"""A graph over time: every operator on all steps at once.

A value that changes from step to step has the time axis in front of its batch. Affine operators
and functions do not care in which order steps come, so each runs once for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from spikeloom.convert.signgd.domains import within_domain
from spikeloom.convert.signgd.nodes import name_of
from spikeloom.convert.signgd.operators import Plan, Site, mul_inverse_sqrt
from spikeloom.convert.signgd.pooling import MAX_POOLS, adaptive_max_pool, max_pool
from spikeloom.observe import Effect, meaning_of

__all__ = ["AtSite", "Machine"]

# What happens at a spiking node: the site, and its operands -> the value that it sends.
AtSite = Callable[[Site, tuple[Any, ...], Callable[[], Tensor]], Tensor]
# One operator of a run: reads the values so far, returns its own.
Instruction = Callable[[list[Any], AtSite], Any]

# They take any further axes in front if time is in front of every operand.
BROADCAST = {"matmul": torch.matmul, "bmm": torch.matmul}
LAST_AXES = frozenset({"linear", "layer_norm", "rms_norm"})
# They take [batch, channels, *map]; time and batch can be one axis.
ON_MAPS = re.compile(r".*([123])d|(?:group|instance)_norm|(?:pixel|channel)_(?:un)?shuffle")
# What torch calls an argument that names axes.
AXES = re.compile(r"dims?|dim\d|start_dim|end_dim|source|destination|axis\d")
SHAPED = frozenset({"reshape", "view"})
# They take any axes in front already, unlike torch's own.
OURS: dict[str, Callable[..., Tensor]] = {
    **{name: partial(max_pool, axes) for name, axes in MAX_POOLS.items()},
    "adaptive_max_pool": adaptive_max_pool,
}


class Machine:
    """Runs a graph operator by operator, and its sites as the caller decides.

    Args:
        module: The graph.
        plan: Its sites and which values change with time.
        over_time: Whether values have a time axis; False runs the plain network.
    """

    def __init__(self, module: fx.GraphModule, plan: Plan, *, over_time: bool) -> None:
        self.sites = {site.name: site for site in plan.sites}
        self.timed = plan.timed if over_time else frozenset()
        nodes = list(module.graph.nodes)
        self.slots = {node: slot for slot, node in enumerate(nodes)}
        self._arriving = [self.slots[node] for node in nodes if node.op == "placeholder"]
        self._tensors = [
            (self.slots[node], *_owner(module, str(node.target)))
            for node in nodes
            if node.op == "get_attr"
        ]
        spent = _last_uses(nodes)
        self._instructions = [
            (self.slots[node], self._instruction(node), [self.slots[old] for old in spent[node]])
            for node in nodes
            if node.op == "call_function"
        ]
        self.feeding = {name: _feeding(nodes, name, self.sites) for name in self.sites}
        self._output = nodes[-1].args[0]
        self._late = {
            node.name
            for node in nodes
            if any(source.name in self.timed for source in node.all_input_nodes)
        }

    def __call__(self, inputs: Sequence[Any], at_site: AtSite) -> list[Any]:
        """Run the graph.

        Args:
            inputs: The flat inputs.
            at_site: Gets a site, its operands and a function that computes the operator; returns
                the value that the site sends.

        Returns:
            The flat outputs.
        """
        values: list[Any] = [None] * len(self.slots)
        for slot, value in zip(self._arriving, inputs, strict=True):
            values[slot] = value
        for slot, owner, name in self._tensors:
            values[slot] = getattr(owner, name)
        for slot, run, spent in self._instructions:
            values[slot] = run(values, at_site)
            for old in spent:
                values[old] = None
        return list(pytree.tree_leaves(_reader(self._output, self.slots)(values)))

    def reads_time(self, name: str) -> bool:
        """Whether an operator's operands change with time.

        Args:
            name: The operator's name in the graph.
        """
        return name in self._late

    def timed_outputs(self) -> list[bool]:
        """For each flat output, whether it changes with time."""
        return [_is_timed(leaf, self.timed) for leaf in pytree.tree_leaves(self._output)]

    def _instruction(self, node: fx.Node) -> Instruction:
        """One operator, with where its arguments stand looked up beforehand."""
        operator = within_domain(node, _operator(node, self.timed), self.timed)
        readers = [_reader(arg, self.slots) for arg in node.args]
        named = {name: _reader(arg, self.slots) for name, arg in node.kwargs.items()}
        site = self.sites.get(node.name)
        if node.name not in self.timed and any(user.name in self.timed for user in node.users):
            operator = _dense(operator)

        def run(values: list[Any], at_site: AtSite) -> Any:
            args = tuple([read(values) for read in readers])
            kwargs = {name: read(values) for name, read in named.items()}
            if site is None:
                return operator(*args, **kwargs)
            return at_site(site, args, lambda: operator(*args, **kwargs))

        return run


def _dense(operator: Callable[..., Any]) -> Callable[..., Any]:
    """A constant that enters a computation over time: its layout becomes that of all steps."""

    def run(*args: Any, **kwargs: Any) -> Any:
        value = operator(*args, **kwargs)
        return value.contiguous() if isinstance(value, Tensor) else value

    return run


def _reader(arg: Any, slots: dict[fx.Node, int]) -> Callable[[list[Any]], Any]:
    """What finds an argument among the values of a run.

    Sequences become plain ones: what compiles a run does not know those of graphs.
    """
    if isinstance(arg, fx.Node):
        slot = slots[arg]
        return lambda values: values[slot]
    if isinstance(arg, (list, tuple)):
        kind = list if isinstance(arg, list) else tuple
        readers = [_reader(part, slots) for part in arg]
        if not _has_nodes(arg):
            constant = kind(arg)
            return lambda values: constant
        return lambda values: kind([read(values) for read in readers])
    if not _has_nodes(arg):
        return lambda values: arg
    return lambda values: fx.map_arg(arg, lambda node: values[slots[node]])


def _has_nodes(arg: Any) -> bool:
    found: list[fx.Node] = []
    fx.map_arg(arg, found.append)
    return bool(found)


def _owner(module: fx.GraphModule, path: str) -> tuple[nn.Module, str]:
    owner, _, name = path.rpartition(".")
    return module.get_submodule(owner), name


def _feeding(nodes: list[fx.Node], name: str, sites: Mapping[str, Site]) -> tuple[str, ...]:
    """The sites whose values reach a site without passing another."""
    ahead = [source for node in nodes if node.name == name for source in node.all_input_nodes]
    seen = set(ahead)
    for node in ahead:  # which grows meanwhile
        if node.name not in sites:
            fresh = [source for source in node.all_input_nodes if source not in seen]
            ahead += fresh
            seen.update(fresh)
    return tuple(node.name for node in ahead if node.name in sites)


def _last_uses(nodes: Sequence[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """For each node, the values that are not read after it."""
    last: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        for source in (node, *node.all_input_nodes):
            last[source] = node
    spent: dict[fx.Node, list[fx.Node]] = {node: [] for node in nodes}
    for source, user in last.items():
        spent[user].append(source)
    return spent


def _is_timed(leaf: Any, timed: frozenset[str]) -> bool:
    return isinstance(leaf, fx.Node) and leaf.name in timed


def _operator(node: fx.Node, timed: frozenset[str]) -> Callable[..., Any]:
    """An operator on operands of which some have a time axis in front."""
    name = name_of(node)
    target: Any = OURS.get(name, node.target)
    operands = node.all_input_nodes
    times = [operand.name in timed for operand in operands]
    if not any(times) or name in OURS:
        return target
    # It may ask for a layout of four axes, where there is one more; values are the same in any.
    if _keeps(node) and "memory_format" in node.kwargs:
        return _in_any_layout(target)
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
    if aligned and _is_pointwise(node):
        return target
    if name in BROADCAST and aligned and min(ranks) >= 2:
        return BROADCAST[name]
    if name == "scaled_dot_product_attention" and _is_attention_over_time(node, timed):
        return partial(_attention_over_time, target)
    first_only = times[0] and not any(times[1:])
    if name in LAST_AXES and first_only:
        return target
    if name == "permute" and first_only:
        return lambda x, order: target(x, [0, *map(_one_on, order)])
    if name in SHAPED and first_only:
        return lambda x, shape: target(x, [x.shape[0], *shape])
    axes = _axes_at(node.target)
    if axes and all(times) and _states_axes(node, axes):
        return _shifted(target, axes)
    on_maps = ON_MAPS.fullmatch(name)
    if on_maps and first_only and ranks[0] == int(on_maps[1] or 2) + 2:
        return _time_as_batch(target)
    return _mapped(target, _flags(node, timed))


def _keeps(node: fx.Node) -> bool:
    operation = meaning_of(name_of(node))
    return operation is not None and operation.effect is Effect.KEEPS


def _is_pointwise(node: fx.Node) -> bool:
    """Whether an operator works on each element, so that it takes any further axes in front."""
    is_tagged = torch.Tag.pointwise in getattr(node.target, "tags", ())
    return is_tagged or node.target is mul_inverse_sqrt or _keeps(node)


def _axes_at(target: Any) -> tuple[int, ...]:
    """Where an operator is told axes: with time in front, those from the front are one further."""
    arguments = target._schema.arguments if isinstance(target, torch._ops.OpOverload) else ()
    return tuple(i for i, argument in enumerate(arguments) if AXES.fullmatch(argument.name))


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.dim() if isinstance(value, Tensor) else 0


def _in_any_layout(target: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, memory_format: Any, **kwargs: Any) -> Tensor:
        return target(*args, **kwargs)

    return run


def _time_as_batch(target: Callable[..., Any]) -> Callable[..., Any]:
    def run(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = target(x.flatten(0, 1), *args, **kwargs)
        return y.view(*x.shape[:2], *y.shape[1:])

    return run


def _is_attention_over_time(node: fx.Node, timed: frozenset[str]) -> bool:
    """Whether queries, keys and values [batch, heads, *] change with time, and no mask does."""
    operands, others = node.args[:3], (node.args[3:], node.kwargs)
    if any(_is_timed(leaf, timed) for leaf in pytree.tree_leaves(others)):
        return False
    return all(isinstance(x, fx.Node) and x.name in timed and _rank(x) == 4 for x in operands)


def _attention_over_time(
    target: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Time and batch as one axis, as the kernels for attention want it."""
    if attn_mask is not None and attn_mask.dim() == 4 and len(attn_mask) > 1:
        attn_mask = attn_mask.expand(len(q), *attn_mask.shape).flatten(0, 1)
    y = target(*(x.flatten(0, 1) for x in (q, k, v)), attn_mask, *args, **kwargs)
    return y.unflatten(0, q.shape[:2])


def _states_axes(node: fx.Node, places: tuple[int, ...]) -> bool:
    """Whether the arguments say which axes, so that no default that counts from the front does."""
    return len(node.args) > places[0] and node.args[places[0]] not in (None, [])


def _one_on(axis: int) -> int:
    return axis + 1 if axis >= 0 else axis


def _shifted(target: Callable[..., Any], places: tuple[int, ...]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        moved = list(args)
        for place in places[: len(args) - places[0]]:
            axes = args[place]
            moved[place] = _one_on(axes) if isinstance(axes, int) else [*map(_one_on, axes)]
        return target(*moved, **kwargs)

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
