"""Norse's own neurons in the place of ours."""

from __future__ import annotations

import copy
from typing import Any

import norse.torch as host
import torch
from norse.torch.functional.reset import reset_subtract, reset_value
from torch import Tensor, nn

from spikeloom import neurons
from spikeloom.modules import values_of

from ..native import Differs, NativeNeurons, replaced
from .lif_box import _LIFBox
from .module import SpikeloomCell, SpikeloomSequence
from .threshold import host_form

__all__ = ["to_host"]

RESETS = {"value": reset_value, "subtract": reset_subtract}


def to_host(net: nn.Module, sample: Tensor | None = None, *, cells: bool = False) -> nn.Module:
    """A copy of a network with Norse's own neurons, for what knows only those.

    Norse has one equal to ours, ``norse.torch.LIFBoxCell``, with all parameters, reset and
    threshold methods, and ``dt``. Weights are copied, and so are the values of the parameter
    tuple; a learned one is a Parameter in the tuple, where Norse's modules do not list it. Each
    neuron is run beside ours on random input and on input that meets the threshold, and must fire
    the same spikes. Hooks on replaced neurons stay with the original.

    Args:
        net: The network; it is not changed.
        sample: An input on which the whole networks are compared, as for :func:`to_nir`; None
            compares the neurons only.
        cells: Replace :class:`LIFBox`, of which Norse has no module over time, by Norse's cell:
            the copy then takes one step at each call, ``norse.torch.Lift`` of it sequences.

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


def _build(module: Any) -> nn.Module:
    if isinstance(module, SpikeloomSequence):
        raise Differs(
            "Norse has no LIFBox over time; make it with LIFBoxCell, or say cells=True for a copy "
            "that takes one step at each call"
        )
    return _cell(module)


def _cell(module: Any) -> nn.Module:
    if isinstance(module, _LIFBox):
        return host.LIFBoxCell(module.p, module.dt)
    neuron: Any = module.neuron
    if type(neuron) is not neurons.LIFBox:
        raise Differs(f"Norse has no {neuron.name}")
    method = host_form(neuron.surrogate)
    if method is None:
        raise Differs(f"Norse has no threshold method {neuron.surrogate}")
    values = {name: torch.as_tensor(value) for name, value in values_of(module).items()}
    del values["dt"]
    reset = RESETS[neuron.reset_method]
    p = host.LIFBoxParameters(**values, method=method[0], alpha=method[1], reset_method=reset)
    return host.LIFBoxCell(p, neuron.settings()["dt"])


def _run(module: Any, x: Tensor) -> Tensor:
    module = copy.deepcopy(module)
    if isinstance(module, SpikeloomSequence):
        return module(x)[0]
    state, spikes = None, []
    for now in x:
        y, state = module(now, state)
        spikes.append(y)
    return torch.stack(spikes)


BASE = (SpikeloomCell, SpikeloomSequence)
NATIVE = NativeNeurons("Norse", BASE, _build, _run)
CELLS = NativeNeurons("Norse", BASE, _cell, _run)
