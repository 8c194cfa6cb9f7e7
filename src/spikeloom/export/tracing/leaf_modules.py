"""Which modules the export takes as one thing, and what stands in the way of that."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from spikeloom.export.forms.layers import LAYERS, layer_key, transparent
from spikeloom.kernel.neuron import Neuron, Parameter
from spikeloom.modules import (
    conventions_of,
    framework_of,
    is_neuron,
    neuron_of,
    override_of,
    why_unregistered,
)

__all__ = ["altered", "begins", "is_leaf", "keeps_its_state", "passes_on", "resets_of"]


def begins(module: nn.Module, neuron: Neuron) -> Parameter | None:
    """Where the potential of a module begins; None if it has no state.

    Args:
        module: A neuron of any framework.
        neuron: Its description.
    """
    conventions = conventions_of(module)
    return None if conventions is None else conventions.begins(module, neuron)


def altered(module: nn.Module) -> tuple[str, str]:
    """What a leaf does beside what its class or its neuron says, and the remedy.

    Args:
        module: A leaf.

    Returns:
        Two texts, such as that a subclass has a ``forward`` of its own; empty if there is nothing.
    """
    around = "put what it does beside the layer into a module around it"
    if override := override_of(module):
        return override, around
    if neuron_of(module) is None:
        return "", ""
    if any(layer_key(part) for part in module.children()):
        return "holds layers of its own beside the neuron that it is taken for", around
    conventions = conventions_of(module)
    if conventions is not None and conventions.batch_first(module):
        return "takes [batch, T, *], and the export follows [T, batch, *]", "make it time first"
    return why_unregistered(module), around


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is exported (or refused) as one thing."""
    if is_neuron(module) or layer_key(module) is not None:
        return True
    if framework_of(type(module)) is not None:
        return True
    if getattr(module, "has_loops", False):  # an imported network that runs itself
        return True
    if is_parametrized(module):
        return True
    if type(module) is nn.Unflatten:  # followed as the function that it calls
        return False
    return _is_torch_layer(type(module)) and not any(module.children())


def _is_torch_layer(cls: type) -> bool:
    """Whether a class is a layer of torch's, or a framework's under the same name."""
    bases = (cls, *(base for base in cls.__bases__ if base.__name__ == cls.__name__))
    return any(base.__module__.startswith("torch.nn.modules") for base in bases)


def passes_on(module: nn.Module) -> bool:
    """Whether a module, in evaluation, changes at most the shape of a tensor."""
    key = layer_key(module)
    return key == "Flatten" or LAYERS.get(key or "") is transparent


def keeps_its_state(module: Any) -> bool:
    """Whether a neuron goes on from where its last call ended, without being handed its state."""
    conventions = conventions_of(module)
    return conventions is not None and conventions.keeps_state(module)


def resets_of(module: nn.Module) -> str:
    """The name of the method that resets a neuron; empty if there is none."""
    conventions = conventions_of(module)
    return "" if conventions is None else conventions.reset
