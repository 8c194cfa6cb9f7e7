"""The frameworks' own modules that compute over time, and why the export does not take one.

Such a module is refused as a whole, by its name, its class and the framework's own export call
where that writes it; what it is made of inside would say less. Nothing is imported from a
framework: a class is recognised by the Python module that defines it, and a subclass by its base.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from spikeloom.export.refuse import Refused

__all__ = ["FRAMEWORKS", "Framework", "foreign_steps", "is_foreign", "refuse_foreign"]


@dataclass(frozen=True)
class Framework:
    """What is known of a framework's own modules.

    Attributes:
        title: The framework's name.
        homes: Where its modules over time are defined; layers that the export knows may be there.
        taken: Classes that the export writes, and with which settings; empty for all.
        followed: Classes there that only pass signals through the modules inside them.
        call: Its own export call, which compares nothing.
        writes: Classes that this call writes and the export does not take.
        steps: By a class's name, whether it takes one step at each call.
    """

    title: str
    homes: tuple[str, ...]
    taken: dict[str, str]
    followed: frozenset[str]
    call: str
    writes: frozenset[str]
    steps: Callable[[str], bool]


SEQUENCES = ("AssociativeLeaky", "LeakyParallel", "LinearLeaky", "StateLeaky")
FRAMEWORKS = {
    "spikingjelly": Framework(
        "SpikingJelly",
        (
            "spikingjelly.activation_based.encoding",
            "spikingjelly.activation_based.layer.attention",
            "spikingjelly.activation_based.layer.bn",
            "spikingjelly.activation_based.layer.container",
            "spikingjelly.activation_based.layer.dropout",
            "spikingjelly.activation_based.layer.misc",
            "spikingjelly.activation_based.neuron.",
        ),
        {"LIFNode": "", "ParametricLIFNode": "", "IFNode": ""},
        frozenset(("ElementWiseRecurrentContainer", "PrintShapeModule")),
        "spikingjelly.activation_based.nir_exchange.export_to_nir",
        frozenset(("CUBALIFNode",)),
        lambda name: False,  # a module says it itself, by its step_mode
    ),
    "snntorch": Framework(
        "snnTorch",
        ("snntorch._neurons.",),
        {"Leaky": "inhibition=False and state_quant=False"},
        frozenset(),
        "snntorch.export_nir.export_to_nir",
        frozenset(("Synaptic", "RLeaky", "RSynaptic")),
        lambda name: name not in SEQUENCES,
    ),
    "norse": Framework(
        "Norse",
        ("norse.torch.module.",),
        {"LIFBoxCell": "reset_value or reset_subtract as its reset method"},
        frozenset(("Lift", "RecurrentSequential", "RegularizationCell")),
        "norse.torch.to_nir",
        frozenset(("LIBoxCell", "IAFCell", "LIFCell")),
        lambda name: name.endswith("Cell"),
    ),
}


def _found(module: nn.Module) -> tuple[Framework, type] | None:
    """The framework whose module it is, and its class there; None for everything else."""
    for cls in type(module).__mro__:
        for framework in FRAMEWORKS.values():
            if cls.__module__.startswith(framework.homes):
                passes = issubclass(cls, nn.Sequential) or cls.__name__ in framework.followed
                return None if passes else (framework, cls)
    return None


def is_foreign(module: nn.Module) -> bool:
    """Whether a module is a framework's own that computes over time, or derives from one."""
    return _found(module) is not None


def foreign_steps(module: nn.Module) -> bool | None:
    """True: one step at each call; False: sequences, time first; None: it is no such module."""
    found = _found(module)
    return None if found is None else found[0].steps(found[1].__name__)


def refuse_foreign(module: nn.Module) -> None:
    """Refuse a framework's own module for which there is no form.

    Args:
        module: A module that was not taken for a neuron.

    Raises:
        Refused: If it is a framework's own, or derives from one.
    """
    found = _found(module)
    if found is None:
        return
    framework, cls = found
    owned, name = f"{framework.title}'s own {cls.__name__}", cls.__name__
    instead = f"use {framework.title}'s {', '.join(framework.taken)}"
    outside = "keep this part of the model outside the file"
    if type(module) is not cls:
        reason = f"derives from {owned} and may compute something else"
        raise Refused(reason, f"use {name} itself" if name in framework.taken else outside)
    if name in framework.taken:
        raise Refused(f"is {owned} with settings that NIR has not", f"use {framework.taken[name]}")
    reason = f"is {owned}, for which this export has no form"
    if name in framework.writes:
        raise Refused(reason, f"{instead}, or write the model with {framework.call}, unchecked")
    raise Refused(reason, f"{instead}, or {outside}")
