"""How SpikingJelly's modules behave, and which of its neurons have a description."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spikingjelly.activation_based import base, layer, neuron

from spikeloom.kernel.fixed import Fixed
from spikeloom.kernel.neuron import Neuron, Parameter
from spikeloom.modules import Conventions, Framework, register, register_framework, undescribed
from spikeloom.modules.conventions import carried, first_at_rest
from spikeloom.neurons.trace import Response

__all__ = ["OURS"]

STEPS = {"single_step_forward": False, "multi_step_forward": True}
TRANSITION = ("single_step_functional_forward", "multi_step_functional_forward")


def _take_sequences(module: Any) -> None:
    module.step_mode = "m"


def _begins(module: Any, description: Neuron) -> Parameter | None:
    """Where ``set_reset_value`` lets the potential begin."""
    values: dict[str, Parameter] = getattr(module, "_memories_rv", {})
    if description.rest and "v" in values:
        return values["v"]
    return first_at_rest(module, description)


# Layers and containers with a step mode.
STEPPED = Conventions(
    is_neuron=False,
    describe=undescribed,
    takes_steps=lambda module: getattr(module, "step_mode", "m") == "s",
    take_sequences=_take_sequences,
    keeps_state=lambda module: True,
    decisive=frozenset(),
)
NODE = replace(STEPPED, is_neuron=True, begins=_begins, decisive=None)
OURS = replace(
    NODE,
    describe=carried,
    methods=Fixed(STEPS),
    reset="reset",
    decisive=frozenset({"forward", *STEPS, *TRANSITION}),
)


def _leak(node: Any) -> Response:
    share = 1 / node.tau
    return Response(1 - share, gain=share if getattr(node, "decay_input", True) else 1.0)


def _no_leak(node: Any) -> Response:
    return Response(1.0)


RESPONSES: dict[Any, dict[str, Any]] = {
    neuron.NonSpikingLIFNode: {"response": _leak},
    neuron.SimpleIFNode: {"response": _no_leak},
    neuron.NonSpikingIFNode: {"response": _no_leak},
}


def _register(cls: Any, conventions: Conventions) -> None:
    """Register a class with those of the methods that it has."""
    methods = {name: whole for name, whole in STEPS.items() if hasattr(cls, name)}
    reset = "reset" if hasattr(cls, "reset") else ""
    register(cls, replace(conventions, methods=Fixed(methods), reset=reset))


_register(base.StepModule, STEPPED)
_register(base.MemoryModule, STEPPED)
for cls in [*RESPONSES, *(cls for cls in vars(neuron).values() if isinstance(cls, type))]:
    if issubclass(cls, base.StepModule):
        _register(cls, replace(NODE, **RESPONSES.get(cls, {})))
register_framework(
    "spikingjelly",
    Framework(
        "SpikingJelly",
        homes=(
            "spikingjelly.activation_based.encoding",
            "spikingjelly.activation_based.layer.attention",
            "spikingjelly.activation_based.layer.bn",
            "spikingjelly.activation_based.layer.container",
            "spikingjelly.activation_based.layer.dropout",
            "spikingjelly.activation_based.layer.misc",
            "spikingjelly.activation_based.neuron.",
        ),
        followed=(layer.ElementWiseRecurrentContainer, layer.PrintShapeModule),
    ),
)
