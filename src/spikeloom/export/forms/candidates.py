"""The ways to write a neuron: its form, as it states it itself, in NIR's words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from spikeloom.export.forms.descent import descent
from spikeloom.export.forms.filters import leaky_integrator
from spikeloom.export.forms.node_groups import Layer, Piece
from spikeloom.export.forms.spiking import fire_and_reset
from spikeloom.export.forms.ternary import ternary_spikes
from spikeloom.export.forms.unrolled import unrolled
from spikeloom.export.graph.extension import node_of
from spikeloom.export.refuse import Refused, Verdict
from spikeloom.kernel.call import run
from spikeloom.kernel.neuron import Neuron, Parameter
from spikeloom.neurons.described import Described
from spikeloom.neurons.forms import (
    Codes,
    Constants,
    Descent,
    Filter,
    Form,
    Membrane,
    NoForm,
    Ternary,
    number,
)

__all__ = ["candidates"]

# How each form is written; a new form is a new row, a new neuron usually has one of these.
WRITTEN: dict[type[Form], Callable[[Any, Layer], list[Piece]]] = {
    Codes: unrolled,
    Descent: descent,
    Filter: leaky_integrator,
    Membrane: fire_and_reset,
    Ternary: ternary_spikes,
}


def candidates(
    neuron: Neuron,
    params: Mapping[str, Parameter],
    layer: Layer,
    rest: Parameter | None = None,
    extend: bool = False,
) -> list[Piece]:
    """The ways to write a neuron, the truest first.

    Args:
        neuron: The description.
        params: Its parameters with their present values.
        layer: The layer.
        rest: Where the potentials of its module begin; None: where the neuron says.
        extend: Whether an extension is welcome where nothing else is exact.

    Raises:
        Refused: If there is none.
    """
    neuron = _coder(neuron)
    said = number("state at rest", next(iter(neuron.rest.values()), 0.0))
    begins = said if rest is None else number("state at rest", rest)
    try:
        form, refusal = _form(neuron, params, layer), None
    except NoForm as error:
        form, refusal = None, Refused(error.reason, error.remedy)
    if (begins != said).any() and not isinstance(form, Membrane):
        # Only a membrane can be shifted.
        raise Refused(
            f"its potential begins at {rest}, its neuron's at {float(said):g}",
            "let it begin at rest",
        )
    if neuron.begin is not None and not isinstance(form, Codes):
        raise Refused(
            "it sums its whole input before its first spike, NIR runs step by step",
            "use FewSpike, OAT or HG, or keep this part of the model outside the file",
        )
    more = _extension(neuron, params, layer) if extend else []
    try:
        if form is None:
            raise refusal or _unknown(neuron)
        return [*WRITTEN[type(form)](form, replace(layer, rest=begins)), *more]
    except Refused:
        if more:
            return more
        raise


def _coder(neuron: Neuron) -> Neuron:
    """The few-spike neuron whose decoder a neuron is; other neurons as they are."""
    coder: Any = getattr(neuron.step, "__self__", None)
    return coder if getattr(coder, "_decode", None) == neuron.step else neuron


def _form(neuron: Neuron, params: Mapping[str, Parameter], layer: Layer) -> Form | None:
    """What a neuron says that it is, if it computes what the class that says so computes."""
    if not isinstance(neuron, Described):
        return None
    said_by = next(cls for cls in type(neuron).__mro__ if "form" in vars(cls))
    form = neuron.form(Constants(params, layer.steps))
    if form is None or said_by is type(neuron) or _behaves_like(neuron, said_by, layer):
        return form
    raise NoForm(
        f"it is a {said_by.__name__} that computes something else", f"use {said_by.__name__} itself"
    )


def _behaves_like(neuron: Neuron, known: type, layer: Layer) -> bool:
    """Whether a subclass (such as one with a framework's own surrogate) changes no output."""
    taken = set(signature(known).parameters) - {"surrogate"}
    settings = {name: value for name, value in neuron.settings().items() if name in taken}
    if any(isinstance(value, Tensor) and value.dim() for value in settings.values()):
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(layer.steps or 64, 256, generator=generator).mul(8).round().div(4)
    inputs = (x,) * neuron.inputs
    with torch.no_grad():
        found, expected = (run(one, inputs)[0] for one in (neuron, known(**settings)))
    return torch.equal(found, expected)


def _extension(neuron: Neuron, params: Mapping[str, Parameter], layer: Layer) -> list[Piece]:
    """A nested graph that states the neuron's settings; nothing if a file cannot hold them."""
    settings = {key: params.get(key, value) for key, value in neuron.settings().items()}
    settings.pop("surrogate", None)
    graph = node_of(neuron, settings, layer.shape)
    note = "only spikeloom.export reads it; other readers compute silence"
    return [] if graph is None else [Piece(Verdict.EXTENSION, {"": graph}, note=note)]


def _unknown(neuron: Neuron) -> Refused:
    return Refused(
        f"{neuron.name} is no step that NIR can state",
        "use LIF, IF, Leaky or LIFBox, state its form as spikeloom.neurons.forms has it, or keep "
        "this part of the model outside the file",
    )
