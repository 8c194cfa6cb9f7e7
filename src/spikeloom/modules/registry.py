"""Who says how a class's modules behave: the framework that it belongs to, or its author."""

from __future__ import annotations

from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

from torch import nn

from spikeloom.modules.conventions import Conventions, Framework, no_circuit

__all__ = [
    "base_of",
    "conventions_of",
    "described_classes",
    "framework_of",
    "frameworks",
    "is_describable",
    "register",
    "register_framework",
    "registered",
    "undescribed",
]

GROUP = "spikeloom.hosts"

_conventions: dict[type, Conventions] = {}
_frameworks: dict[str, Framework] = {}
# Packages whose entry points were looked for, and the registered class behind each class met.
_asked: set[str] = set()
_bases: dict[type, type | None] = {}


def register(cls: type, conventions: Conventions) -> None:
    """State how the modules of a class behave; their subclasses behave alike.

    A package whose classes are to be recognised everywhere names the module that registers
    them as an entry point, under its own top-level name; it is imported when a module of the
    package is first met::

        [project.entry-points."spikeloom.hosts"]
        sinabs = "my_package.sinabs"

    Args:
        cls: The class, or a mixin; an earlier statement about it is replaced.
        conventions: How its modules behave.

    Raises:
        TypeError: If ``cls`` is no class, or ``conventions`` none.
        ValueError: If the class has no method of a name that the conventions state.

    Example:
        >>> import torch, spikeloom
        >>> from spikeloom.modules import Conventions, register
        >>> class Turned(spikeloom.SpikingLayer):
        ...     def forward(self, x):
        ...         return super().forward(x.transpose(0, 1)).transpose(0, 1)
        >>> register(Turned, Conventions(batch_first=lambda module: True))
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 2), Turned(spikeloom.neurons.LIF())).eval()
        >>> print(spikeloom.compress.calibrate(net, torch.ones(4, 9, 3)))
        layer  inputs  rows  neuron  decay  steps  samples
        -----  ------  ----  ------  -----  -----  -------
        0           3     2  1       0.5        9        4
    """
    if not isinstance(cls, type):
        raise TypeError(f"cls: must be a class of modules, got {cls!r}")
    if not isinstance(conventions, Conventions):
        raise TypeError(f"conventions: must be spikeloom.modules.Conventions, got {conventions!r}")
    for name in filter(None, (conventions.reset, *conventions.methods)):
        if not callable(getattr(cls, name, None)):
            raise ValueError(f"conventions: {cls.__name__} has no method {name!r}")
    _conventions[cls] = conventions
    _bases.clear()


def register_framework(package: str, framework: Framework) -> None:
    """State what is known of a framework as a whole.

    Args:
        package: The top-level package that defines its classes.
        framework: What is known.
    """
    _frameworks[package] = framework


def base_of(cls: type) -> type | None:
    """The nearest registered class among a class and its bases."""
    if cls not in _bases:
        _ask_for(*(_package(kind) for kind in cls.__mro__))
        _bases[cls] = next((kind for kind in cls.__mro__ if kind in _conventions), None)
    return _bases[cls]


def registered(cls: type) -> Conventions | None:
    """What is stated of a class, or of the nearest of its bases."""
    base = base_of(cls)
    return None if base is None else _conventions[base]


def conventions_of(module: Any) -> Conventions | None:
    """How a module behaves: as is stated of its class, or like most modules that hold a neuron.

    Args:
        module: Any module.

    Returns:
        None for a module that has nothing to do with time.
    """
    stated = registered(type(module))
    if stated is None and DEFAULT.describe(module) is not None:
        return DEFAULT
    return stated


DEFAULT = Conventions()


def framework_of(cls: type) -> tuple[Framework, type] | None:
    """The framework to whose modules over time a class belongs, and the framework's own class.

    Args:
        cls: Any class; one of a user's derives from the framework's own.

    Returns:
        None for a class of no framework, and for containers that are followed.
    """
    base_of(cls)
    for kind in cls.__mro__:
        framework = _frameworks.get(_package(kind))
        if framework is not None and kind.__module__.startswith(framework.homes):
            passes = issubclass(kind, (nn.Sequential, *framework.followed))
            return None if passes else (framework, kind)
    return None


def described_classes(framework: Framework) -> dict[str, str]:
    """The classes of a framework that can be written, and with which settings; '' for all."""
    package = next(name for name, known in _frameworks.items() if known is framework)
    return {
        cls.__name__: conventions.settings
        for cls, conventions in _conventions.items()
        if _package(cls) == package
        and (conventions.describe is not undescribed or conventions.circuit is not no_circuit)
        and conventions.written
    }


def is_describable(module: Any) -> bool:
    """Whether a module's class has descriptions, for some settings at least."""
    conventions = conventions_of(module)
    return conventions is not None and conventions.describe is not undescribed


def frameworks() -> tuple[Framework, ...]:
    """What is known of every framework that is installed, in the order of their packages."""
    named = [point.name for point in metadata.entry_points(group=GROUP)]
    _ask_for(*(name for name in named if find_spec(name) is not None))
    return tuple(_frameworks[name] for name in sorted(_frameworks))


def undescribed(module: Any) -> None:
    """Conventions.describe of a class that has no description."""


def _package(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _ask_for(*packages: str) -> None:
    """Import what registers the classes of packages, the first time that they are met."""
    new = set(packages) - _asked
    if not new:
        return
    for point in metadata.entry_points(group=GROUP):
        if point.name in new:
            import_module(point.module)
    _asked.update(new)
