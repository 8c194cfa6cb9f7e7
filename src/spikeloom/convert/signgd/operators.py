"""What each operator of a model becomes: it passes increments on, is a spiking node, or is refused.

An operator that is affine in what spikes carry stays as it is. Every other one needs a node that
tracks it. What is in neither list is refused by name and place, because a nonlinear operator that
is left between two nodes gives wrong results without any error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from spikeloom.convert.signgd.channels import channel_axis
from spikeloom.convert.signgd.nodes import name_of, place_of
from spikeloom.neurons.signgd_functions import FUNCTIONS, as_function
from spikeloom.observe import Effect, Operation, meaning_of, register
from spikeloom.observe.operation import ACTIVE

__all__ = ["Plan", "Site", "classify"]

# What a node may compute: it follows continuous functions, and sums with weights that change.
FOLLOWED = ACTIVE | {Effect.AVERAGES}
# They add nothing up.
MOVED = frozenset({Effect.KEEPS, Effect.MOVES, Effect.PADS})
register(Operation("mul_inverse_sqrt", Effect.MULTIPLIES, is_partial=True))
register(Operation("adaptive_max_pool", Effect.SELECTS))


@dataclass(frozen=True)
class Site:
    """A node of the converted network.

    Attributes:
        name: Its name, unique in the graph.
        operator: What it tracks.
        computed: The operators in front of it that it computes itself, the nearest first.
        place: Where it stands in the user's module tree.
        function: The neuron function that equals the operator; None for an operator that no single
            neuron computes.
        constants: The function's constants.
        strict: The tie rule.
        depth: How many sites its input has passed.
        batch: The axes of its value that grow with the batch.
        channel: The axis of its channels or features, each of which may have a reach of its own;
            None if it has none.
    """

    name: str
    operator: str
    computed: tuple[str, ...]
    place: str
    function: str | None
    constants: dict[str, float]
    strict: bool
    depth: int
    batch: tuple[int, ...]
    channel: int | None

    @property
    def title(self) -> str:
        """What it tracks, such as ``max_pool2d of relu``."""
        return " of ".join((self.operator, *self.computed))

    @property
    def is_partial(self) -> bool:
        """Whether its target may be undefined until the estimates that it reads have settled."""
        operation = meaning_of(self.operator)
        return operation is not None and operation.is_partial

    @property
    def reads_operand(self) -> bool:
        """Whether a single neuron computes the operator, of its one operand."""
        return self.function is not None and as_function(self.function).operands == 1


@dataclass(frozen=True)
class Plan:
    """What is known of a graph before it runs.

    Attributes:
        sites: The spiking nodes, in order.
        timed: Names of the graph's values that change from step to step.
        joins: Whether a node computes operators in front of its own that only nodes read.
    """

    sites: tuple[Site, ...]
    timed: frozenset[str]
    joins: bool


def classify(graph: fx.Graph, *, joins: bool = True, timed_inputs: bool = False) -> Plan:
    """Decide for every operator what becomes of it.

    Args:
        graph: A cleaned graph, see :func:`~spikeloom.convert.signgd.graph.capture`.
        joins: Whether an operator that only nodes read is computed by these; False makes every
            operator that is not affine a node.
        timed_inputs: Whether inputs change from step to step; False for constant currents.

    Raises:
        NotImplementedError: If an operator is neither affine nor handled; names all of them.
        ValueError: If there is nothing to convert.
    """
    carries, followed = _streams(graph)
    inner = _inner(carries, followed) if joins else set[fx.Node]()
    timed: set[fx.Node] = set()
    depths: dict[fx.Node, int] = {}
    channels: dict[fx.Node, int | None] = {}
    sites: list[Site] = []
    for node in graph.nodes:
        channels[node] = channel_axis(node, channels)
        if node.op == "placeholder" and timed_inputs and isinstance(node.meta.get("val"), Tensor):
            timed.add(node)  # also token ids and masks, which carry nothing
        if node.op != "call_function" or _is_shape(node):
            continue
        sources = node.all_input_nodes
        depths[node] = max((depths.get(source, 0) for source in sources), default=0)
        if node in followed and node not in inner:
            computed = tuple(name_of(each) for each in _computed(node, carries, inner))
            sites.append(_site(node, carries, computed, depths[node], channels[node]))
            depths[node] += 1
            timed.add(node)
        elif not timed.isdisjoint(sources):
            timed.add(node)
    if not sites:
        raise ValueError("model: is affine from input to output; there is nothing to convert")
    return Plan(tuple(sites), frozenset(node.name for node in timed), joins)


def _streams(graph: fx.Graph) -> tuple[set[fx.Node], set[fx.Node]]:
    """What spikes stand for, since it depends on a real-valued input, and what nodes may follow."""
    carries: set[fx.Node] = set()
    depends: set[fx.Node] = set()
    followed: set[fx.Node] = set()
    refused: list[str] = []
    for node in graph.nodes:
        sources = set(node.all_input_nodes)
        if node.op == "placeholder" or (node.op == "call_function" and sources & depends):
            depends.add(node)
        if (node.op == "placeholder" and _is_real(node)) or _begins_stream(node, depends):
            carries.add(node)
        if node.op != "call_function" or _is_shape(node) or not sources & carries:
            continue
        carries.add(node)
        if is_affine(node, carries):
            continue
        followed.add(node)
        if not _can_be_followed(node):
            refused.append(f"{name_of(node)} at {place_of(node)}")
    if refused:
        raise NotImplementedError(
            f"signGD conversion knows no spiking form of: {'; '.join(refused)}. Replace the "
            f"operator, or compute it outside the converted model"
        )
    return carries, followed


def _inner(carries: set[fx.Node], followed: set[fx.Node]) -> set[fx.Node]:
    """Operators that are not affine and that only nodes read, with no layer in between.

    None that is undefined or grows without bounds: while its operand still moves, a node of its
    own keeps what it sends within reach.
    """

    def is_read_by_nodes(node: fx.Node) -> bool:
        return bool(node.users) and all(
            user in followed or (_is_plain(user, carries) and is_read_by_nodes(user))
            for user in node.users
        )

    return {node for node in followed if not _is_partial(node) and is_read_by_nodes(node)}


def _is_partial(node: fx.Node) -> bool:
    operation = meaning_of(name_of(node))
    return operation is not None and operation.is_partial


def _computed(node: fx.Node, carries: set[fx.Node], inner: set[fx.Node]) -> list[fx.Node]:
    """The operators in front of a node that it computes itself, the nearest first."""
    found: list[fx.Node] = []
    ahead = list(node.all_input_nodes)
    for source in ahead:  # which grows meanwhile
        if source in inner and source not in found:
            found.append(source)
            ahead += source.all_input_nodes
        elif source in carries and _is_plain(source, carries):
            ahead += source.all_input_nodes
    return found


def _is_plain(node: fx.Node, carries: set[fx.Node]) -> bool:
    """Whether an operator moves, shifts or scales a single stream, as no layer of neurons does."""
    operation = meaning_of(name_of(node))
    if node.op != "call_function" or operation is None:
        return False
    is_pointwise = torch.Tag.pointwise in getattr(node.target, "tags", ())
    streams = carries.intersection(node.all_input_nodes)
    keeps_apart = operation.effect in MOVED or is_pointwise
    return keeps_apart and len(streams) == 1 and is_affine(node, carries)


def _is_real(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_shape(node: fx.Node) -> bool:
    operation = meaning_of(name_of(node))
    return operation is not None and operation.effect is Effect.DESCRIBES


def _begins_stream(node: fx.Node, depends: set[fx.Node]) -> bool:
    """A table of vectors that the input indexes: token embeddings."""
    return name_of(node) == "embedding" and node.args[1] in depends


def is_affine(node: fx.Node, carries: set[fx.Node]) -> bool:
    """Whether an operator is affine in the operands that spikes carry."""
    operation, value = meaning_of(name_of(node)), node.meta["val"]
    if operation is None or (isinstance(value, Tensor) and not value.is_floating_point()):
        return False
    if operation.effect is Effect.MAKES:  # of a value's shape alone, or by chance
        return False
    return operation.is_affine(node.args, node.kwargs, lambda leaf: _carried(leaf, carries))


def _carried(arg: Any, carries: set[fx.Node]) -> bool:
    if isinstance(arg, (list, tuple)):
        return any(_carried(part, carries) for part in arg)
    return isinstance(arg, fx.Node) and arg in carries


def _can_be_followed(node: fx.Node) -> bool:
    operation = meaning_of(name_of(node))
    if _overwrites_meaning(node) or not _is_real(node) or node.kwargs.get("rounding_mode"):
        return False
    return operation is not None and operation.effect in FOLLOWED


def _site(
    node: fx.Node,
    carries: set[fx.Node],
    computed: tuple[str, ...],
    depth: int,
    channel: int | None,
) -> Site:
    name, operation = name_of(node), meaning_of(name_of(node))
    function, constants = _neuron(node, carries)
    # Published nodes of matrix products send 1 on a tie, and those of some functions.
    is_product = (
        operation is not None and operation.effect is Effect.WEIGHS and operation.factors == (0, 1)
    )
    return Site(
        node.name,
        name,
        computed,
        place_of(node),
        function,
        constants,
        strict=not is_product if function is None else as_function(function).strict,
        depth=depth,
        batch=tuple(node.meta["batch"]),
        channel=channel,
    )


def _overwrites_meaning(node: fx.Node) -> bool:
    """Variants that are another operator under a handled name."""
    name = name_of(node)
    if name == "instance_norm":
        return not node.args[5]  # running statistics: affine, but not in this form
    return name == "scaled_dot_product_attention" and _argument(node, 4, "dropout_p", 0.0) != 0.0


def _neuron(node: fx.Node, carries: set[fx.Node]) -> tuple[str | None, dict[str, float]]:
    """The function that computes an operator, and its constants; None if no single neuron does.

    A function computes the operator of its name if all arguments but operands and constants are
    as by default, and the call has all of its constants.
    """
    name, told = _function_name(node)
    function, operands, constants = FUNCTIONS.get(name), 0, dict[str, float]()
    for argument, value, default in _arguments(node):
        if isinstance(value, fx.Node):
            if value not in carries:
                return None, {}
            operands += 1
        elif function is not None and argument in function.constants and value is not None:
            constants[argument] = float(value)
        elif value != default and argument != told:
            return None, {}
    if function is None or (operands, {*constants}) != (function.operands, {*function.constants}):
        return None, {}
    return name, constants


def _function_name(node: fx.Node) -> tuple[str, str]:
    """What the function of an operator is called, and the argument that this tells."""
    name = name_of(node)
    if name == "pow" and node.args[1] == 2:
        return "square", "exponent"
    if name == "gelu" and _argument(node, 1, "approximate", "none") == "tanh":
        return "gelu_tanh", "approximate"
    operation = meaning_of(name)
    name = name if operation is None else operation.name
    return {"mul": "multiply", "div": "divide"}.get(name, name), ""


def _arguments(node: fx.Node) -> list[tuple[str, Any, Any]]:
    """An operator's arguments by name, each with its value and its default."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return [("", value, None) for value in node.args]
    declared = node.target._schema.arguments
    given = dict(zip((argument.name for argument in declared), node.args, strict=False))
    given.update(node.kwargs)
    return [
        (argument.name, given.get(argument.name, argument.default_value), argument.default_value)
        for argument in declared
    ]


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    """An argument that may stand at its position, by name, or be left out."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def mul_inverse_sqrt(a: Tensor, b: Tensor) -> Tensor:
    """``a / sqrt(b)``, the second node of a decomposed normalisation."""
    return a * torch.rsqrt(b)
