"""Every neuron and the ways to write it: one table, a row per neuron."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spikeloom.export.forms.descent import sign_descent, sign_tracker
from spikeloom.export.forms.filters import trace
from spikeloom.export.forms.pieces import Layer, Params, Piece, number
from spikeloom.export.forms.spiking import MEMBRANES, fire_and_reset
from spikeloom.export.forms.ternary import bi_spike
from spikeloom.export.forms.unrolled import UNROLLED, unrolled
from spikeloom.export.graph.extension import node_of
from spikeloom.export.refuse import Refused, Verdict
from spikeloom.kernel.neuron import Neuron
from spikeloom.neurons.elastic import ElasticBiSpike
from spikeloom.neurons.few_spike import OAT
from spikeloom.neurons.gated import LinearHG
from spikeloom.neurons.signgd import SignGD, SignTracker
from spikeloom.neurons.trace import Trace

__all__ = ["FORMS", "candidates"]

# A subclass is handled by its base's row, which must check that it behaves like it.
FORMS: dict[type, Callable[[Any, Params, Layer], list[Piece]]] = {
    **dict.fromkeys(MEMBRANES, fire_and_reset),
    Trace: trace,
    ElasticBiSpike: bi_spike,
    SignGD: sign_descent,
    SignTracker: sign_tracker,
    **dict.fromkeys(UNROLLED, unrolled),
}
# The methods that decode a whole code at once.
DECODES = (OAT._decode, LinearHG._decode)


def candidates(neuron: Neuron, params: Params, layer: Layer, extend: bool = False) -> list[Piece]:
    """The ways to write a neuron, the truest first.

    Args:
        neuron: The description.
        params: Its parameters with their present values.
        layer: The layer.
        extend: Whether an extension is welcome where nothing else is exact.

    Raises:
        Refused: If there is none.
    """
    _require_rest(neuron, layer)
    neuron = _coder(neuron)
    if neuron.begin is not None and type(neuron) not in UNROLLED:
        raise Refused(
            "it sums its whole input before its first spike, NIR runs step by step",
            "use FewSpike, OAT or HG, or keep this part of the model outside the file",
        )
    more = _extension(neuron, params, layer) if extend else []
    try:
        return [*_written(neuron, params, layer), *more]
    except Refused:
        if more:
            return more
        raise


def _require_rest(neuron: Neuron, layer: Layer) -> None:
    """A module may begin elsewhere than its neuron says; only a membrane can be shifted."""
    if layer.rest is None or isinstance(neuron, tuple(MEMBRANES)):
        return
    said = next(iter(neuron.rest.values()))
    if (number("state at rest", layer.rest) != number("state at rest", said)).any():
        raise Refused(
            f"its potential begins at {layer.rest}, its neuron's at {said:g}",
            "let it begin at rest",
        )


def _coder(neuron: Neuron) -> Neuron:
    """The few-spike neuron whose decoder a neuron is; other neurons as they are."""
    if getattr(neuron.step, "__func__", None) in DECODES:
        return neuron.step.__self__  # type: ignore[attr-defined]  # a bound method's
    return neuron


def _extension(neuron: Neuron, params: Params, layer: Layer) -> list[Piece]:
    """A nested graph that states the neuron's settings; nothing if a file cannot hold them."""
    settings = {key: params.get(key, value) for key, value in neuron.settings().items()}
    settings.pop("surrogate", None)
    graph = node_of(neuron, settings, layer.shape)
    note = "only spikeloom.export reads it; other readers compute silence"
    return [] if graph is None else [Piece(Verdict.EXTENSION, {"": graph}, note=note)]


def _written(neuron: Neuron, params: Params, layer: Layer) -> list[Piece]:
    for known, write in FORMS.items():
        exact_class = type(neuron) is known
        if exact_class or (known in MEMBRANES and isinstance(neuron, known)):
            return write(neuron, params, layer)
    raise Refused(
        f"{neuron.name} is no step that NIR can state",
        "use LIF, IF, Leaky or LIFBox, or keep this part of the model outside the file",
    )
