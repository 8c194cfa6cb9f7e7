"""Which neuron a module is, and what it does with time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from spikeloom.kernel.neuron import Neuron, Parameter
from spikeloom.layer import current_parameters
from spikeloom.modules.conventions import Conventions, carried
from spikeloom.modules.registry import base_of, conventions_of
from spikeloom.neurons.described import Described
from spikeloom.neurons.trace import Response

__all__ = [
    "is_neuron",
    "methods_of",
    "neuron_of",
    "override_of",
    "response_of",
    "takes_steps",
    "values_of",
]

# What a subclass may define without computing anything else.
HARMLESS = frozenset({"__init__", "__init_subclass__", "__repr__", "extra_repr", "_get_name"})
# By which every module is called and read.
CALLING = frozenset({"__call__", "_call_impl", "__getattr__", "__getattribute__"})


def is_neuron(module: nn.Module) -> bool:
    """Whether a module is a neuron of a host, of spikeloom or of the user, known or not."""
    conventions = conventions_of(module)
    return conventions is not None and conventions.is_neuron


def takes_steps(module: nn.Module) -> bool | None:
    """True: one step at each call; False: whole sequences; None: it has no time."""
    conventions = conventions_of(module)
    return None if conventions is None else conventions.takes_steps(module)


def methods_of(module: nn.Module) -> dict[str, bool]:
    """The methods by which a module may be called, and whether each takes a whole sequence."""
    conventions = conventions_of(module) or Conventions()
    return {"forward": not conventions.takes_steps(module), **conventions.methods}


def neuron_of(module: nn.Module) -> Neuron | None:
    """The description of the neuron that a module is.

    Args:
        module: Any module.

    Returns:
        None for a module that is no neuron, or none that a description exists for, such as a
        subclass of a host's neuron with a step of its own.

    Example:
        >>> import spikeloom
        >>> from spikeloom.modules import neuron_of
        >>> neuron_of(spikeloom.SpikingLayer(spikeloom.neurons.IF()))
        IF()
    """
    conventions = conventions_of(module)
    if conventions is None or override_of(module):
        return None
    return conventions.describe(module)


def values_of(module: nn.Module) -> dict[str, Parameter]:
    """All parameters of a module's neuron, with the values that the module holds now.

    Args:
        module: A neuron with a description.
    """
    neuron = carried(module)
    if neuron is None:  # a host's own, whose description is made of its present values
        described = neuron_of(module)
        return {} if described is None else dict(described.params)
    tensors = [name for name, kind in neuron.kinds.items() if kind != "number"]
    registered = all(hasattr(module, name) for name in tensors)
    return {**neuron.params, **(current_parameters(module, neuron) if registered else {})}


def response_of(unit: Any) -> Response | None:
    """The sub-threshold filter of a neuron; None if it is not known, or not linear.

    Args:
        unit: A module, or a description.
    """
    neuron = unit if isinstance(unit, Neuron) else neuron_of(unit)
    if neuron is None:
        conventions = conventions_of(unit)
        known = conventions is not None and not override_of(unit)
        return conventions.response(unit) if known and conventions is not None else None
    if not (isinstance(neuron, Described) and neuron.states("response")):
        return None
    values = values_of(unit) if isinstance(unit, nn.Module) else dict(neuron.params)
    return neuron.response(values)


def override_of(module: nn.Module) -> str:
    """What a module computes otherwise than its registered class.

    Args:
        module: Any module.

    Returns:
        Such as "is a LIFNode with a multi_step_forward of its own"; empty if there is nothing. A
        constructor, a property or a method that the class does not have makes no difference.
    """
    base, conventions = base_of(type(module)), conventions_of(module) or Conventions()
    for call in ("forward", *conventions.methods):
        own = vars(module).get(call)
        if own is not None and not _is_ours(own):
            return f"its {call} was replaced on the module itself"
    if base is None:
        return ""
    decisive = conventions.decisive
    for method in _own_methods(type(module), base):
        if decisive is None or method in decisive | CALLING:
            return f"is a {base.__name__} with a {method} of its own"
    return ""


def _own_methods(cls: type, base: type) -> Iterator[str]:
    """The methods by which a class answers otherwise than its base, those of torch's apart."""
    torch_s = nn.Module.__mro__
    computing = {name for kind in base.__mro__ if kind not in torch_s for name in vars(kind)}
    for kind in cls.__mro__[: cls.__mro__.index(base)]:
        for name, value in () if kind in torch_s else vars(kind).items():
            if _is_method(value) and name in (computing | CALLING | {"forward"}) - HARMLESS:
                yield name


def _is_method(value: Any) -> bool:
    return callable(value) or isinstance(value, (staticmethod, classmethod))


def _is_ours(method: Any) -> bool:
    return str(getattr(method, "__module__", "")).startswith("spikeloom.")
