"""What the export must know of a module, whatever framework it belongs to."""

from __future__ import annotations

from typing import Any

from torch import nn

from spikeloom.export.forms.layers import LAYERS, layer_key, transparent
from spikeloom.export.observation.native import native_neuron
from spikeloom.kernel.neuron import Neuron, Parameter
from spikeloom.layer import current_parameters

__all__ = ["current", "describes", "is_leaf", "keeps_its_state", "passes_on", "takes_steps"]


def describes(module: nn.Module) -> Neuron | None:
    """The neuron that a module is: as it says itself, or as a framework's own class says."""
    neuron = getattr(module, "neuron", None)
    return neuron if isinstance(neuron, Neuron) else native_neuron(module)


def current(module: nn.Module, neuron: Neuron) -> dict[str, Parameter]:
    """All parameters of a module's neuron, with the values that the module holds now."""
    if getattr(module, "neuron", None) is None:
        return dict(neuron.params)
    return {**neuron.params, **current_parameters(module, neuron)}


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is exported (or refused) as one thing."""
    if describes(module) is not None or layer_key(module) is not None:
        return True
    if getattr(module, "has_loops", False):  # an imported network that runs itself
        return True
    return type(module).__module__.startswith("torch.nn.modules") and not any(module.children())


def passes_on(module: nn.Module) -> bool:
    """Whether a module, in evaluation, changes at most the shape of a tensor."""
    key = layer_key(module)
    return key == "Flatten" or LAYERS.get(key or "") is transparent


def takes_steps(module: nn.Module) -> bool | None:
    """True: one step at each call; False: sequences, time first; None: it has no time."""
    if hasattr(module, "step_mode"):
        return module.step_mode == "s"
    if describes(module) is None:
        return None
    if hasattr(module, "time_first"):
        return not module.time_first
    return type(module).__name__.endswith("Cell") or native_neuron(module) is not None


def keeps_its_state(module: Any) -> bool:
    """Whether a neuron goes on from where its last call ended, without being handed its state."""
    return hasattr(module, "step_mode") or bool(getattr(module, "init_hidden", False))
