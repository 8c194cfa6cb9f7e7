"""What the hosts share: finding the framework, and the list of components."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Class = TypeVar("Class", bound=type)

_components: list[Component] = []


@dataclass(frozen=True)
class Component:
    """One class of one host.

    Attributes:
        host: The framework, such as ``spikingjelly``.
        name: The class's name in ``spikeloom.plugins.<host>``.
        cls: The class.
        method: What it computes.
        paper: Where the method was published.
    """

    host: str
    name: str
    cls: type
    method: str
    paper: str


def component(method: str, paper: str) -> Callable[[Class], Class]:
    """Class decorator: list a host's class among the components.

    Args:
        method: What it computes, such as ``LIF``.
        paper: Where the method was published.
    """

    def listed(cls: Class) -> Class:
        # The host is the folder of the module that defines the class.
        host = cls.__module__.split(".plugins.", 1)[-1].split(".", 1)[0]
        _components.append(Component(host, cls.__name__, cls, method, paper))
        return cls

    return listed


def listed_components() -> tuple[Component, ...]:
    """The components of every host imported so far."""
    return tuple(_components)


def is_installed(package: str) -> bool:
    """Whether a framework can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def require(package: str, least: str) -> None:
    """Raise one clear ImportError when a framework is missing.

    Args:
        package: The framework's import name.
        least: Its requirement, for the message.

    Raises:
        ImportError: If it is not installed.
    """
    if not is_installed(package):
        raise ImportError(
            f"spikeloom.plugins.{package} needs {package}{least}: "
            f'pip install "spikeloom[{package}]"'
        )
