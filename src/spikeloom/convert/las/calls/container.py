"""The child of a module that holds the spiking calls of its own code."""

from __future__ import annotations

from typing import Any

from torch import nn

from spikeloom.convert.las.calls.kinds import KINDS

__all__ = ["CHILD", "COMPOUND", "CONSTANT", "FLOAT", "Calls", "all_calls", "calls_in", "calls_of"]

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

    def forward(self, x: Any) -> Any:
        """What it is given, as the last child of an ``nn.Sequential``, which calls all of them."""
        return x

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


def calls_in(module: nn.Module) -> Calls:
    """The calls of a module, made if it has none."""
    calls = module._modules.get(CHILD)
    if calls is None:
        calls = Calls()
        module.add_module(CHILD, calls)
    assert isinstance(calls, Calls)
    return calls


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
