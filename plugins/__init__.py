"""spikeloom's neurons as classes of SpikingJelly, snnTorch and Norse.

A host is imported when it is first named: ``from spikeloom.plugins import snntorch``. Other
packages add hosts through the entry-point group ``spikeloom.hosts``::

    [project.entry-points."spikeloom.hosts"]
    brian = "spikeloom_brian"        # becomes spikeloom.plugins.brian

It is also imported when a module of the package ``brian`` is first met, so that it can register how
that package's own modules behave (:func:`spikeloom.modules.register`).
"""

from __future__ import annotations

import warnings
from importlib import import_module, metadata
from types import ModuleType

from .adapter import Component, is_installed, listed_components
from .native import NoCounterpart, Unmatched

__all__ = ["Component", "NoCounterpart", "Unmatched", "components", "hosts"]

HOSTS = ("spikingjelly", "snntorch", "norse")


def _third_party() -> dict[str, str]:
    points = metadata.entry_points(group="spikeloom.hosts")
    return {point.name: point.module for point in points if point.name not in HOSTS}


def hosts() -> tuple[str, ...]:
    """Every host by name, ours and those that other packages add, installed or not."""
    return (*HOSTS, *_third_party())


def components() -> tuple[Component, ...]:
    """The classes of all hosts whose framework is installed.

    Warns:
        RuntimeWarning: If a host of another package cannot be imported; it is left out.

    Example:
        >>> from spikeloom import plugins
        >>> sorted({c.method for c in plugins.components() if c.name == "LIFNode"})
        ['LIF']
    """
    for host in HOSTS:
        if is_installed(host):
            import_module(f".{host}", __name__)
    for host, module in _third_party().items():
        try:
            import_module(module)
        except ImportError as error:
            message = f"spikeloom.plugins.{host} of another package is left out: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
    return listed_components()


def __getattr__(name: str) -> ModuleType:
    if name in HOSTS:
        return import_module(f".{name}", __name__)
    third_party = _third_party()
    if name in third_party:
        return import_module(third_party[name])
    raise AttributeError(f"spikeloom.plugins has no host {name!r}; there are {', '.join(hosts())}")
