"""Which neuron a weight layer drives, found by following data through one forward pass.

Every tensor remembers which weight layers it is a sum of (:mod:`spikeloom.compress.currents`). So
the order in which modules are registered, and how the model's forward is written, do not matter. A
layer whose output leaves torch, for NumPy or a list, and reaches no neuron otherwise, is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from spikeloom.compress.coverage import by_reason, why_left_out
from spikeloom.compress.currents import Currents
from spikeloom.compress.response import Response, UnknownNeuron, linear_response
from spikeloom.compress.site import Site
from spikeloom.compress.steps import Inputs, confirm_steps, place_steps, see_steps
from spikeloom.compress.weights import check_weights
from spikeloom.modules import is_neuron, takes_steps, why_unregistered
from spikeloom.neurons import Trace
from spikeloom.rows import KINDS, is_weight_layer

__all__ = ["discover"]


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
    seen = Currents(wanted, neurons)
    with torch.no_grad(), seen.over(model):
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
        raise ValueError(
            f"model: no {KINDS} module was called{end}; compress a network before its conversion, "
            "or the layers of a converted one, if it has them (SignGDNetwork.as_layers())"
        )
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
            stacklevel=5,
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
            stacklevel=5,
        )
    wanted = [name for name in (found if layers is None else layers) if name not in inside]
    check_weights(modules, wanted)
    return wanted


# --- From what was seen to a site -------------------------------------------------------------


def _site(
    name: str,
    modules: Mapping[str, nn.Module],
    seen: Currents,
    inputs: Mapping[str, Inputs],
    traces: Mapping[str, Trace],
) -> Site:
    layer: Any = modules[name]
    site = Site(name, layer, Response(0.0))
    reached = list(seen.reached.get(name, {}))
    if not reached or _is_without_memory(traces.get(name)):
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
                stacklevel=6,
            )
    place_steps(site, seen.inputs[name], site.neuron, inputs[site.neuron], strict=True)
    return site


def _without_neuron(name: str, seen: Currents, traces: Mapping[str, Trace]) -> Response:
    if name in traces:
        return _stated(traces[name])
    if name in seen.thresholds:
        raise UnknownNeuron(
            f"layer {name!r}: its output meets the operation {seen.thresholds[name]!r} outside of "
            "any neuron that is known; state the decay of that neuron, for example "
            f"calibrate(..., traces={{{name!r}: neurons.Trace(0.9)}}), Trace(0) for none"
        )
    return Response(0.0)


def _is_without_memory(trace: Trace | None) -> bool:
    """Whether it is stated that nothing integrates what a layer puts out."""
    response = None if trace is None else _stated(trace)
    if response is None or response.synaptic_decay is not None:
        return False
    return not torch.as_tensor(response.decay).any()


def _response(neuron: str, layer: str, module: nn.Module, traces: Mapping[str, Trace]) -> Response:
    if neuron in traces:
        return _stated(traces[neuron])
    try:
        return linear_response(module)
    except UnknownNeuron as error:
        raise UnknownNeuron(f"{neuron!r}, the neuron behind layer {layer!r}: {error}") from None


def _stated(trace: Trace) -> Response:
    return linear_response(trace)


def _is_sequence(neuron: str, modules: Mapping[str, nn.Module], seen: Currents) -> bool:
    if takes_steps(modules[neuron]) is None:
        # A neuron of the user that is called once a pass must have been handed all steps at once.
        return len(seen.potentials[neuron]) == 1
    return neuron in seen.sequences
