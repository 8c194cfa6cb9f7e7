"""fold_norms: batch norm into weights, thresholds and pools, wherever that is exact.

In eval mode a batch norm is ``y = a u + d`` with one pair ``(a, d)`` for each feature. Behind a
weight layer with the same feature axis it is part of the weights; in front of a neuron it is part
of the threshold; in front of a weight layer, pools between, it is part of that layer's weights.

How modules follow each other is read from a torch.fx graph; a module that torch.fx cannot follow
is opened, and its children are read on their own.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from spikeloom.kernel.neuron import Neuron
from spikeloom.layer import SpikingLayer, current_parameters
from spikeloom.neurons.lif import IF, LIF
from spikeloom.report import Report

__all__ = ["FeatureShift", "fold_norms"]

# What a value passes through unchanged, or merely rearranged with its features where they were.
TRANSPARENT = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
# Norms that compute statistics at inference too; nothing can fold them.
DATA_DEPENDENT = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
SPATIAL: dict[int, tuple[type, ...]] = {
    1: (nn.BatchNorm1d, nn.Conv1d),
    2: (nn.BatchNorm2d, nn.Conv2d),
    3: (nn.BatchNorm3d, nn.Conv3d),
}
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


def fold_norms(
    model: nn.Module, *, gains: bool = False, make: Callable[[Neuron], nn.Module] = SpikingLayer
) -> nn.Module:
    r"""A copy of a model whose batch norms are folded away, exactly, wherever that is possible.

    With :math:`a = \gamma / \sqrt{\sigma^2 + \epsilon}` and :math:`d = \beta - a \mu`:

    - weight, norm of its outputs: :math:`W' = a W,\; b' = a b + d`;
    - norm of other features (tokens), neuron: :math:`a u + d` meets a threshold :math:`\theta` as
      :math:`\pm u + d/|a|` meets :math:`\theta/|a|`, for a neuron that rests at 0;
    - norm, pools, weight: :math:`W' = W a,\; b' = b + W d`;
    - average pool, weight: the pool becomes a sum, its 1/n part of the weights;
    - with ``gains``, the 1/tau of ``decay_input`` becomes part of the weights in front.

    Args:
        model: In eval mode; any framework's, as long as its layers are, or derive from, torch's.
        gains: Fold the neurons' input gain too, if all neurons in the model share it.
        make: Makes the neurons whose threshold or gain changes, such as ``plugins.<host>.make``.

    Returns:
        The folded copy. Its ``report`` lists every norm and pool, and why one remains.

    Raises:
        TypeError: If the model is no module.
        ValueError: If the model is in training mode.

    Example:
        >>> import spikeloom
        >>> from spikeloom.verify import fold_norms
        >>> lif = spikeloom.SpikingLayer(spikeloom.neurons.LIF())
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), lif).eval()
        >>> print(fold_norms(net).report)
        Folded norms
        module  layer        result  why
        ------  -----------  ------  -----------------
        1       BatchNorm1d  folded  into weights of 0
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: must be an nn.Module, got {type(model).__name__}")
    if any(isinstance(module, _BatchNorm) and module.training for module in model.modules()):
        raise ValueError("model: is in training mode, norms still change; call model.eval()")
    folding = _Folding(copy.deepcopy(model), make)
    if gains:
        folding.fold_gains()
    folding.fold_all()
    folded: Any = folding.model
    folded.report = folding.report
    return folded


class FeatureShift(nn.Module):
    """What a norm in front of a neuron leaves behind: a choice of sign and an addition.

    Args:
        sign: -1, 0 or 1 for each feature, in a shape that broadcasts against the input.
        shift: What is added, in the same shape.
        dims: Dimensions of the input.
        tokens: The input's first axis holds this many tokens of each map, which is an axis of its
            own for sign and shift.
    """

    positive: Tensor
    negative: Tensor
    shift: Tensor

    def __init__(self, sign: Tensor, shift: Tensor, dims: int, tokens: int | None = None) -> None:
        super().__init__()
        self.dims = dims
        self.register_buffer("positive", sign > 0)
        self.register_buffer("negative", sign < 0)
        self.register_buffer("shift", shift)
        self.tokens = tokens

    def forward(self, x: Tensor) -> Tensor:
        """Choose x, -x or 0, and add."""
        _check_dims(x, self.dims)
        if self.tokens is not None:
            x = x.unflatten(0, (-1, self.tokens))
        other = torch.where(self.negative, -x, torch.zeros((), dtype=x.dtype, device=x.device))
        y = torch.where(self.positive, x, other) + self.shift
        return y if self.tokens is None else y.flatten(0, 1)


class FoldedNorm(nn.Identity):
    """In the place of a norm that is now part of the layer in front.

    Args:
        dims: Dimensions of an input whose feature axis is the layer's output axis.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, input: Tensor) -> Tensor:
        """Pass on what is normalised already."""
        _check_dims(input, self.dims)
        return input


def _check_dims(x: Tensor, dims: int) -> None:
    """A one-dimensional norm's feature axis is only known once it sees an input."""
    if x.dim() != dims:
        raise ValueError(
            f"folded norm: an input of {dims} dimensions was expected, where the norm's features "
            f"are where they were folded to, got {tuple(x.shape)}; leave this norm out of folding"
        )


# --- Reading a model -------------------------------------------------------------------------


def _is_weight(module: Any) -> bool:
    """Whether a module's weights can be scaled: not if they are computed from others."""
    is_layer = isinstance(module, (nn.Linear, _ConvNd)) and not isinstance(module, _ConvTransposeNd)
    return is_layer and not hasattr(module, "parametrizations")


def _is_plain_norm(module: Any) -> bool:
    """Whether a batch norm does nothing else: hosts' subclasses do, temporal norms do not."""
    own = {name for name, _ in module.named_parameters()} if isinstance(module, nn.Module) else ()
    return (
        isinstance(module, _BatchNorm)
        and module.running_var is not None
        and not (set(own) - {"weight", "bias"})
    )


def _neuron_of(module: Any) -> Neuron | None:
    neuron = getattr(module, "neuron", None)
    return neuron if isinstance(neuron, Neuron) else None


class _Tracer(fx.Tracer):
    """Opens only modules that hold a weight or a norm deeper down."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        inside = (module for module in m.modules() if module is not m)
        return _is_weight(m) or not any(_is_weight(x) or isinstance(x, _BatchNorm) for x in inside)


@dataclass
class _Graph:
    """A traced (part of a) model; ``prefix`` leads from the model to it."""

    prefix: str
    nodes: list[fx.Node]

    def name(self, node: Any) -> str | None:
        """The module that a node calls."""
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return None
        return f"{self.prefix}{node.target}"


def _graphs(model: nn.Module, prefix: str = "") -> Iterator[_Graph]:
    """The model as one graph, or as one for each part that can be followed."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    try:
        yield _Graph(prefix, list(_Tracer().trace(model, defaults).nodes))
    except Exception:  # torch.fx raises whatever the model's code raises on symbols
        for name, child in model.named_children():
            if any(_is_weight(x) or isinstance(x, _BatchNorm) for x in child.modules()):
                yield from _graphs(child, f"{prefix}{name}.")


# --- Folding ---------------------------------------------------------------------------------


class _Folding:
    """The copy that is being folded."""

    def __init__(self, model: nn.Module, make: Callable[[Neuron], nn.Module]) -> None:
        self.model = model
        self.make = make
        self.report = Report("Folded norms", ("module", "layer", "result", "why"))
        self.graphs = list(_graphs(model))
        self.calls: dict[str, list[tuple[_Graph, fx.Node]]] = {}
        for graph in self.graphs:
            for node in graph.nodes:
                name = graph.name(node)
                if name is not None:
                    self.calls.setdefault(name, []).append((graph, node))

    def module(self, name: str | None) -> Any:
        """The module of this name as it is now."""
        return None if name is None else self.model.get_submodule(name)

    def replace(self, name: str, new: nn.Module) -> None:
        """Put another module in a module's place."""
        old = self.module(name)
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, new.train(old.training))

    def settings(self, name: str) -> dict[str, Any]:
        """The arguments of a module's neuron, with the tensors as the module holds them now."""
        module = self.module(name)
        return {**module.neuron.settings(), **current_parameters(module, module.neuron)}

    def fold_all(self) -> None:
        """Every norm, then every average pool, each in the order of the model."""
        folds: tuple[tuple[type, Callable[[str, Any], tuple[str, str]]], ...] = (
            (_BatchNorm, self.fold_norm),
            (nn.modules.pooling._AvgPoolNd, self.fold_pool),
        )
        for kind, fold in folds:
            for name, module in list(self.model.named_modules()):
                if isinstance(module, kind):
                    self.report.add(name, type(module).__name__, *fold(name, module))
        for name, module in self.model.named_modules():
            if isinstance(module, DATA_DEPENDENT):
                why = "its mean and variance depend on the sample"
                self.report.add(name, type(module).__name__, "remains", why)

    def fold_norm(self, name: str, norm: Any) -> tuple[str, str]:
        """Fold one norm in the first way that is exact; what came of it, and why."""
        if name not in self.calls:
            return "remains", "torch.fx does not see where it is called"
        if not _is_plain_norm(norm):
            return "remains", "is more than a batch norm in eval mode"
        features = getattr(norm, "feature_shape", None)
        before = self.before(name)
        after = self.after(name, mapped=features is not None)
        weight, following = self.module(before), self.module(after)
        if before is not None and features is None and _normalises_outputs(norm, weight):
            _scale_outputs(weight, *_affine(norm))
            self.replace(name, FoldedNorm(_output_dims(norm, weight)))
            return "folded", f"into weights of {before}"
        neuron = _neuron_of(following)
        if after is not None and _rests_at_zero(neuron):
            shape = features or _feature_shape(norm, weight)
            self.fold_into_threshold(name, after, norm, shape)
            return "folded", f"into thresholds of {after}"
        target = self.weight_behind(name)
        if target is not None and features is None and _scale_inputs(self.module(target), norm):
            self.replace(name, nn.Identity())
            return "folded", f"into weights of {target}"
        return "remains", _reason(weight, norm, neuron)

    def fold_into_threshold(self, name: str, after: str, norm: Any, shape: Sequence[int]) -> None:
        """The norm becomes a sign and a shift, the neuron's threshold one value a feature."""
        a, d = _affine(norm)
        size = torch.where(a == 0, torch.ones_like(a), a.abs())
        dtype, tokens = norm.running_var.dtype, getattr(norm, "tokens", None)
        own = shape if tokens is None else (-1, 1)
        dims = 2 if tokens is not None else len(shape) + 1 + _has_time(norm)
        sign, shift = a.sign().reshape(own), (d / size).to(dtype).reshape(own)
        self.replace(name, FeatureShift(sign, shift, dims, tokens))
        settings = self.settings(after)
        settings["v_threshold"] = (settings["v_threshold"] / size).to(dtype).reshape(shape)
        lif = IF if "tau" not in settings else LIF
        self.replace(after, self.make(lif(**settings)))

    def fold_pool(self, name: str, pool: Any) -> tuple[str, str]:
        """Turn an average into a sum, if the next weight layer can take the factor."""
        target = self.weight_behind(name)
        if not isinstance(pool, nn.AvgPool2d):
            return (
                "remains",
                "its number of positions depends on the input, or cannot be overridden",
            )
        if target is None:
            return "remains", "no weight layer follows it alone"
        if pool.divisor_override != 1:
            sides = (
                (pool.kernel_size,) * 2 if isinstance(pool.kernel_size, int) else pool.kernel_size
            )
            if pool.ceil_mode or (pool.padding not in (0, (0, 0)) and not pool.count_include_pad):
                return "remains", "its positions count differently at the border"
            layer = self.module(target)
            _set(layer, weight=layer.weight.detach().double() / (sides[0] * sides[1]))
            pool.divisor_override = 1
        return "sum", f"its 1/n is in the weights of {target}"

    # --- Neighbours

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

    def _user(
        self, graph: _Graph, node: fx.Node, through: tuple[type, ...], mapped: bool
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

    def weight_behind(self, name: str) -> str | None:
        """The weight layer behind a module, with nothing but pools and flattening between."""
        pools = (*TRANSPARENT, nn.AvgPool2d, nn.Flatten)
        target = self.after(name, pools)
        return target if _is_weight(self.module(target)) else None

    # --- Gains

    def fold_gains(self) -> None:
        """Divide by tau in the weights instead of in the neurons, in the whole model or nowhere."""
        neurons = {
            name: neuron
            for name in self.calls
            if isinstance(neuron := _neuron_of(self.module(name)), LIF)
        }
        problem, sources = self._gain_sources(neurons)
        if problem:
            self.report.notes.append(f"Input gains remain: {problem}.")
            return
        gain = 1.0 / next(iter(neurons.values())).settings()["tau"]
        for source in sources:
            _scale_current(self.module(source), gain)
        for name in neurons:
            self.replace(name, self.make(LIF(**{**self.settings(name), "decay_input": False})))
        self.report.notes.append(
            f"Input gain {gain:.6g} is in the weights of {len(sources)} layers."
        )

    def _gain_sources(self, neurons: dict[str, LIF]) -> tuple[str, set[str]]:
        taus = {n.params.get("tau") if n.decay_input else None for n in neurons.values()}
        if len(taus) != 1 or not isinstance(next(iter(taus)), (int, float)):
            return "not every neuron divides its input by the same number tau", set()
        sources: set[str] = set()
        for name in neurons:
            for graph, node in self.calls[name]:
                for origin in self._origins(graph, node.args[0]):
                    found = graph.name(origin)
                    if not (_is_weight(self.module(found)) or _is_plain_norm(self.module(found))):
                        return f"{name} is fed by more than weight layers", set()
                    sources.add(str(found))
        for source in sources:
            for graph, node in self.calls[source]:
                for user in self._readers(graph, node):
                    if graph.name(user) not in neurons:
                        return f"{source} also feeds something that is no neuron", set()
        return "", sources

    def _origins(self, graph: _Graph, node: Any) -> Iterator[fx.Node]:
        """Where a current comes from, backwards through sums and rearrangements."""
        if self._is_linear(graph, node):
            values = node.args[0] if isinstance(node.args[0], (list, tuple)) else node.args
            for value in values:
                if isinstance(value, fx.Node) and not _is_shape(value):
                    yield from self._origins(graph, value)
        else:
            yield node

    def _readers(self, graph: _Graph, node: fx.Node) -> Iterator[fx.Node]:
        """What reads a current, forwards through sums and rearrangements."""
        for user in node.users:
            if self._is_linear(graph, user):
                yield from self._readers(graph, user)
            elif not _is_shape(user):
                yield user

    def _is_linear(self, graph: _Graph, node: fx.Node) -> bool:
        if _is_shape(node):
            return False
        if node.op == "call_module":
            return isinstance(self.module(graph.name(node)), (*TRANSPARENT, nn.Flatten))
        return (node.op == "call_method" and node.target in LINEAR_METHODS) or (
            node.op == "call_function" and node.target in LINEAR_FUNCTIONS
        )


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


def _source(graph: _Graph, node: Any, module: Callable[[str | None], Any]) -> Any:
    """The node that made a value, back through what passes it on unchanged."""
    while isinstance(node, fx.Node):
        if not isinstance(module(graph.name(node)), TRANSPARENT) and not _keeps_features(node):
            break
        node = node.args[0]
    return node


# --- Arithmetic, in float64 ------------------------------------------------------------------


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """The pair (a, d) of ``y = a u + d``."""
    var = norm.running_var.double()
    a = (var + norm.eps).rsqrt()
    if norm.weight is not None:
        a = a * norm.weight.detach().double()
    d = -a * norm.running_mean.double()
    return a, d if norm.bias is None else d + norm.bias.detach().double()


def _has_time(norm: Any) -> bool:
    """Whether a host's norm takes ``[T, N, ...]``."""
    return getattr(norm, "step_mode", "s") == "m"


def _spatial(layer: Any) -> int:
    """Spatial dimensions of a norm or a weight layer."""
    for number, kinds in SPATIAL.items():
        if isinstance(layer, kinds):
            return number
    return 0


def _normalises_outputs(norm: Any, weight: Any) -> bool:
    """Whether a norm's features are the outputs of the weight layer in front."""
    fits = _is_weight(weight) and _spatial(norm) == max(_spatial(weight), 1)
    return fits and weight.weight.shape[0] == len(norm.running_var)


def _output_dims(norm: Any, weight: Any) -> int:
    """Dimensions of a weight layer's output, as its norm takes it."""
    return 2 + _spatial(weight) + _has_time(norm)


def _set(layer: Any, **values: Tensor) -> None:
    """New parameters, because another module may share the old ones."""
    dtype, trains = layer.weight.dtype, layer.weight.requires_grad
    for name, value in values.items():
        setattr(layer, name, nn.Parameter(value.to(dtype), requires_grad=trains))


def _bias(layer: Any) -> Tensor | float:
    return 0.0 if layer.bias is None else layer.bias.detach().double()


def _scale_outputs(layer: Any, a: Tensor, d: Tensor) -> None:
    weight = layer.weight.detach().double()
    column = (-1, *(1 for _ in weight.shape[1:]))
    _set(layer, weight=weight * a.reshape(column), bias=a * _bias(layer) + d)


def _scale_inputs(layer: Any, norm: Any) -> bool:
    """Take a norm in front into the weights; False where padding or grouping forbids it."""
    a, d = _affine(norm)
    weight = layer.weight.detach().double()
    if isinstance(layer, _ConvNd) and (
        layer.groups != 1 or any(side != 0 for side in layer.padding)
    ):
        return False
    if weight.shape[1] % len(a):
        return False
    # A flattened map has its channels first.
    a, d = (t.repeat_interleave(weight.shape[1] // len(a)) for t in (a, d))
    column = (1, -1, *(1 for _ in weight.shape[2:]))
    shift = (weight * d.reshape(column)).flatten(1).sum(1)
    _set(layer, weight=weight * a.reshape(column), bias=shift + _bias(layer))
    return True


def _scale_current(layer: Any, gain: float) -> None:
    """Multiply what a weight layer or a norm puts out."""
    if layer.weight is None:  # a norm without gain and shift of its own
        layer.weight = nn.Parameter(torch.ones_like(layer.running_var))
        layer.bias = nn.Parameter(torch.zeros_like(layer.running_var))
    _set(layer, weight=layer.weight.detach().double() * gain)
    if layer.bias is not None:
        _set(layer, bias=layer.bias.detach().double() * gain)


def _rests_at_zero(neuron: Neuron | None) -> bool:
    """Whether a neuron's threshold can take a factor: all else in it must scale along."""
    return (
        isinstance(neuron, LIF)
        and not neuron.v_reset
        and isinstance(neuron.params["v_threshold"], (int, float))
    )


def _feature_shape(norm: Any, weight: Any) -> tuple[int, ...]:
    """How the norm's features broadcast against what a neuron sees of one sample."""
    if isinstance(norm, nn.BatchNorm3d):
        return (-1, 1, 1, 1)
    if isinstance(norm, nn.BatchNorm2d):
        return (-1, 1, 1)
    # A one-dimensional norm of other features than a linear layer's outputs sees [N, tokens, F].
    return (-1, 1) if isinstance(weight, (nn.Linear, nn.Conv1d)) else (-1,)


def _reason(weight: Any, norm: Any, neuron: Neuron | None) -> str:
    if isinstance(neuron, LIF):
        return "the neuron behind it does not rest at 0, or has thresholds of its own"
    if _is_weight(weight):
        return (
            f"normalises {len(norm.running_var)} features that are not the layer's outputs, "
            f"and no neuron follows: one multiplication a value"
        )
    return "no weight layer or neuron next to it alone can take it"
