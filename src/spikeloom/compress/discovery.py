"""Which neuron a weight layer drives, found by following data through one forward pass.

Every tensor remembers which weight layers it is a sum of. Normalisation, pooling, dropout,
reshaping and residual additions pass that on; a neuron, or the next weight layer, ends it. So the
order in which modules are registered, and how the model's forward is written, do not matter.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from spikeloom.compress.hessian import WeightLayer
from spikeloom.compress.response import (
    Response,
    UnknownNeuron,
    is_neuron,
    linear_response,
    reads_sequences,
)
from spikeloom.neurons import Trace

__all__ = ["Site", "discover"]

# Operations that only a neuron performs on a current: outside a known neuron they are an error.
THRESHOLDS = {"gt", "ge", "lt", "le", "sign", "sgn", "heaviside", "round", "floor", "ceil", "scan"}
# Activations without memory: what a layer feeds them is not filtered in time.
ACTIVATIONS = {
    *("relu", "leaky_relu", "gelu", "silu", "elu", "selu", "celu", "mish", "softplus", "hardtanh"),
    *("hardswish", "hardsigmoid", "sigmoid", "tanh", "_softmax", "_log_softmax", "relu6"),
}

# A weight layer by name, and the normalisations its output has passed.
Source = tuple[str, tuple[str, ...]]
Sources = frozenset[Source]
NOTHING: Sources = frozenset()


@dataclass
class Site:
    """What one weight layer feeds.

    Attributes:
        name: The layer's name in the model.
        layer: The layer.
        response: How the membranes behind it respond; the identity without a neuron.
        neuron: The neuron's name, or None.
        shape: Shape of the neuron's potential for one sample.
        norms: Chains of normalisations between layer and neuron.
        time: Where the steps are in the layer's input: ``"calls"``, ``"first"`` or ``"folded"``.
        steps: T of a sequence; 1 if steps are calls.
        streams: How many calls of the layer make up one step, each with a trace of its own.
    """

    name: str
    layer: WeightLayer
    response: Response
    neuron: str | None = None
    shape: tuple[int, ...] = ()
    norms: tuple[tuple[str, ...], ...] = ()
    time: str = "calls"
    steps: int = 1
    streams: int = 1


def discover(
    model: nn.Module,
    forward: Callable[[], Any],
    layers: list[str] | None,
    traces: Mapping[str, Trace],
) -> list[Site]:
    """Find the weight layers of a model and what each of them feeds.

    Args:
        model: Any network.
        forward: Runs the model on one batch, from rest.
        layers: Names of the layers wanted; None takes all that are called.
        traces: Filters stated by the user, by the name of a neuron or of a layer.

    Returns:
        A site for each layer, in the order of ``model.named_modules()``.

    Raises:
        UnknownNeuron: If the decay behind a layer can be neither read nor is stated.
        ValueError: If a name is not in the model, or layers share a weight.
    """
    modules = dict(model.named_modules())
    for name in traces:
        if name not in modules:
            raise ValueError(f"traces: the model has no module {name!r}")
    neurons = {name for name, module in modules.items() if is_neuron(module)}
    neurons |= {name for name in traces if not isinstance(modules[name], WeightLayer)}
    wanted = _weight_layers(modules, neurons, layers)
    seen = _Seen(set(wanted))
    with torch.no_grad(), _watched(modules, neurons, wanted, seen), _Flow(seen):
        forward()
    sites = []
    for name in wanted:
        if name in seen.inputs:
            sites.append(_site(name, modules, seen, traces))
        elif layers is not None:
            raise ValueError(f"layers: {name!r} was not called in the forward pass")
    if not sites:
        raise ValueError("model: no Linear, Conv1d or Conv2d module was called")
    return sites


def _weight_layers(
    modules: Mapping[str, nn.Module], neurons: set[str], layers: list[str] | None
) -> list[str]:
    """Names of the layers to look at; weights inside a neuron are left alone."""
    found = [name for name, module in modules.items() if isinstance(module, WeightLayer)]
    for name in layers or ():
        if name not in found:
            raise ValueError(
                f"layers: {name!r} is not a Linear, Conv1d or Conv2d module of the model; "
                f"there are {', '.join(found)}"
            )
    inside = {name for name in found if any(name.startswith(f"{n}.") for n in neurons)}
    for name in sorted(inside):
        warnings.warn(
            f"calibrate: the weight of {name!r} belongs to a neuron (it is recurrent) and is left "
            "as it is",
            stacklevel=4,
        )
    wanted = [name for name in (found if layers is None else layers) if name not in inside]
    owners: dict[int, str] = {}
    for name in wanted:
        first = owners.setdefault(id(modules[name].weight), name)
        if first != name:
            raise ValueError(
                f"layers: {first!r} and {name!r} share one weight; name the layers to compress "
                "without them (layers=[...])"
            )
    return wanted


# --- Following the data -----------------------------------------------------------------------


@dataclass
class _Seen:
    """What the forward pass showed.

    Attributes:
        layers: The weight layers that are followed.
        sources: What each tensor is a sum of.
        inputs: Weight layer -> shape of its input in each call.
        reached: Weight layer -> neurons it reaches, each with the normalisations passed.
        potentials: Neuron -> shape of its input in each call.
        sequences: Neurons that were handed a sequence by their method ``sequence``.
        thresholds: Weight layer -> the operation that thresholds it outside of any known neuron.
        inside: Neurons that are running now.
    """

    layers: set[str]
    sources: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)
    inputs: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    reached: dict[str, dict[Source, None]] = field(default_factory=dict)
    potentials: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    sequences: set[str] = field(default_factory=set)
    thresholds: dict[str, str] = field(default_factory=dict)
    inside: list[str] = field(default_factory=list)

    def of(self, values: Any) -> Sources:
        """The layers that any of the tensors is a sum of."""
        found = [self.sources.get(value, NOTHING) for value in _tensors(values)]
        return NOTHING.union(*found)

    def mark(self, values: Any, sources: Sources) -> None:
        """State what tensors are a sum of."""
        for value in _tensors(values):
            self.sources[value] = sources


def _tensors(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


class _Flow(TorchDispatchMode):
    """Passes on from inputs to outputs of every operation which layers they are a sum of."""

    def __init__(self, seen: _Seen) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        sources = self.seen.of((args, kwargs))
        name = func.overloadpacket.__name__.rstrip("_")
        if sources and not self.seen.inside:
            if name in THRESHOLDS:
                for layer, _ in sources:
                    self.seen.thresholds.setdefault(layer, name)
            if name in ACTIVATIONS:
                sources = NOTHING
        self.seen.mark(result, sources)
        for value in _tensors(result):
            # Writing into a view writes into the tensor that it is a view of.
            if func._schema.is_mutable and value._base is not None:
                self.seen.sources[value._base] = sources | self.seen.of(value._base)
        return result


@contextmanager
def _watched(
    modules: Mapping[str, nn.Module], neurons: set[str], wanted: list[str], seen: _Seen
) -> Iterator[None]:
    """Hooks on weight layers, normalisations and neurons, for as long as the block runs."""
    with ExitStack() as stack:
        for name, module in modules.items():
            hooks: list[Any] = []
            if name in neurons:
                enter, leave = _neuron_hooks(name, seen)
                hooks = [
                    module.register_forward_pre_hook(enter, with_kwargs=True),
                    module.register_forward_hook(leave, with_kwargs=True),
                ]
                stack.enter_context(_sequence_hooks(name, module, seen, enter, leave))
            elif name in wanted:
                hook = functools.partial(_after_layer, name, seen)
                hooks = [module.register_forward_hook(hook, with_kwargs=True)]
            elif isinstance(module, _BatchNorm):
                hook = functools.partial(_after_norm, name, seen)
                hooks = [module.register_forward_hook(hook, with_kwargs=True)]
            for handle in hooks:
                stack.callback(handle.remove)
        yield


def _after_layer(name: str, seen: _Seen, layer: Any, args: Any, kwargs: Any, output: Any) -> None:
    (x, *_) = _tensors((args, kwargs))
    seen.inputs.setdefault(name, []).append(tuple(x.shape))
    seen.mark(output, frozenset({(name, ())}))


def _after_norm(name: str, seen: _Seen, norm: Any, args: Any, kwargs: Any, output: Any) -> None:
    passed = {(layer, (*norms, name)) for layer, norms in seen.of((args, kwargs))}
    seen.mark(output, frozenset(passed))


def _neuron_hooks(name: str, seen: _Seen) -> tuple[Callable[..., None], Callable[..., None]]:
    def enter(module: Any, args: Any, kwargs: Any) -> None:
        if not seen.inside:
            (x, *_) = _tensors((args, kwargs))
            seen.potentials.setdefault(name, []).append(tuple(x.shape))
            for layer, norms in seen.of((args, kwargs)):
                seen.reached.setdefault(layer, {})[name, norms] = None
        seen.inside.append(name)

    def leave(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        seen.inside.pop()
        seen.mark(output, NOTHING)

    return enter, leave


@contextmanager
def _sequence_hooks(
    name: str,
    module: nn.Module,
    seen: _Seen,
    enter: Callable[..., None],
    leave: Callable[..., None],
) -> Iterator[None]:
    """The same for a method ``sequence``, which spikeloom's snnTorch neurons have."""
    method = getattr(module, "sequence", None)
    if not callable(method):
        yield
        return

    @functools.wraps(method)
    def sequence(*args: Any, **kwargs: Any) -> Any:
        if not seen.inside:
            seen.sequences.add(name)
        enter(module, args, kwargs)
        output = method(*args, **kwargs)
        leave(module, args, kwargs, output)
        return output

    vars(module)["sequence"] = sequence
    try:
        yield
    finally:
        del vars(module)["sequence"]


# --- From what was seen to a site -------------------------------------------------------------


def _site(
    name: str, modules: Mapping[str, nn.Module], seen: _Seen, traces: Mapping[str, Trace]
) -> Site:
    layer: Any = modules[name]
    site = Site(name, layer, Response(0.0))
    reached = list(seen.reached.get(name, {}))
    if not reached:
        site.response = _without_neuron(name, seen, traces)
        anchor = next((n for n in seen.potentials if _is_sequence(n, modules, seen)), None)
        if name in traces:
            _see_steps(site, seen)
        elif anchor is not None:
            _place_steps(site, anchor, modules, seen, strict=False)
        return site
    site.neuron = reached[0][0]
    site.norms = tuple(dict.fromkeys(norms for neuron, norms in reached if neuron == site.neuron))
    if name in traces:
        site.response = _stated(traces[name])
    else:
        responses = {
            neuron: _response(neuron, name, modules[neuron], traces) for neuron, _ in reached
        }
        site.response = responses[site.neuron]
        if len({repr(response) for response in responses.values()}) > 1:
            warnings.warn(
                f"calibrate: {name!r} feeds neurons of different decay "
                f"({', '.join(responses)}); the first one's is used",
                stacklevel=5,
            )
    _place_steps(site, site.neuron, modules, seen, strict=True)
    return site


def _without_neuron(name: str, seen: _Seen, traces: Mapping[str, Trace]) -> Response:
    if name in traces:
        return _stated(traces[name])
    if name in seen.thresholds:
        raise UnknownNeuron(
            f"layer {name!r}: its output meets the operation {seen.thresholds[name]!r} outside of "
            "any neuron that is known; state the decay of that neuron, for example "
            f"calibrate(..., traces={{{name!r}: neurons.Trace(0.9)}}), Trace(0) for none"
        )
    return Response(0.0)


def _response(neuron: str, layer: str, module: nn.Module, traces: Mapping[str, Trace]) -> Response:
    if neuron in traces:
        return _stated(traces[neuron])
    try:
        return linear_response(module)
    except UnknownNeuron as error:
        raise UnknownNeuron(f"{neuron!r}, the neuron behind layer {layer!r}: {error}") from None


def _stated(trace: Trace) -> Response:
    return linear_response(trace)


def _is_sequence(neuron: str, modules: Mapping[str, nn.Module], seen: _Seen) -> bool:
    if neuron in seen.sequences:
        return True
    known = reads_sequences(modules[neuron])
    # A neuron of the user that is called once a pass must have been handed all steps at once.
    return len(seen.potentials[neuron]) == 1 if known is None else known


def _see_steps(site: Site, seen: _Seen) -> None:
    """Find the steps of a layer whose neuron is no module: in its calls, or on its first axis."""
    shape, calls = seen.inputs[site.name][0], len(seen.inputs[site.name])
    if calls == 1 and len(shape) > site.layer.weight.dim():
        site.time, site.steps = "first", shape[0]
    elif calls == 1 and site.response.decay:
        raise ValueError(
            f"traces: layer {site.name!r} is called once, with {shape}, which shows no steps; name "
            "the neuron's module instead of the layer"
        )


def _place_steps(
    site: Site, neuron: str, modules: Mapping[str, nn.Module], seen: _Seen, strict: bool
) -> None:
    """Find the steps: in the calls of the layer, or on (or folded into) its first axis."""
    shapes = seen.potentials[neuron]
    whole = _is_sequence(neuron, modules, seen)
    site.shape = shapes[0][2:] if whole else shapes[0][1:]
    steps, batch = shapes[0][:2] if whole else (len(shapes), shapes[0][0])
    shape, calls = seen.inputs[site.name][0], len(seen.inputs[site.name])
    if not whole and calls >= len(shapes):
        site.streams = calls // len(shapes)
    elif shape[:2] == (steps, batch) and len(shape) > site.layer.weight.dim():
        site.time, site.steps = "first", steps
    elif whole and steps > 1 and calls == steps * len(shapes):
        pass  # the layer is stepped through by a container, the neuron is not
    elif shape[0] == steps * batch:
        site.time, site.steps = "folded", steps
    elif strict:
        raise ValueError(
            f"layer {site.name!r}: its input {shape} does not show the {steps} steps of the "
            f"neuron {neuron!r} with input {shapes[0]}; steps come first, or are folded into the "
            "batch as by flatten(0, 1)"
        )
    repeated = site.streams if site.time == "calls" else calls // len(shapes)
    if strict and repeated > 1:
        warnings.warn(
            f"calibrate: {site.name!r} is used {repeated} times; its statistics cover all uses",
            stacklevel=6,
        )
