"""SpikingJelly's own NIR export call, made with our exporter."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor, nn

from ..exchange import exported

__all__ = ["export_to_nir"]


def export_to_nir(
    net: nn.Module,
    example_input: Tensor,
    save_path: str | os.PathLike[str] | None = None,
    dt: float = 1e-4,
    *,
    on_inexact: str = "raise",
    target: str = "portable",
    steps: int = 50,
) -> Any:
    """``spikingjelly.activation_based.nir_exchange.export_to_nir`` for our nodes and the host's.

    The same call, with :func:`spikeloom.export.to_nir` behind it: the file is read back and
    compared with the network before it is written. SpikingJelly's ``import_from_nir`` reads it.

    Args:
        net: The network, of our nodes, SpikingJelly's own, or both.
        example_input: As SpikingJelly has it: ``[N, *]`` if the network takes one step at each
            call, ``[T, N, *]`` if it takes sequences (step mode "m", or a time loop in its
            ``forward``). The comparison is made on it, so it should make the network spike.
        save_path: Where to write the file; None keeps none.
        dt: Time step in seconds, SpikingJelly's default.
        on_inexact: As for :func:`spikeloom.export.to_nir`.
        target: Who shall read it; as for :func:`spikeloom.export.to_nir`.
        steps: How often a single step is repeated for the comparison.

    Returns:
        The ``nir.NIRGraph``; its attribute ``report`` is the
        :class:`~spikeloom.export.ExportReport`.

    Raises:
        ImportError: If nir is not installed.
        NotExpressible: If a module cannot be written exactly; every such module is listed.
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has a wrong value, or the network does not run on the example.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikeloom.plugins.spikingjelly import LIFNode, export_to_nir
        >>> net = nn.Sequential(nn.Linear(3, 2), LIFNode())
        >>> graph = export_to_nir(net, 4 * torch.rand(8, 3))
        >>> sorted(graph.nodes), graph.report.mismatch
        (['0', '1', 'input', 'output'], 0.0)
    """
    return exported(net, example_input, dt, steps, on_inexact, target, save_path)
