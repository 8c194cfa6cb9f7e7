"""Norse's LIFBox: leaky integrate-and-fire without a synaptic current, on our kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import norse.torch as host
import torch
from norse.torch.functional.lif_box import LIFBoxFeedForwardState, LIFBoxParameters
from norse.torch.functional.reset import reset_subtract, reset_value
from torch import Tensor, nn

from spikeloom import neurons
from spikeloom.kernel.call import COMPUTED, run_step
from spikeloom.kernel.neuron import Neuron
from spikeloom.kernel.promotion import promoted

from ..adapter import component, description_of
from .module import SpikeloomCell, SpikeloomSequence, checked, expanded, fitted
from .native import COUNTERPARTS
from .parameters import FromParameters, cut, native_of, number_of, require_tuple, tuple_of
from .threshold import surrogate_of

__all__ = ["LIFBox", "LIFBoxCell", "lif_box_feed_forward_step"]

_VALUES = ("tau_mem_inv", "v_leak", "v_th", "v_reset")
_RESETS = {reset_value: "value", reset_subtract: "subtract"}


class _OwnReset(Neuron):
    """LIFBox with a reset method that is neither of Norse's two, and no LIFBox to others."""

    rules = neurons.LIFBox.rules
    unit = neurons.LIFBox.unit

    def __init__(self, reset_method: Callable[..., Any], **settings: Any) -> None:
        if not callable(reset_method):
            raise ValueError(
                f"p.reset_method: must be a function (z, v, v_reset, v_th), got {reset_method!r}"
            )
        self._reset_method = reset_method
        self._box = neurons.LIFBox(**settings)
        super().__init__(
            self._step, state=self._box.rest, params=self._box.params, name="LIFBoxOwnReset"
        )

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        h, s = self._box.charge_and_fire(x, state, p)
        return s, (self._reset_method(s, h, p.v_reset, p.v_th),)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        return {**self._box.settings(), "reset_method": self._reset_method}


class _LIFBox(FromParameters):
    """Norse's parameter tuple, its state and its initial potential."""

    _tuple, _state, _begins_at = LIFBoxParameters, LIFBoxFeedForwardState, "v_leak"

    @classmethod
    def _description(cls, values: dict[str, Any], dt: Any, **fire: Any) -> Neuron:
        return _described(values, dt, **fire)


@component("LIF", "C. Pehle and J. E. Pedersen, Norse, 2021, doi:10.5281/zenodo.4422025")
class LIFBoxCell(_LIFBox, SpikeloomCell):
    r"""One step of :class:`LIFBox`, a drop-in for ``norse.torch.LIFBoxCell``.

    Args:
        p: Norse's parameters, as for :class:`LIFBox`.
        dt: Time step in seconds.
        implementation: As for :class:`SpikeloomCell`.

    Shape:
        - Input: ``[batch, *]``
        - Output: ``(spikes, LIFBoxFeedForwardState(v))``, both ``[batch, *]``

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite, or Norse has no such method.

    Example:
        >>> import torch
        >>> from norse.torch import LIFBoxParameters
        >>> from spikeloom.plugins.norse import LIFBoxCell
        >>> cell = LIFBoxCell(LIFBoxParameters(tau_mem_inv=torch.tensor(500.0)))
        >>> spikes, state = cell(torch.ones(3))
        >>> state
        LIFBoxFeedForwardState(v=tensor([0.5000, 0.5000, 0.5000]))

    Source: Norse 1.1, ``norse.torch.module.lif_box.LIFBoxCell``.
    """

    def __init__(
        self,
        p: LIFBoxParameters = LIFBoxParameters(),
        dt: float = 0.001,
        *,
        implementation: str = "auto",
    ) -> None:
        super().__init__(p, dt, implementation=implementation)


@component("LIF", "C. Pehle and J. E. Pedersen, Norse, 2021, doi:10.5281/zenodo.4422025")
class LIFBox(_LIFBox, SpikeloomSequence):
    r"""Leaky integrate-and-fire without a synaptic current, over a sequence.

    .. math::
        h[t] &= v[t-1] + \Delta t\,\tau_\mathrm{mem}^{-1}
        \bigl((x[t] + v_\mathrm{leak}) - v[t-1]\bigr) \\
        s[t] &= \Theta(h[t] - v_\mathrm{th}),\qquad
        v[t] = \mathrm{reset}(s[t], h[t], v_\mathrm{reset}, v_\mathrm{th})

    Spikes and potentials equal those of ``norse.torch.LIFBoxCell`` to the last bit, for Norse's
    float32 parameters and inputs; float64 inputs are computed in float64 and 16-bit inputs in
    float32 throughout. Values may be plain numbers too: they are computed like float32 tensors,
    where Norse multiplies a number by ``dt`` in float64. It begins at ``v_leak``.

    Every ``method`` of Norse has a kernel with the surrogate derivative that the installed Norse
    computes, or runs eager if that is unknown; so does a ``reset_method`` of your own, which is
    called as ``reset_method(z, v, v_reset, v_th)``. What runs, and why, is in
    ``implementation_reason`` and in the module's repr.

    Args:
        p: Norse's parameters. A tensor that requires grad is learned: it becomes a parameter of
            the module under its field's name (the same object if it is a Parameter). Other
            tensors of one or more dimensions, per neuron, become buffers.
        dt: Time step in seconds.
        record_states: Return the potential after every step instead of the last one.
        implementation: As for :class:`SpikeloomCell`.

    Shape:
        - Input: ``[time, batch, *]``
        - Output: ``(spikes, LIFBoxFeedForwardState(v))``: ``[time, batch, *]`` and
          ``[batch, *]``, with ``record_states`` both ``[time, batch, *]``

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range or not finite, or Norse has no such method.

    Example:
        >>> import torch
        >>> from norse.torch import LIFBoxParameters
        >>> from spikeloom.plugins.norse import LIFBox
        >>> lif = LIFBox(LIFBoxParameters(tau_mem_inv=torch.tensor(500.0)), record_states=True)
        >>> spikes, state = lif(torch.full((4, 1), 1.5))
        >>> spikes.flatten(), state.v.flatten()
        (tensor([0., 1., 0., 1.]), tensor([0.7500, 0.0000, 0.7500, 0.0000]))

    Source: Norse 1.1, ``norse.torch.functional.lif_box``.
    """

    def __init__(
        self,
        p: LIFBoxParameters = LIFBoxParameters(),
        dt: float = 0.001,
        *,
        record_states: bool = False,
        implementation: str = "auto",
    ) -> None:
        super().__init__(p, dt, record_states=record_states, implementation=implementation)


def lif_box_feed_forward_step(
    input_tensor: Tensor,
    state: LIFBoxFeedForwardState | None = None,
    p: LIFBoxParameters = LIFBoxParameters(),
    dt: float = 0.001,
) -> tuple[Tensor, LIFBoxFeedForwardState]:
    """One step without a module, a drop-in for Norse's function of the same name.

    Gradients flow to every tensor of ``p`` and of the state. With
    ``norse.torch.functional.lift.lift`` it runs over time; :class:`LIFBox` does so faster, and
    compiles into one graph, which the step does not.

    Args:
        input_tensor: Input current, ``[batch, *]``.
        state: The potential before the step; None is ``v_leak``.
        p: Norse's parameters.
        dt: Time step in seconds.

    Returns:
        Spikes and the state after the step, both ``[batch, *]``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a shape does not fit, or Norse has no such method.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import lif_box_feed_forward_step
        >>> spikes, state = lif_box_feed_forward_step(torch.tensor([5.0, 15.0]))
        >>> spikes, state.v
        (tensor([0., 1.]), tensor([0.5000, 0.0000]))
    """
    require_tuple(p, LIFBoxParameters)
    values = {name: getattr(p, name) for name in _VALUES}
    x = promoted(checked(input_tensor), lambda: values)
    values = {name: _placed(value, x) for name, value in values.items()}
    neuron = _shared(p.method, p.alpha, p.reset_method, *map(_rank, values.values()))
    leak = cut(values["v_leak"])
    start = expanded([leak], x, x.shape) if state is None else fitted(neuron, state, x, x.shape)
    y, last = run_step(neuron, x, start, params={**values, "dt": dt})
    return y, LIFBoxFeedForwardState(*last)


@torch.compiler.disable
def _shared(method: str, alpha: Any, reset_method: Any, *ranks: int | None) -> Neuron:
    """The description of all steps whose values have these ranks; None is a plain number."""
    return _template(method, number_of(alpha), reset_method, *ranks)


@functools.lru_cache(maxsize=64)
def _template(method: str, alpha: Any, reset_method: Any, *ranks: int | None) -> Neuron:
    values = (1.0 if rank is None else torch.ones((1,) * rank) for rank in ranks)
    named = dict(zip(_VALUES, values, strict=True))
    return _described(named, 0.001, method, alpha, reset_method)


def _described(
    values: dict[str, Any], dt: Any, method: str, alpha: Any, reset_method: Any
) -> Neuron:
    settings = {**values, "surrogate": surrogate_of(method, alpha), "dt": number_of(dt)}
    if reset_method in _RESETS:
        return neurons.LIFBox(reset_method=_RESETS[reset_method], **settings)
    return _OwnReset(reset_method, **settings)


def _placed(value: Any, x: Tensor) -> Any:
    """A single number takes the input's device and precision, as torch has it."""
    if isinstance(value, Tensor) and value.dim() == 0:
        return value.to(x.device, COMPUTED.get(x.dtype, x.dtype))
    return value


def _rank(value: Any) -> int | None:
    return min(value.dim(), 1) if isinstance(value, Tensor) else None


@description_of(
    host.LIFBoxCell,
    begins=lambda cell, neuron: neuron.params["v_leak"],
    settings="reset_value or reset_subtract as its reset method",
)
def _lif_box(cell: Any) -> Neuron | None:
    p = cell.p
    method = _RESETS.get(p.reset_method)
    if method is None:
        return None
    return neurons.LIFBox(p.tau_mem_inv, p.v_leak, p.v_th, p.v_reset, method, dt=float(cell.dt))


@COUNTERPARTS.of(neurons.LIFBox, _OwnReset)
def _native(module: Any, over_time: bool) -> nn.Module:
    resets = {name: function for function, name in _RESETS.items()}
    reset = resets.get(getattr(module.neuron, "reset_method", ""))
    p = tuple_of(module, LIFBoxParameters, reset_method=reset)
    return native_of(module, p, host.LIFBoxCell, None, over_time)
