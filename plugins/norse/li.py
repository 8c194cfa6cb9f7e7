"""Norse's leaky integrators, with a synaptic current and without, on our kernel."""

from __future__ import annotations

from typing import Any

import norse.torch as host
from norse.torch.functional.leaky_integrator import LIParameters, LIState
from norse.torch.functional.leaky_integrator_box import LIBoxParameters, LIBoxState
from torch import nn

from spikeloom import neurons

from ..adapter import component, description_of
from .module import SpikeloomCell, SpikeloomSequence
from .native import COUNTERPARTS
from .parameters import FromParameters, begins_at_leak, native_of, tuple_of

__all__ = ["LI", "LIBox", "LIBoxCell", "LICell", "described_li"]


class _LI(FromParameters):
    """Norse's parameter tuple, its states and where they begin."""

    _tuple, _state, _begins_at = LIParameters, LIState, "v_leak"
    _kind = neurons.CubaLI


class _LIBox(FromParameters):
    """Norse's parameter tuple, its state and where it begins."""

    _tuple, _state, _begins_at = LIBoxParameters, LIBoxState, "v_leak"
    _kind = neurons.LI


@component("LI", "C. Pehle and J. E. Pedersen, Norse, 2021, doi:10.5281/zenodo.4422025")
class LICell(_LI, SpikeloomCell):
    """One step of :class:`LI`, a drop-in for ``norse.torch.LICell``.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import LICell
        >>> LICell()(torch.ones(2))[0]
        tensor([0.1000, 0.1000])

    Source: Norse 1.1, ``norse.torch.module.leaky_integrator.LICell``.
    """

    def __init__(
        self,
        p: LIParameters = LIParameters(),
        dt: float = 0.001,
        *,
        implementation: str = "auto",
    ) -> None:
        super().__init__(p, dt, implementation=implementation)


@component("LI", "C. Pehle and J. E. Pedersen, Norse, 2021, doi:10.5281/zenodo.4422025")
class LI(_LI, SpikeloomSequence):
    r"""A leaky integrator behind a synaptic current, a drop-in for ``norse.torch.LI``.

    .. math::
        j[t] &= i[t-1] + x[t] \\
        v[t] &= v[t-1] + \Delta t\,\tau_\mathrm{mem}^{-1}
        \bigl((v_\mathrm{leak} - v[t-1]) + j[t]\bigr) \\
        i[t] &= j[t] - \Delta t\,\tau_\mathrm{syn}^{-1} j[t]

    The output is the potential.

    Outputs and states equal those of ``norse.torch.LI`` to the last bit, for Norse's float32
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
        - Output: ``(potentials, LIState(v, i))``: ``[time, batch, *]`` and ``[batch, *]``, with
          ``record_states`` both ``[time, batch, *]``

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import LI
        >>> LI()(torch.ones(3, 1))[0].flatten()
        tensor([0.1000, 0.2700, 0.4870])

    Source: Norse 1.1, ``norse.torch.module.leaky_integrator.LI``.
    """

    def __init__(
        self,
        p: LIParameters = LIParameters(),
        dt: float = 0.001,
        *,
        record_states: bool = False,
        implementation: str = "auto",
    ) -> None:
        super().__init__(p, dt, record_states=record_states, implementation=implementation)


@component("LI", "C. Pehle and J. E. Pedersen, Norse, 2021, doi:10.5281/zenodo.4422025")
class LIBoxCell(_LIBox, SpikeloomCell):
    """One step of :class:`LIBox`, a drop-in for ``norse.torch.LIBoxCell``.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import LIBoxCell
        >>> LIBoxCell()(torch.ones(2))[0]
        tensor([0.1000, 0.1000])

    Source: Norse 1.1, ``norse.torch.module.leaky_integrator_box.LIBoxCell``.
    """

    def __init__(
        self,
        p: LIBoxParameters = LIBoxParameters(),
        dt: float = 0.001,
        *,
        implementation: str = "auto",
    ) -> None:
        super().__init__(p, dt, implementation=implementation)


@component("LI", "C. Pehle and J. E. Pedersen, Norse, 2021, doi:10.5281/zenodo.4422025")
class LIBox(_LIBox, SpikeloomSequence):
    r"""A leaky integrator, over a sequence; Norse has the cell only, ``norse.torch.LIBoxCell``.

    .. math::
        v[t] = v[t-1] + \Delta t\,\tau_\mathrm{mem}^{-1}
        \bigl((v_\mathrm{leak} - v[t-1]) + x[t]\bigr)

    The output is the potential.

    Outputs and states equal those of ``norse.torch.LIBoxCell`` to the last bit, for Norse's float32
    parameters and inputs; float64 inputs are computed in float64 and 16-bit inputs in float32
    throughout. It begins at ``v_leak``.

    Args:
        p: Norse's parameters, numbers or tensors. A tensor that requires grad is learned: it
            becomes a parameter of the module under its field's name (the same object if it is a
            Parameter). Other tensors of one or more dimensions, per neuron, become buffers.
        dt: Time step in seconds.
        record_states: Return the states after every step instead of the last ones.
        implementation: As for :class:`SpikeloomCell`.

    Shape:
        - Input: ``[time, batch, *]``
        - Output: ``(potentials, LIBoxState(v))``: ``[time, batch, *]`` and ``[batch, *]``, with
          ``record_states`` both ``[time, batch, *]``

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import LIBox
        >>> LIBox()(torch.ones(3, 1))[0].flatten()
        tensor([0.1000, 0.1900, 0.2710])

    Source: Norse 1.1, ``norse.torch.functional.leaky_integrator_box``.
    """

    def __init__(
        self,
        p: LIBoxParameters = LIBoxParameters(),
        dt: float = 0.001,
        *,
        record_states: bool = False,
        implementation: str = "auto",
    ) -> None:
        super().__init__(p, dt, record_states=record_states, implementation=implementation)


@description_of(host.LICell, begins=begins_at_leak)
@description_of(host.LI, begins=begins_at_leak)
def described_li(module: Any) -> neurons.CubaLI:
    """The neuron of a module with the parameter tuple of Norse's LI.

    Args:
        module: Norse's own.
    """
    p = module.p
    return neurons.CubaLI(p.tau_syn_inv, p.tau_mem_inv, p.v_leak, float(module.dt))


@description_of(host.LIBoxCell, begins=begins_at_leak)
def _described_box(module: Any) -> neurons.LI:
    return neurons.LI(module.p.tau_mem_inv, module.p.v_leak, float(module.dt))


@COUNTERPARTS.of(neurons.CubaLI)
def _native(module: Any, over_time: bool) -> nn.Module:
    return native_of(module, tuple_of(module, LIParameters), host.LICell, host.LI, over_time)


@COUNTERPARTS.of(neurons.LI)
def _native_box(module: Any, over_time: bool) -> nn.Module:
    return native_of(module, tuple_of(module, LIBoxParameters), host.LIBoxCell, None, over_time)
