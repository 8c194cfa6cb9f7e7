"""Norse's own NIR export call, made with our exporter."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..exchange import exported, named

__all__ = ["to_nir"]


def to_nir(
    module: nn.Module,
    sample_data: Tensor,
    model_name: str = "norse",
    dt: float = 0.001,
    *,
    on_inexact: str = "raise",
    target: str = "portable",
    steps: int = 50,
) -> Any:
    """``norse.torch.to_nir`` for our modules and Norse's own.

    The same call, with :func:`spikeloom.export.to_nir` behind it: the graph is written to a file,
    read back and compared with the network. ``norse.torch.from_nir`` with the same ``dt`` reads
    it; ``nir.write`` saves it. Time constants are in seconds, where Norse 1.1 writes
    ``dt / tau_mem_inv``.

    Args:
        module: The network, of our modules, Norse's own, or both.
        sample_data: ``[batch, *]`` for cells, ``[time, batch, *]`` for sequences. The comparison
            is made on it, so it should make the network spike.
        model_name: The node's name, if the network is a single module.
        dt: Time step in seconds that one step of the network becomes: Norse's default, which is
            ten times that of the other frameworks. snnTorch reads files with ``dt=1e-4`` only.
        on_inexact: As for :func:`spikeloom.export.to_nir`.
        target: Who shall read it; as for :func:`spikeloom.export.to_nir`.
        steps: How often a single step is repeated for the comparison.

    Returns:
        The ``nir.NIRGraph``; its attribute ``report`` is the
        :class:`~spikeloom.export.ExportReport`.

    Raises:
        NotExpressible: If a module cannot be written exactly; every such module is listed.
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has a wrong value, or the network does not run on the sample.

    Example:
        >>> import torch
        >>> import norse.torch as snn
        >>> from spikeloom.plugins.norse import LIFBoxCell, to_nir
        >>> net = snn.SequentialState(torch.nn.Linear(3, 2), LIFBoxCell())
        >>> graph = to_nir(net, 20 * torch.rand(8, 3))
        >>> sorted(graph.nodes), graph.report.mismatch
        (['0', '1', 'input', 'output'], 0.0)
    """
    if isinstance(module, nn.Module):
        module = named(module, model_name)
    return exported(module, sample_data, dt, steps, on_inexact, target)
