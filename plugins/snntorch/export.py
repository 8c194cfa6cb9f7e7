"""snnTorch's own NIR export call, made with our exporter."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..example import example_of
from ..exchange import exported, named

__all__ = ["export_to_nir"]

# snnTorch knows no other time step.
DT = 1e-4


def export_to_nir(
    module: nn.Module,
    sample_data: Tensor,
    model_name: str = "snntorch",
    model_fwd_args: Sequence[Any] = (),
    ignore_dims: Sequence[int] = (),
    *,
    on_inexact: str = "raise",
    target: str = "portable",
    steps: int = 50,
) -> Any:
    """``snntorch.export_nir.export_to_nir`` for our neurons and snnTorch's own.

    The same call, with :func:`spikeloom.export.to_nir` behind it: the graph is written to a file,
    read back and compared with the network. What snnTorch's exporter writes wrongly (a reset by
    subtraction, or none) or cannot write (``beta`` and ``threshold`` as single numbers) is refused
    or written. snnTorch's ``import_from_nir`` reads the graph; ``nir.write`` saves it. The time
    step is 1e-4 s, the only one that snnTorch knows.

    Args:
        module: The network, of our neurons, snnTorch's own, or both.
        sample_data: One step, ``[batch, *]`` or without a batch ``[*]``; ``[T, batch, *]`` for a
            network that takes sequences (``time_first``, or a time loop over them in its
            ``forward``). The comparison is made on it, so it should make the network spike.
        model_name: The node's name, if the network is a single module.
        model_fwd_args: Further arguments of the network's ``forward``.
        ignore_dims: Axes of ``sample_data`` that are no part of a neuron's shape. Time and batch
            are found without it; others cannot be left out.
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
        ValueError: If an argument has a wrong value, or the network does not run on the sample.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikeloom.plugins.snntorch import Leaky, export_to_nir
        >>> lif = Leaky(beta=0.5, reset_mechanism="zero", init_hidden=True)
        >>> graph = export_to_nir(nn.Sequential(nn.Linear(3, 2), lif), 4 * torch.rand(3))
        >>> sorted(graph.nodes), graph.report.mismatch
        (['0', '1', 'input', 'output'], 0.0)
    """
    if isinstance(module, nn.Module):
        module = named(_called_with(module, model_fwd_args), model_name)
    _check_dims(module, sample_data, ignore_dims, steps)
    return exported(module, sample_data, DT, steps, on_inexact, target)


def _called_with(net: nn.Module, arguments: Sequence[Any]) -> nn.Module:
    """The network with all arguments of its forward but the first given."""
    if not arguments:
        return net
    names = list(inspect.signature(net.forward).parameters)[1:]
    if len(arguments) > len(names):
        raise ValueError(
            f"model_fwd_args: forward takes {len(names)} more arguments, got {len(arguments)}"
        )
    bound = copy.copy(net)
    bound.forward = functools.partial(bound.forward, **dict(zip(names, arguments, strict=False)))
    return bound


def _check_dims(net: nn.Module, sample: Tensor, dims: Sequence[int], steps: int) -> None:
    """Raise if an axis of a signal itself is to be left out."""
    if not dims:
        return
    leading = example_of(net, sample, steps).leading
    if not {dim % sample.dim() for dim in dims} <= set(range(leading)):
        raise ValueError(
            f"ignore_dims: NIR leaves out time and batch, the first {leading} axes of a sample "
            f"{list(sample.shape)} of this network; got {list(dims)}"
        )
