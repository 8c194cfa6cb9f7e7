"""Which neuron a weight layer drives, found by following data through one forward pass.

Every tensor remembers which weight layers it is a sum of. Normalisation, pooling, dropout,
reshaping and residual additions pass that on; a neuron, or the next weight layer, ends it. So the
order in which modules are registered, and how the model's forward is written, do not matter. A
tensor of other origin is a sum of none; a layer whose output leaves torch, for NumPy or a list, and
reaches no neuron otherwise, is refused.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from spikeloom.compress.coverage import by_reason, why_left_out
from spikeloom.compress.layers import KINDS, is_weight_layer
from spikeloom.compress.response import Response, UnknownNeuron, linear_response
from spikeloom.compress.site import Site
from spikeloom.compress.steps import Inputs, confirm_steps, place_steps, see_steps, signal_of
from spikeloom.compress.weights import check_layer, check_weights
from spikeloom.modules import is_neuron, takes_steps, watched_calls, why_unregistered
from spikeloom.neurons import Trace
from spikeloom.observe import Effect, meaning_of
from spikeloom.observe.dialects import name_of

__all__ = ["discover"]

# Operations that only a neuron performs on a current: outside a known neuron they are an error.
THRESHOLDS = (Effect.ORDERS, Effect.ROUNDS, Effect.FIRES)

# A weight layer by name, and the normalisations its output has passed.
Source = tuple[str, tuple[str, ...]]
Sources = frozenset[Source]
NOTHING: Sources = frozenset()


def discover(
    model: nn.Module,
    forward: Callable[[], Any],
    layers: list[str] | None,
    traces: Mapping[str, Trace],
) -> tuple[list[Site], dict[str, str]]:
    """Find the weight layers of a model and what each of them feeds.

    Args:
        model: Any network.
        forward: Runs the model on one batch, from rest; it may be run several times.
        layers: Names of the layers wanted; None takes all that are called.
        traces: Filters stated by the user, by the name of a neuron or of a layer.

    Returns:
        A site for each layer, in the order of ``model.named_modules()``; and why other modules are
        left out, by their name.

    Raises:
        UnknownNeuron: If the decay behind a layer can be neither read nor is stated.
        ValueError: If a name is not in the model, a weight cannot be compressed in place, or the
            steps of a layer are not those of its neuron.
    """
    modules = dict(model.named_modules())
    for name in traces:
        if name not in modules:
            raise ValueError(f"traces: the model has no module {name!r}")
    neurons = {name for name, module in modules.items() if is_neuron(module)}
    neurons |= {name for name in traces if not is_weight_layer(modules[name])}
    wanted = _weight_layers(modules, neurons, layers)
    seen = _Seen(set(wanted))
    with torch.no_grad(), _watched(modules, neurons, wanted, seen), _Exits(seen), _Flow(seen):
        forward()
    called = [name for name in wanted if name in seen.inputs]
    uncalled = [name for name in wanted if name not in seen.inputs]
    reasons = {
        **dict.fromkeys(uncalled, "not called in the forward pass"),
        **dict.fromkeys(neurons, "part of a neuron"),
    }
    if not called:
        left = by_reason(why_left_out(model, (), reasons)).items()
        named = ", ".join(f"{', '.join(names)} ({reason})" for reason, names in left)
        end = f"; left out are {named}" if named else ""
        raise ValueError(f"model: no {KINDS} module was called{end}")
    _mind_uncalled(uncalled, layers is not None)
    for name in seen.potentials.keys() - traces.keys():
        if why := why_unregistered(modules[name]):
            raise UnknownNeuron(f"{name!r} ({type(modules[name]).__name__}) {why}")
    inputs = {
        name: Inputs(shapes, _is_sequence(name, modules, seen))
        for name, shapes in seen.potentials.items()
    }
    sites = [_site(name, modules, seen, inputs, traces) for name in called]
    with torch.no_grad():
        confirm_steps(modules, sites, inputs, forward)
    unasked = [
        name
        for name, module in modules.items()
        if layers is not None and name not in layers and is_weight_layer(module)
    ]
    return sites, {**dict.fromkeys(unasked, "not among the layers asked for"), **reasons}


def _mind_uncalled(names: list[str], asked_for: bool) -> None:
    if names and asked_for:
        raise ValueError(f"layers: {names[0]!r} was not called in the forward pass")
    for name in names:
        warnings.warn(
            f"calibrate: {name!r} is not called in the forward pass, even if its weight is used, "
            "and is left as it is",
            stacklevel=4,
        )


def _weight_layers(
    modules: Mapping[str, nn.Module], neurons: set[str], layers: list[str] | None
) -> list[str]:
    """Names of the layers to look at; weights inside a neuron are left alone."""
    found = [name for name, module in modules.items() if is_weight_layer(module)]
    for name in layers or ():
        if name not in found:
            raise ValueError(
                f"layers: {name!r} is not a {KINDS} module of the model; "
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
    check_weights(modules, wanted)
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
        sequences: Neurons that were handed a whole sequence.
        thresholds: Weight layer -> the operation that thresholds it, or takes it out of torch,
            outside of any known neuron.
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
        operation = meaning_of(func)
        if sources and operation is not None and not self.seen.inside:
            name = operation.name
            if name == "to" and not result.is_floating_point():
                name = f"to {result.dtype}"
            if operation.effect in THRESHOLDS or name.startswith("to "):
                for layer, _ in sources:
                    self.seen.thresholds.setdefault(layer, name)
            if operation.effect is Effect.ACTIVATES:
                # It has no memory: what a layer feeds it is not filtered in time.
                sources = NOTHING
        self.seen.mark(result, sources)
        for value in _tensors(result):
            # Writing into a view writes into the tensor that it is a view of.
            if func._schema.is_mutable and value._base is not None:
                self.seen.sources[value._base] = sources | self.seen.of(value._base)
        return result


class _Exits(TorchFunctionMode):
    """Notes layers whose output leaves torch, where a neuron that reads it cannot be seen."""

    def __init__(self, seen: _Seen) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operation = meaning_of(func)
        leaves = operation is not None and operation.effect is Effect.LEAVES
        if leaves and not self.seen.inside:
            for layer, _ in self.seen.of(args[:1]):
                self.seen.thresholds.setdefault(layer, name_of(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def _watched(
    modules: Mapping[str, nn.Module], neurons: set[str], wanted: list[str], seen: _Seen
) -> Iterator[None]:
    """Hooks on weight layers, normalisations and neurons, for as long as the block runs."""
    with ExitStack() as stack:
        for name, module in modules.items():
            if name in neurons:
                stack.enter_context(_neuron_calls(name, module, seen))
            elif name in wanted or isinstance(module, _BatchNorm):
                after = _after_layer if name in wanted else _after_norm
                hook = functools.partial(after, name, seen)
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield


def _after_layer(name: str, seen: _Seen, layer: Any, args: Any, kwargs: Any, output: Any) -> None:
    (x, *_) = _tensors((args, kwargs))
    with _disable_current_modes():  # what is looked at here is no part of the model
        check_layer(name, layer, x, output)
    seen.inputs.setdefault(name, []).append(tuple(x.shape))
    seen.mark(output, frozenset({(name, ())}))


def _after_norm(name: str, seen: _Seen, norm: Any, args: Any, kwargs: Any, output: Any) -> None:
    passed = {(layer, (*norms, name)) for layer, norms in seen.of((args, kwargs))}
    seen.mark(output, frozenset(passed))


def _neuron_calls(name: str, module: nn.Module, seen: _Seen) -> AbstractContextManager[None]:
    def enter(args: Any, kwargs: Any, whole: bool) -> None:
        if not seen.inside:
            x = signal_of(module, args, kwargs, whole)
            seen.potentials.setdefault(name, []).append(tuple(x.shape))
            if whole and is_neuron(module):
                seen.sequences.add(name)
            for layer, norms in seen.of((args, kwargs)):
                seen.reached.setdefault(layer, {})[name, norms] = None
        seen.inside.append(name)

    def leave(output: Any) -> None:
        seen.inside.pop()
        seen.mark(output, NOTHING)

    return watched_calls(module, enter, leave)


# --- From what was seen to a site -------------------------------------------------------------


def _site(
    name: str,
    modules: Mapping[str, nn.Module],
    seen: _Seen,
    inputs: Mapping[str, Inputs],
    traces: Mapping[str, Trace],
) -> Site:
    layer: Any = modules[name]
    site = Site(name, layer, Response(0.0))
    reached = list(seen.reached.get(name, {}))
    if not reached:
        site.response = _without_neuron(name, seen, traces)
        anchor = next((n for n, found in inputs.items() if found.whole), None)
        if name in traces:
            see_steps(site, seen.inputs[name])
        elif anchor is not None:
            place_steps(site, seen.inputs[name], anchor, inputs[anchor], strict=False)
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
    place_steps(site, seen.inputs[name], site.neuron, inputs[site.neuron], strict=True)
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
    if takes_steps(modules[neuron]) is None:
        # A neuron of the user that is called once a pass must have been handed all steps at once.
        return len(seen.potentials[neuron]) == 1
    return neuron in seen.sequences
