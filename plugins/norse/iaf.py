"""Norse's IAF, integrate-and-fire without a leak, on our kernel."""

from __future__ import annotations

from typing import Any

import norse.torch as host
from norse.torch.functional.iaf import IAFFeedForwardState, IAFParameters
from torch import nn

from spikeloom import neurons

from ..adapter import component, description_of
from .module import SpikeloomCell, SpikeloomSequence
from .native import COUNTERPARTS
from .parameters import FromParameters, native_of, tuple_of
from .threshold import surrogate_of

__all__ = ["IAF", "IAFCell"]


class _IAF(FromParameters):
    """Norse's parameter tuple, its state and where it begins."""

    _tuple, _state, _begins_at = IAFParameters, IAFFeedForwardState, "v_reset"
    _learns_beginning = True

    @classmethod
    def _description(cls, values: dict[str, Any], dt: Any, **fire: Any) -> neurons.IAF:
        return neurons.IAF(**values, surrogate=surrogate_of(fire["method"], fire["alpha"]))


@component("IF", "C. Pehle and J. E. Pedersen, Norse, 2021, doi:10.5281/zenodo.4422025")
class IAFCell(_IAF, SpikeloomCell):
    """One step of :class:`IAF`, a drop-in for ``norse.torch.IAFCell``.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import IAFCell
        >>> spikes, state = IAFCell()(torch.tensor([0.5, 1.5]))
        >>> spikes, state
        (tensor([0., 1.]), IAFFeedForwardState(v=tensor([0.5000, 0.0000])))

    Source: Norse 1.1, ``norse.torch.module.iaf.IAFCell``.
    """

    def __init__(
        self,
        p: IAFParameters = IAFParameters(),
        dt: float = 0.001,
        *,
        implementation: str = "auto",
    ) -> None:
        super().__init__(p, dt, implementation=implementation)


@component("IF", "C. Pehle and J. E. Pedersen, Norse, 2021, doi:10.5281/zenodo.4422025")
class IAF(_IAF, SpikeloomSequence):
    r"""Integrate-and-fire without a leak, a drop-in for ``norse.torch.IAF``.

    .. math::
        h[t] = v[t-1] + x[t],\qquad s[t] = \Theta(h[t] - v_\mathrm{th}),\qquad
        v[t] = (1 - s[t])\,h[t] + s[t]\,v_\mathrm{reset}

    Spikes and potentials equal those of ``norse.torch.IAF`` to the last bit, for Norse's float32
    parameters and inputs; float64 inputs are computed in float64 and 16-bit inputs in float32
    throughout. It begins at ``v_reset``.

    Args:
        p: Norse's parameters, numbers or tensors. A tensor that requires grad is learned: it
            becomes a parameter of the module under its field's name (the same object if it is a
            Parameter). Other tensors of one or more dimensions, per neuron, become buffers.
        dt: Time step in seconds, without effect, as in Norse.
        record_states: Return the states after every step instead of the last ones.
        implementation: As for :class:`SpikeloomCell`.

    Shape:
        - Input: ``[time, batch, *]``
        - Output: ``(spikes, IAFFeedForwardState(v))``: ``[time, batch, *]`` and ``[batch, *]``,
          with ``record_states`` both ``[time, batch, *]``

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite, or Norse has no such method.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import IAF
        >>> IAF()(torch.full((4, 1), 0.75))[0].flatten()
        tensor([0., 1., 0., 1.])

    Source: Norse 1.1, ``norse.torch.module.iaf.IAF``.
    """

    def __init__(
        self,
        p: IAFParameters = IAFParameters(),
        dt: float = 0.001,
        *,
        record_states: bool = False,
        implementation: str = "auto",
    ) -> None:
        super().__init__(p, dt, record_states=record_states, implementation=implementation)


@description_of(host.IAFCell, begins=lambda cell, neuron: neuron.params["v_reset"])
@description_of(host.IAF, begins=lambda module, neuron: neuron.params["v_reset"])
def _described(module: Any) -> neurons.IAF:
    return neurons.IAF(module.p.v_th, module.p.v_reset)


@COUNTERPARTS.of(neurons.IAF)
def _native(module: Any, over_time: bool) -> nn.Module:
    return native_of(module, tuple_of(module, IAFParameters), host.IAFCell, host.IAF, over_time)
