"""The frameworks' own modules that compute over time, and why the export does not take one.

Such a module is refused as a whole, by its name and its class; what it is made of inside would say
less.
"""

from __future__ import annotations

from typing import NoReturn

from torch import nn

from spikeloom.export.refuse import Refused
from spikeloom.modules import (
    Framework,
    base_of,
    described_classes,
    framework_of,
    is_describable,
    override_of,
)

__all__ = ["refuse_foreign"]


def refuse_foreign(module: nn.Module) -> None:
    """Refuse a framework's own module for which there is no form.

    Args:
        module: A module that was not taken for a neuron.

    Raises:
        Refused: If it is a framework's own, or derives from one.
    """
    base, override = base_of(type(module)), override_of(module)
    if override and base is not None and is_describable(module):
        beside = f"put what it does beside the {base.__name__} into a module around it"
        raise Refused(override, beside)
    if found := framework_of(type(module)):
        _refuse(*found, override)


def _refuse(framework: Framework, cls: type, override: str) -> NoReturn:
    title, name, taken = framework.title, cls.__name__, described_classes(framework)
    owned, instead = f"{title}'s own {name}", f"use {title}'s {', '.join(taken)}"
    outside = "keep this part of the model outside the file"
    if override:
        raise Refused(f"derives from {owned} and may compute something else", outside)
    if name in taken:
        raise Refused(f"is {owned} with settings that NIR has not", f"use {taken[name]}")
    reason = f"is {owned}, for which this export has no form"
    raise Refused(reason, f"{instead}, or {outside}")
