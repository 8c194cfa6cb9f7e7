"""Methods of a converted network's modules, whose calls are seen where no forward runs.

Hooks tell that a module is called. A method of its class, as in ``network.encode(x)``, has none: it
is put into the module as an attribute that tells.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FunctionType
from typing import Any

from torch import nn

__all__ = ["Method", "drop_methods", "put_methods"]

# Whose methods call no functions of torch on activations, or only within a forward.
OF_LIBRARIES = ("torch", "transformers", "spikeloom", "peft")


class Method:
    """A method that runs as a part of its module's code.

    Args:
        module: Whose method it is.
        function: As its class defines it.
        within: Makes the context in which it runs; None if a forward runs, which has one.
    """

    def __init__(
        self,
        module: nn.Module,
        function: Callable[..., Any],
        within: Callable[[nn.Module], AbstractContextManager[None] | None],
    ) -> None:
        self.module, self.function, self.within = module, function, within

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the method returns."""
        context = self.within(self.module)
        if context is None:
            return self.function(self.module, *args, **kwargs)
        return self._from_outside(context, args, kwargs)

    def _from_outside(self, context: AbstractContextManager[None], args: Any, kwargs: Any) -> Any:
        with context:
            return self.function(self.module, *args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        signature = inspect.signature(self.function)
        return signature.replace(parameters=list(signature.parameters.values())[1:])


def put_methods(
    module: nn.Module, within: Callable[[nn.Module], AbstractContextManager[None] | None]
) -> None:
    """Let the methods of a module's own classes run as a part of its code.

    Args:
        module: A module of a network.
        within: As for :class:`Method`.
    """
    for name, function in _methods(type(module)).items():
        if name not in vars(module):
            vars(module)[name] = Method(module, function, within)


def drop_methods(module: nn.Module) -> None:
    """Give a module its methods back."""
    for name in [name for name, value in vars(module).items() if isinstance(value, Method)]:
        del vars(module)[name]


def _methods(cls: type) -> dict[str, Callable[..., Any]]:
    """The methods that a user's classes define, but for ``forward``, which hooks tell of."""
    found: dict[str, Callable[..., Any]] = {}
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] in OF_LIBRARIES:
            break
        for name, value in vars(base).items():
            if isinstance(value, FunctionType) and name != "forward" and not name.startswith("__"):
                found.setdefault(name, value)
    return found
