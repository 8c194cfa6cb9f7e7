"""Norse's own neurons in the place of ours."""

from __future__ import annotations

import copy
from typing import Any

import torch
from norse.torch.module.snn import SNN, SNNRecurrent
from torch import Tensor, nn

from ..native import Counterparts, NativeNeurons, replaced
from .module import SpikeloomCell, SpikeloomSequence

__all__ = ["COUNTERPARTS", "to_host"]

# Each is a function of a module and of whether it runs over time.
COUNTERPARTS = Counterparts("Norse")


def to_host(net: nn.Module, sample: Tensor | None = None, *, cells: bool = False) -> nn.Module:
    """A copy of a network with Norse's own neurons, for what knows only those.

    Norse has those equal to ours whose names they bear: ``LIF``, ``LIFAdEx``, ``LI``, ``IAF`` and
    ``LIFRecurrent``, their cells, ``LIBoxCell`` and ``LIFBoxCell``, with all parameters, reset and
    threshold methods, and ``dt``. Weights are copied, and so are the values of the parameter tuple;
    a learned one is a Parameter in the tuple, where Norse's modules do not list it. Each neuron is
    run beside ours on random input and on input that meets the threshold, and must fire the same
    spikes. Hooks on replaced neurons stay with the original.

    Args:
        net: The network; it is not changed.
        sample: An input on which the whole networks are compared, as for :func:`to_nir`; None
            compares the neurons only.
        cells: Replace modules over time by Norse's cells, as :class:`LIFBox` and :class:`LIBox`
            need it, of which Norse has no other: the copy then takes one step at each call,
            ``norse.torch.Lift`` of it sequences.

    Raises:
        NoCounterpart: If Norse has no neuron equal to one of ours; all are listed.
        TypeError: If an argument has the wrong type.
        ValueError: If the network cannot be copied, or does not run on the sample.

    Example:
        >>> import torch
        >>> import norse.torch as snn
        >>> from spikeloom.plugins.norse import LIFBoxCell, to_host
        >>> net = snn.SequentialState(torch.nn.Linear(3, 2), LIFBoxCell(dt=0.002))
        >>> native = to_host(net, 20 * torch.rand(8, 3))
        >>> type(native[1]).__module__, native[1].dt
        ('norse.torch.module.lif_box', 0.002)
    """
    return replaced(net, sample, CELLS if cells else NATIVE, cells)


def _run(module: Any, x: Tensor) -> Tensor:
    module = copy.deepcopy(module)
    if isinstance(module, (SpikeloomSequence, SNN, SNNRecurrent)):
        return module(x)[0]
    state, spikes = None, []
    for now in x:
        y, state = module(now, state)
        spikes.append(y)
    return torch.stack(spikes)


def _build(module: Any) -> nn.Module:
    return COUNTERPARTS(module, isinstance(module, SpikeloomSequence))


def _cell(module: Any) -> nn.Module:
    return COUNTERPARTS(module, False)


BASE = (SpikeloomCell, SpikeloomSequence)
NATIVE = NativeNeurons("Norse", BASE, _build, _run)
CELLS = NativeNeurons("Norse", BASE, _cell, _run)
