"""What the export must know of a module, whatever framework it belongs to."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from spikeloom.export.forms.foreign import foreign_steps, is_foreign
from spikeloom.export.forms.layers import LAYERS, layer_key, transparent
from spikeloom.export.observation.native import native_neuron, native_rest
from spikeloom.kernel.neuron import Neuron, Parameter
from spikeloom.layer import current_parameters

__all__ = [
    "altered",
    "at_rest",
    "current",
    "describes",
    "is_leaf",
    "keeps_its_state",
    "passes_on",
    "takes_steps",
]

# By which a neuron or a layer is called.
CALLS = ("forward", "sequence", "single_step_forward", "multi_step_forward")


def describes(module: nn.Module) -> Neuron | None:
    """The neuron that a module is: as it says itself, or as a framework's own class says."""
    neuron = getattr(module, "neuron", None)
    return neuron if isinstance(neuron, Neuron) else native_neuron(module)


def current(module: nn.Module, neuron: Neuron) -> dict[str, Parameter]:
    """All parameters of a module's neuron, with the values that the module holds now."""
    if getattr(module, "neuron", None) is None:
        return dict(neuron.params)
    return {**neuron.params, **current_parameters(module, neuron)}


def at_rest(module: Any, neuron: Neuron) -> Parameter | None:
    """Where the potential of a module begins; None if it has no state.

    Args:
        module: A neuron of any framework.
        neuron: Its description.
    """
    memories = getattr(module, "_memories_rv", {})  # SpikingJelly's, see set_reset_value
    if neuron.rest and "v" in memories:
        value: Parameter = memories["v"]
        return value
    begin = getattr(module, "_at_rest", None)  # Norse's, whose leak potential may be learned
    if neuron.rest and callable(begin):
        value, *_ = begin()
        return value
    return native_rest(module, neuron)


def altered(module: nn.Module) -> str:
    """What a leaf does beside what its class or its neuron says.

    Args:
        module: A leaf.

    Returns:
        What that is, such as a ``forward`` of a subclass; empty if there is nothing.
    """
    if describes(module) is not None and any(layer_key(part) for part in module.children()):
        return "holds layers of its own beside the neuron that it is taken for"
    for call in CALLS:
        own = vars(module).get(call)
        if own is not None and not _is_ours(own):
            return f"its {call} was replaced on the module itself"
        if describes(module) is not None and not _is_ours(getattr(type(module), call, None)):
            known = [c for c in type(module).__mro__ if _is_ours(c) and issubclass(c, nn.Module)]
            if known and getattr(known[0], call, None) is not getattr(type(module), call, None):
                return f"is a {known[0].__name__} with a {call} of its own"
    return ""


def _is_ours(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).startswith("spikeloom.")


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is exported (or refused) as one thing."""
    if describes(module) is not None or layer_key(module) is not None:
        return True
    if is_foreign(module):
        return True
    if getattr(module, "has_loops", False):  # an imported network that runs itself
        return True
    if is_parametrized(module):
        return True
    if type(module) is nn.Unflatten:  # followed as the function that it calls
        return False
    return type(module).__module__.startswith("torch.nn.modules") and not any(module.children())


def passes_on(module: nn.Module) -> bool:
    """Whether a module, in evaluation, changes at most the shape of a tensor."""
    key = layer_key(module)
    return key == "Flatten" or LAYERS.get(key or "") is transparent


def takes_steps(module: nn.Module) -> bool | None:
    """True: one step at each call; False: sequences, time first; None: it has no time."""
    if hasattr(module, "step_mode"):
        return module.step_mode == "s"
    if describes(module) is None or native_neuron(module) is not None:
        return foreign_steps(module)
    if hasattr(module, "time_first"):
        return not module.time_first
    return type(module).__name__.endswith("Cell")


def keeps_its_state(module: Any) -> bool:
    """Whether a neuron goes on from where its last call ended, without being handed its state."""
    return hasattr(module, "step_mode") or bool(getattr(module, "init_hidden", False))
