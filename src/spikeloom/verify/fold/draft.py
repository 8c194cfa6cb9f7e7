"""The copy of a model that is being folded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from spikeloom.kernel.neuron import Neuron
from spikeloom.layer import current_parameters
from spikeloom.report import Report
from spikeloom.verify.fold.connections import Connections

__all__ = ["Draft", "neuron_of"]


class Draft:
    """A model whose modules are replaced one by one.

    Args:
        model: A copy of the user's.
        make: Makes the neurons whose threshold or gain changes.

    Attributes:
        connections: How its modules follow each other.
        report: What became of each norm and pool.
    """

    def __init__(self, model: nn.Module, make: Callable[[Neuron], nn.Module]) -> None:
        self.model = model
        self.make = make
        self.connections = Connections(model)
        self.report = Report("Folded norms", ("module", "layer", "result", "why"))

    def module(self, name: str | None) -> Any:
        """The module of this name as it is now."""
        return self.connections.module(name)

    def replace(self, name: str, new: nn.Module) -> None:
        """Put another module in a module's place."""
        old = self.module(name)
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, new.train(old.training))

    def settings(self, name: str) -> dict[str, Any]:
        """The arguments of a module's neuron, with the tensors as the module holds them now."""
        module = self.module(name)
        return {**module.neuron.settings(), **current_parameters(module, module.neuron)}


def neuron_of(module: Any) -> Neuron | None:
    """The description that a module carries, if it is a neuron of ours."""
    neuron = getattr(module, "neuron", None)
    return neuron if isinstance(neuron, Neuron) else None
