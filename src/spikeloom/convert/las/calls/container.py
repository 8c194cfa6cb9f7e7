"""The child of a module that holds the spiking calls of its own code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from spikeloom.convert.las.calls.kinds import KINDS

__all__ = ["CHILD", "COMPOUND", "CONSTANT", "FLOAT", "Calls", "all_calls", "attach", "calls_in"]
__all__ += ["calls_of", "drop_unused"]

# The name of the child.
CHILD = "las_calls"
# What is there in the place of a spiking call.
CONSTANT, COMPOUND, FLOAT = "", "*", "float"


class Calls(nn.Module):
    """The spiking calls of one module's own code.

    Attributes:
        places: What is called, and where, -> the name of its spiking call; ``""`` if only constants
            were seen there, ``"*"`` if it is computed by other calls, ``"float"`` if it stays.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, str] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """No layer of the module, which must not go through all of its children.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            f"model: a module calls all of its children, of which one, {CHILD}, holds the neurons "
            f"of its own calls; let it go through an nn.ModuleList or nn.Sequential of its layers, "
            f"or name the module in exclude"
        )

    def put(self, key: str, name: str, call: nn.Module) -> None:
        """Give a place its spiking call."""
        count = sum(child.partition("_")[0] == name for child in self._modules)
        child = f"{name}_{count}"
        self.add_module(child, call)
        self.places[key] = child

    def drop(self, key: str) -> None:
        """Let a place compute as it did."""
        child, self.places[key] = self.places[key], FLOAT
        if child not in self.places.values():
            self._modules.pop(child, None)

    def spec(self) -> dict[str, Any]:
        """What makes it again."""
        made = {
            name: [type(call).__name__, call.spec()]  # type: ignore[operator]  # calls have one
            for name, call in self.named_children()
        }
        return {"places": self.places, "calls": made}

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Calls:
        """What :meth:`spec` describes."""
        calls = cls()
        calls.places = dict(spec["places"])
        for name, (kind, settings) in spec["calls"].items():
            calls.add_module(name, KINDS[kind].from_spec(settings))
        return calls


class _Layers(dict[str, Any]):
    """The children of a container, which goes through its layers alone: its calls are none.

    Whoever asks for names and children, as to move or to save them, finds the calls by ``items``.
    """

    def __iter__(self) -> Iterator[str]:
        return (name for name in super().__iter__() if name != CHILD)

    def __len__(self) -> int:
        return super().__len__() - (CHILD in self)

    def values(self) -> Any:
        return [self[name] for name in self]


def attach(module: nn.Module, calls: Calls) -> None:
    """Make calls the child of a module."""
    if isinstance(module, (nn.Sequential, nn.ModuleList)) and not isinstance(
        module._modules, _Layers
    ):
        module._modules = _Layers(module._modules)
    module.add_module(CHILD, calls)


def calls_in(module: nn.Module) -> Calls:
    """The calls of a module, made if it has none."""
    calls = module._modules.get(CHILD)
    if calls is None:
        calls = Calls()
        attach(module, calls)
    assert isinstance(calls, Calls)
    return calls


def drop_unused(network: nn.Module) -> bool:
    """Drop the calls of modules that made none, or of all if none is spiking; whether any is."""
    spiking = any(calls._modules for calls in all_calls(network))
    for module in list(network.modules()):
        calls = module._modules.get(CHILD)
        if isinstance(calls, Calls) and not (spiking and calls.places):
            del module._modules[CHILD]
    return spiking


def all_calls(network: nn.Module) -> list[Calls]:
    """The calls of all modules of a network."""
    return [module for module in network.modules() if isinstance(module, Calls)]


def calls_of(network: nn.Module) -> dict[str, Any]:
    """The calls of a converted network, by the name of their module, for :func:`rebuild_calls`."""
    return {
        name: calls.spec()
        for name, module in network.named_modules()
        if isinstance(calls := module._modules.get(CHILD), Calls)
    }
