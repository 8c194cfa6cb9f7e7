"""What the hosts' own export calls share once they are made with our exporter."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from .example import example_of

__all__ = ["exported", "named"]


class _Single(nn.Module):
    """A network of one module, with a name for it."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.add_module(name, module)

    def forward(self, x: Any, state: Any = None) -> Any:
        """What the module returns; its state is handed back to it."""
        (module,) = self.children()
        return module(x) if state is None else module(x, state)


def named(net: nn.Module, name: str) -> nn.Module:
    """A network whose single module, if it is one, has a name."""
    return net if any(net.children()) else _Single(net, name)


def exported(
    net: nn.Module,
    example: Any,
    dt: float,
    steps: int,
    on_inexact: str,
    target: str,
    path: str | os.PathLike[str] | None = None,
) -> Any:
    """Write a host's network as NIR, from one example as the host's exporter takes it.

    Args:
        net: The network.
        example: As for :func:`spikeloom.plugins.example.example_of`.
        dt: As for :func:`spikeloom.export.to_nir`, like the arguments below.
        steps: How often a single step is repeated.
        on_inexact: What is allowed beyond exact nodes.
        target: Who shall read it.
        path: Where to write the file.

    Returns:
        The ``nir.NIRGraph``, with the :class:`spikeloom.export.ExportReport` as its attribute
        ``report``, which ``nir.write`` leaves alone.
    """
    # Here, because a plugin that only computes needs no nir.
    from spikeloom import export

    found = example_of(net, example, steps)
    try:
        graph, report = export.to_nir(net, found.sequence, dt, on_inexact, target, path)
    except ValueError as error:
        # Its shape is not the one that the caller passed.
        if found.stepwise and not isinstance(error, export.NotExpressible):
            error.add_note(f"the example {list(example.shape)} was repeated for {steps} steps")
        raise
    graph.report = report
    return graph
