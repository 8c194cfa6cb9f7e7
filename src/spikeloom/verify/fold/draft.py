"""The copy of a model that is being folded."""

from __future__ import annotations

from typing import Any

from torch import nn

from spikeloom.hosted import Make, made
from spikeloom.modules import neuron_of, values_of
from spikeloom.neurons.lif import IF, LIF
from spikeloom.report import Report
from spikeloom.verify.fold.connections import Connections
from spikeloom.verify.fold.plain import has_hooks

__all__ = ["Draft", "lif_of"]

# How a host's module is called; the module in its place is called alike.
MANNERS = ("implementation", "init_hidden", "output", "step_mode", "store_v_seq", "time_first")


class Draft:
    """A model whose modules are replaced one by one.

    Args:
        model: A copy of the user's.
        make: Makes the neurons whose threshold or gain changes.

    Attributes:
        connections: How its modules follow each other.
        report: What became of each norm and pool.
    """

    def __init__(self, model: nn.Module, make: Make) -> None:
        self.model = model
        self.make = make
        self.connections = Connections(model)
        self.report = Report("Folded norms", ("module", "layer", "result", "why"))

    def module(self, name: str | None) -> Any:
        """The module of this name as it is now."""
        return self.connections.module(name)

    def replace(self, name: str, new: nn.Module) -> None:
        """Put another module in a module's place, under all its names."""
        old = self.module(name)
        new.train(old.training)
        for parent in list(self.model.modules()):
            for child, module in parent._modules.items():
                if module is old:
                    parent._modules[child] = new

    def remade(self, name: str, **changes: Any) -> Any:
        """A neuron module with some settings changed; None if ``make`` makes another kind."""
        old = self.module(name)
        neuron: Any = neuron_of(old)
        settings = {**neuron.settings(), **values_of(old), **changes}
        new = made(self.make, (LIF if "tau" in settings else IF)(**settings))
        if has_hooks(old) or not isinstance(old, type(new)):
            return None
        for manner in MANNERS:
            if hasattr(old, manner):
                setattr(new, manner, getattr(old, manner))
        return new


def lif_of(module: Any) -> LIF | None:
    """A module's description if it is a LIF, and no subclass that computes something else."""
    neuron = neuron_of(module)
    own = ("_step", "_charge", "_fire")
    is_lif = all(getattr(type(neuron), name, None) is getattr(LIF, name) for name in own)
    return neuron if isinstance(neuron, LIF) and is_lif else None
