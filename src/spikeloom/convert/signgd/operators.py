"""What each operator of a model becomes: it passes increments on, is a spiking node, or is refused.

An operator that is affine in what spikes carry stays as it is. Every other one needs a node that
tracks it. What is in neither list is refused by name and place, because a nonlinear operator that
is left between two nodes gives wrong results without any error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from spikeloom.convert.signgd.channels import channel_axis
from spikeloom.convert.signgd.nodes import name_of, names, place_of

__all__ = ["Plan", "Site", "classify"]

# Affine in all their operands together.
LINEAR = names(
    """
    add sub rsub neg mean sum cumsum cat concat stack unbind split split_with_sizes chunk
    tensor_split getitem view reshape flatten unflatten select slice narrow squeeze unsqueeze
    transpose permute t T mT expand expand_as broadcast_to repeat repeat_interleave roll flip
    movedim swapaxes contiguous clone alias detach to _to_copy lift_fresh_copy type_as pad
    constant_pad_nd avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d upsample_bilinear2d
    upsample_linear1d pixel_shuffle pixel_unshuffle unfold fold im2col col2im tril triu
    diagonal reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d positive view_as
    reshape_as upsample_nearest3d upsample_trilinear3d upsample_bicubic2d channel_shuffle
    _pad_circular swapdims ravel
    """
)
# Affine in the operands at these positions, if what stands elsewhere is constant.
LINEAR_IN = {
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d", "batch_norm"), (0,)),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), (0,)),
    **dict.fromkeys(("gather", "index", "index_select", "masked_fill", "take_along_dim"), (0,)),
    "where": (1, 2),
    "lerp": (0, 1),
    "addcdiv": (0, 1),
    "addmm": (0, 1),
    "baddbmm": (0, 1),
}
# Affine in one operand, if the other is constant; a node if both carry spikes.
BILINEAR = frozenset({"mul", "multiply", "matmul", "mm", "bmm", "mv", "dot"})

# Nodes by the name of the function that a single neuron can compute by itself.
NEURONS = {
    "relu": "relu",
    "silu": "silu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "abs": "abs",
    "square": "square",
    "exp": "exp",
    "sqrt": "sqrt",
    "reciprocal": "reciprocal",
    "maximum": "maximum",
    "mul_inverse_sqrt": "mul_inverse_sqrt",
}
# Nodes whose value is computed by the operator, and tracked.
TRACKED = names(
    """
    relu6 hardtanh hardswish hardsigmoid selu celu mish log_sigmoid clamp clamp_min clamp_max
    clip minimum maximum log log1p expm1 erf sin cos rsqrt prelu glu max_pool1d max_pool2d
    max_pool3d
    layer_norm group_norm rms_norm instance_norm softmax log_softmax amax amin logsumexp var
    std norm linalg_vector_norm scaled_dot_product_attention einsum addmm baddbmm
    addcmul addcdiv lerp softshrink hardshrink threshold atan sinh cosh tan logaddexp hypot
    cosine_similarity
    """
)
# Nodes whose value may be undefined or infinite until the estimates that they read have settled:
# a negative variance, a sum of zero below a fraction.
PARTIAL = names(
    """
    div truediv pow sqrt rsqrt reciprocal mul_inverse_sqrt log log1p exp expm1 addcdiv tan sinh
    cosh
    """
)
# On a tie these send 1, as their published nodes do.
LOOSE = frozenset({"relu", "square", "exp", "mul", "multiply", "matmul", "bmm", "mm"})


@dataclass(frozen=True)
class Site:
    """A node of the converted network.

    Attributes:
        name: Its name, unique in the graph.
        operator: What it tracks.
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
    place: str
    function: str | None
    constants: dict[str, float]
    strict: bool
    depth: int
    batch: tuple[int, ...]
    channel: int | None

    @property
    def is_partial(self) -> bool:
        """Whether the operator is undefined on some estimates."""
        return self.operator in PARTIAL


@dataclass(frozen=True)
class Plan:
    """What is known of a graph before it runs.

    Attributes:
        sites: The spiking nodes, in order.
        timed: Names of the graph's values that change from step to step.
    """

    sites: tuple[Site, ...]
    timed: frozenset[str]


def classify(graph: fx.Graph, *, timed_inputs: bool = False) -> Plan:
    """Decide for every operator what becomes of it.

    Args:
        graph: A cleaned graph, see :func:`~spikeloom.convert.signgd.graph.capture`.
        timed_inputs: Whether inputs change from step to step; False for constant currents.

    Raises:
        NotImplementedError: If an operator is neither affine nor handled; names all of them.
        ValueError: If there is nothing to convert.
    """
    carries: set[fx.Node] = set()  # what spikes stand for: depends on a real-valued input
    depends: set[fx.Node] = set()
    timed: set[fx.Node] = set()
    depths: dict[fx.Node, int] = {}
    channels: dict[fx.Node, int | None] = {}
    sites: list[Site] = []
    refused: list[str] = []
    for node in graph.nodes:
        channels[node] = channel_axis(node, channels)
        if node.op == "placeholder":
            depends.add(node)
            if _is_real(node):
                carries.add(node)
            if timed_inputs and isinstance(node.meta.get("val"), Tensor):
                timed.add(node)  # also token ids and masks, which carry nothing
            continue
        if node.op != "call_function":
            continue
        sources = set(node.all_input_nodes)
        if sources & depends:
            depends.add(node)
        if _begins_stream(node, depends):
            carries.add(node)
        if _is_shape(node):
            continue
        if not sources & carries:
            if sources & timed:
                timed.add(node)
            continue
        carries.add(node)
        depths[node] = _depth(node, depths)
        if is_affine(node, carries):
            if sources & timed:
                timed.add(node)
            continue
        site = _site(node, carries, _depth(node, depths), channels[node])
        if site is None:
            refused.append(f"{name_of(node)} at {place_of(node)}")
        else:
            sites.append(site)
            timed.add(node)
            depths[node] = site.depth + 1
    if refused:
        raise NotImplementedError(
            f"signGD conversion knows no spiking form of: {'; '.join(refused)}. Replace the "
            f"operator, or compute it outside the converted model"
        )
    if not sites:
        raise ValueError("model: is affine from input to output; there is nothing to convert")
    return Plan(tuple(sites), frozenset(node.name for node in timed))


def _depth(node: fx.Node, depths: dict[fx.Node, int]) -> int:
    return max((depths.get(source, 0) for source in node.all_input_nodes), default=0)


def _is_real(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_shape(node: fx.Node) -> bool:
    return name_of(node).startswith("sym_size") or name_of(node) in ("size", "dim")


def _begins_stream(node: fx.Node, depends: set[fx.Node]) -> bool:
    """A table of vectors that the input indexes: token embeddings."""
    return name_of(node) == "embedding" and node.args[1] in depends


def is_affine(node: fx.Node, carries: set[fx.Node]) -> bool:
    """Whether an operator is affine in the operands that spikes carry."""
    name = name_of(node)
    value = node.meta["val"]
    if isinstance(value, Tensor) and not value.is_floating_point():
        return False
    if name in LINEAR:
        return True
    at = [i for i, arg in enumerate(node.args) if _carried(arg, carries)]
    if any(_carried(arg, carries) for arg in node.kwargs.values()):
        return False
    if name in LINEAR_IN:
        return set(at) <= set(LINEAR_IN[name])
    if name == "addcmul":
        return not {1, 2} <= set(at)
    if name == "einsum":
        operands: Any = node.args[1]
        return sum(_carried(operand, carries) for operand in operands) == 1
    if name in ("div", "truediv"):
        return at == [0] and not _rounds(node)
    return name in BILINEAR and len(at) == 1


def _rounds(node: fx.Node) -> bool:
    return node.kwargs.get("rounding_mode") is not None


def _carried(arg: Any, carries: set[fx.Node]) -> bool:
    if isinstance(arg, (list, tuple)):
        return any(_carried(part, carries) for part in arg)
    return isinstance(arg, fx.Node) and arg in carries


def _site(node: fx.Node, carries: set[fx.Node], depth: int, channel: int | None) -> Site | None:
    name = name_of(node)
    if _overwrites_meaning(node) or not _is_real(node):
        return None
    function, constants = _neuron(node, name, carries)
    known = (
        function is not None
        or name in TRACKED
        or name in BILINEAR
        or (name in ("div", "truediv", "pow") and not _rounds(node))
        or name in ("gelu", "elu", "softplus", "leaky_relu")
    )
    if not known:
        return None
    strict, batch = name not in LOOSE, tuple(node.meta["batch"])
    return Site(node.name, name, place_of(node), function, constants, strict, depth, batch, channel)


def _overwrites_meaning(node: fx.Node) -> bool:
    """Variants that are another operator under a handled name."""
    name = name_of(node)
    if name == "instance_norm":
        return not node.args[5]  # running statistics: affine, but not in this form
    return name == "scaled_dot_product_attention" and _argument(node, 4, "dropout_p", 0.0) != 0.0


def _neuron(node: fx.Node, name: str, carries: set[fx.Node]) -> tuple[str | None, dict[str, float]]:
    """The neuron function that computes an operator, and its constants."""
    rule = _WITH_CONSTANTS.get(name)
    if rule is not None:
        return rule(node)
    both = all(_carried(arg, carries) for arg in node.args[:2]) and len(node.args) >= 2
    if name in ("mul", "multiply", "div", "truediv") and both and not _rounds(node):
        return ("multiply" if name.startswith("mul") else "divide"), {}
    if name == "maximum" and not both:
        return None, {}
    return NEURONS.get(name), {}


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    """An argument that may stand at its position, by name, or be left out."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def _gelu(node: fx.Node) -> tuple[str | None, dict[str, float]]:
    form = _argument(node, 1, "approximate", "none")
    return ("gelu" if form == "none" else "gelu_tanh"), {}


def _leaky_relu(node: fx.Node) -> tuple[str | None, dict[str, float]]:
    return "leaky_relu", {"negative_slope": float(_argument(node, 1, "negative_slope", 0.01))}


def _elu(node: fx.Node) -> tuple[str | None, dict[str, float]]:
    if _argument(node, 2, "scale", 1) != 1 or _argument(node, 3, "input_scale", 1) != 1:
        return None, {}
    return "elu", {"alpha": float(_argument(node, 1, "alpha", 1.0))}


def _softplus(node: fx.Node) -> tuple[str | None, dict[str, float]]:
    return "softplus", {"beta": float(_argument(node, 1, "beta", 1.0))}


def _pow(node: fx.Node) -> tuple[str | None, dict[str, float]]:
    return ("square" if node.args[1] == 2 else None), {}


_WITH_CONSTANTS: dict[str, Callable[[fx.Node], tuple[str | None, dict[str, float]]]] = {
    "gelu": _gelu,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "softplus": _softplus,
    "pow": _pow,
}


def mul_inverse_sqrt(a: Tensor, b: Tensor) -> Tensor:
    """``a / sqrt(b)``, the second node of a decomposed normalisation."""
    return a * torch.rsqrt(b)
