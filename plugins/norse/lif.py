"""Norse's LIF, behind a synaptic current, on our kernel."""

from __future__ import annotations

from typing import Any

import norse.torch as host
from norse.torch.functional.lif import LIFFeedForwardState, LIFParameters
from torch import nn

from spikeloom import neurons

from ..adapter import component, description_of
from .module import SpikeloomCell, SpikeloomSequence
from .native import COUNTERPARTS
from .parameters import FromParameters, begins_at_leak, native_of, tuple_of

__all__ = ["LIF", "LIFCell", "described_lif"]


class _LIF(FromParameters):
    """Norse's parameter tuple, its states and where they begin."""

    _tuple, _state, _begins_at = LIFParameters, LIFFeedForwardState, "v_leak"
    _kind = neurons.CubaLIF


@component("LIF", "C. Pehle and J. E. Pedersen, Norse, 2021, doi:10.5281/zenodo.4422025")
class LIFCell(_LIF, SpikeloomCell):
    """One step of :class:`LIF`, a drop-in for ``norse.torch.LIFCell``.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import LIFCell
        >>> spikes, state = LIFCell()(torch.ones(3))
        >>> state
        LIFFeedForwardState(v=tensor([0.1000, 0.1000, 0.1000]), i=tensor([0.8000, 0.8000, 0.8000]))

    Source: Norse 1.1, ``norse.torch.module.lif.LIFCell``.
    """

    def __init__(
        self,
        p: LIFParameters = LIFParameters(),
        dt: float = 0.001,
        *,
        implementation: str = "auto",
    ) -> None:
        super().__init__(p, dt, implementation=implementation)


@component("LIF", "C. Pehle and J. E. Pedersen, Norse, 2021, doi:10.5281/zenodo.4422025")
class LIF(_LIF, SpikeloomSequence):
    r"""Leaky integrate-and-fire behind a synaptic current, a drop-in for ``norse.torch.LIF``.

    .. math::
        j[t] &= i[t-1] + x[t] \\
        h[t] &= v[t-1] + \Delta t\,\tau_\mathrm{mem}^{-1}
        \bigl((v_\mathrm{leak} - v[t-1]) + j[t]\bigr) \\
        s[t] &= \Theta(h[t] - v_\mathrm{th}),\qquad
        v[t] = (1 - s[t])\,h[t] + s[t]\,v_\mathrm{reset},\qquad
        i[t] = j[t] - \Delta t\,\tau_\mathrm{syn}^{-1} j[t]

    Spikes and states equal those of ``norse.torch.LIF`` to the last bit, for Norse's float32
    parameters and inputs; float64 inputs are computed in float64 and 16-bit inputs in float32
    throughout. It begins at ``v_leak`` and without a current.

    Args:
        p: Norse's parameters, numbers or tensors. A tensor that requires grad is learned: it
            becomes a parameter of the module under its field's name (the same object if it is a
            Parameter). Other tensors of one or more dimensions, per neuron, become buffers.
        dt: Time step in seconds.
        record_states: Return the states after every step instead of the last ones.
        implementation: As for :class:`SpikeloomCell`.

    Shape:
        - Input: ``[time, batch, *]``
        - Output: ``(spikes, LIFFeedForwardState(v, i))``: ``[time, batch, *]`` and ``[batch, *]``,
          with ``record_states`` both ``[time, batch, *]``

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite, or Norse has no such method.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import LIF
        >>> spikes, state = LIF()(torch.ones(8, 1))
        >>> spikes.flatten()
        tensor([0., 0., 0., 0., 0., 1., 0., 0.])

    Source: Norse 1.1, ``norse.torch.module.lif.LIF``.
    """

    def __init__(
        self,
        p: LIFParameters = LIFParameters(),
        dt: float = 0.001,
        *,
        record_states: bool = False,
        implementation: str = "auto",
    ) -> None:
        super().__init__(p, dt, record_states=record_states, implementation=implementation)


@description_of(host.LIFCell, begins=begins_at_leak)
@description_of(host.LIF, begins=begins_at_leak)
def described_lif(module: Any) -> neurons.CubaLIF:
    """The neuron of a module with the parameter tuple of Norse's LIF.

    Args:
        module: Norse's own.
    """
    p = module.p
    values = (p.tau_syn_inv, p.tau_mem_inv, p.v_leak, p.v_th, p.v_reset)
    return neurons.CubaLIF(*values, dt=float(module.dt))


@COUNTERPARTS.of(neurons.CubaLIF)
def _native(module: Any, over_time: bool) -> nn.Module:
    return native_of(module, tuple_of(module, LIFParameters), host.LIFCell, host.LIF, over_time)
