"""Norse's LIFAdEx, adaptive exponential integrate-and-fire, on our kernel."""

from __future__ import annotations

from typing import Any

import norse.torch as host
from norse.torch.functional.lif_adex import LIFAdExFeedForwardState, LIFAdExParameters
from torch import nn

from spikeloom import neurons

from ..adapter import component, description_of
from .module import SpikeloomCell, SpikeloomSequence
from .native import COUNTERPARTS
from .parameters import FromParameters, begins_at_leak, native_of, tuple_of

__all__ = ["LIFAdEx", "LIFAdExCell"]


VALUES = tuple(name for name in LIFAdExParameters._fields if name not in ("method", "alpha"))


class _LIFAdEx(FromParameters):
    """Norse's parameter tuple, its states and where they begin."""

    _tuple, _state, _begins_at = LIFAdExParameters, LIFAdExFeedForwardState, "v_leak"
    _kind = neurons.AdEx


@component("AdEx", "C. Pehle and J. E. Pedersen, Norse, 2021, doi:10.5281/zenodo.4422025")
class LIFAdExCell(_LIFAdEx, SpikeloomCell):
    """One step of :class:`LIFAdEx`, a drop-in for ``norse.torch.LIFAdExCell``.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import LIFAdExCell
        >>> spikes, state = LIFAdExCell()(torch.tensor([1.0, 20.0]))
        >>> spikes
        tensor([0., 1.])

    Source: Norse 1.1, ``norse.torch.module.lif_adex.LIFAdExCell``.
    """

    def __init__(
        self,
        p: LIFAdExParameters = LIFAdExParameters(),
        dt: float = 0.001,
        *,
        implementation: str = "auto",
    ) -> None:
        super().__init__(p, dt, implementation=implementation)


@component("AdEx", "C. Pehle and J. E. Pedersen, Norse, 2021, doi:10.5281/zenodo.4422025")
class LIFAdEx(_LIFAdEx, SpikeloomSequence):
    r"""Adaptive exponential integrate-and-fire, a drop-in for ``norse.torch.LIFAdEx``.

    :class:`spikeloom.neurons.AdEx` has the equations. Its exponential function and Norse's may
    differ in the last digits, and so may states and, where a potential meets the threshold, spikes.
    It begins at ``v_leak``, without a current or adaptation.

    Args:
        p: Norse's parameters, numbers or tensors. A tensor that requires grad is learned: it
            becomes a parameter of the module under its field's name (the same object if it is a
            Parameter). Other tensors of one or more dimensions, per neuron, become buffers.
        dt: Time step in seconds.
        record_states: Return the states after every step instead of the last ones.
        implementation: As for :class:`SpikeloomCell`.

    Shape:
        - Input: ``[time, batch, *]``
        - Output: ``(spikes, LIFAdExFeedForwardState(v, i, a))``: ``[time, batch, *]`` and
          ``[batch, *]``, with ``record_states`` both ``[time, batch, *]``

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite, or Norse has no such method.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import LIFAdEx
        >>> LIFAdEx()(torch.full((6, 1), 2.0))[0].flatten()
        tensor([0., 0., 1., 0., 1., 0.])

    Source: Norse 1.1, ``norse.torch.module.lif_adex.LIFAdEx``.
    """

    def __init__(
        self,
        p: LIFAdExParameters = LIFAdExParameters(),
        dt: float = 0.001,
        *,
        record_states: bool = False,
        implementation: str = "auto",
    ) -> None:
        super().__init__(p, dt, record_states=record_states, implementation=implementation)


@description_of(host.LIFAdExCell, begins=begins_at_leak, written=False)
@description_of(host.LIFAdEx, begins=begins_at_leak, written=False)
def _described(module: Any) -> neurons.AdEx:
    values = {name: getattr(module.p, name) for name in VALUES}
    return neurons.AdEx(**values, dt=float(module.dt))


@COUNTERPARTS.of(neurons.AdEx)
def _native(module: Any, over_time: bool) -> nn.Module:
    p = tuple_of(module, LIFAdExParameters)
    return native_of(module, p, host.LIFAdExCell, host.LIFAdEx, over_time)
