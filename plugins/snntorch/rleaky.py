"""RLeaky: snnTorch's leaky neuron whose spikes return to it, also for whole sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import snntorch
import torch
from torch import Tensor, nn

from spikeloom.kernel.call import run, run_step
from spikeloom.kernel.lengths import Lengths
from spikeloom.kernel.vocabulary import Surrogate, clamp
from spikeloom.modules import Circuit, register, undescribed
from spikeloom.neurons.delayed_reset import DelayedReset
from spikeloom.neurons.surrogate import ATan
from spikeloom.nn.feedback import run_with_feedback
from spikeloom.nn.layer import checked_threshold

from ..adapter import component
from .arguments import Called, HostNeuron, as_tensor
from .circuits import circuit_of_recurrent
from .conventions import OURS
from .native import COUNTERPARTS, native_of

__all__ = ["RLeaky"]

State = tuple[Tensor, ...]


class AllToAll(DelayedReset):
    """What RLeaky does with an input and with what its spikes have brought back.

    Args:
        beta: Decay a step.
        threshold: Threshold.
        reset_mechanism: ``"subtract"``, ``"zero"`` or ``"none"``.
        reset_delay: False resets in the step that fires.
        surrogate: The derivative of a spike.
        graded_spikes_factor: The height of a spike.
        charge: Further parameters of the charge.
    """

    _inputs = 2

    def __init__(
        self,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        reset_mechanism: str = "subtract",
        reset_delay: bool = True,
        surrogate: Surrogate | None = ATan(),
        graded_spikes_factor: float | Tensor = 1.0,
        **charge: Any,
    ) -> None:
        fires = threshold, reset_mechanism, reset_delay, surrogate, graded_spikes_factor
        super().__init__({"beta": beta, **charge}, ("mem", "spk"), *fires)

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        s, (mem, _) = super()._step(x, state, p)
        return s, (mem, s)

    def _read(self, x: Any, spk: Any, p: Any) -> Any:
        """The input, and what comes back."""
        return x

    def _charge(self, x: Any, state: tuple[Any, ...], reset: Any, p: Any) -> tuple[Any, ...]:
        mem, spk = state
        now, back = self._read(x, spk, p)
        return self._due(clamp(p.beta, 0.0, 1.0) * mem + now + back, reset, p), spk


class OneToOne(AllToAll):
    """The same, each neuron's spike with a weight V back to itself."""

    _inputs = 1

    def _read(self, x: Any, spk: Any, p: Any) -> Any:
        return x, spk * p.V


class CalledAllToAll(Called, AllToAll):
    """An AllToAll that calls functions of the user."""


class CalledOneToOne(Called, OneToOne):
    """A OneToOne that calls functions of the user."""


def _own(**settings: Any) -> DelayedReset:
    return OneToOne(**settings) if "V" in settings else AllToAll(**settings)


def _called(**settings: Any) -> DelayedReset:
    return CalledOneToOne(**settings) if "V" in settings else CalledAllToAll(**settings)


class Times(nn.Module):
    """A weight that is learned, one to one, under its second name in snnTorch's state_dict."""

    def __init__(self, V: Tensor) -> None:
        super().__init__()
        if isinstance(V, nn.Parameter):
            self.V = V


@component("LIF", "Eshraghian et al., Proc. IEEE 2023, doi:10.1109/JPROC.2023.3308088")
class RLeaky(HostNeuron):
    r"""snnTorch's ``RLeaky``: the same arguments, spikes, potentials, gradients and state_dict.

    .. math::
        r[t] &= \Theta(\mathrm{mem}[t-1] - \theta) \\
        \mathrm{mem}[t] &= \beta\,\mathrm{mem}[t-1] + x[t] + V(\mathrm{spk}[t-1]) - r[t]\,\theta \\
        \mathrm{spk}[t] &= \Theta(\mathrm{mem}[t] - \theta)

    (for ``reset_mechanism="subtract"``; ``"zero"`` multiplies all that stands before the reset by
    ``1 - r[t]``.) V is a linear layer ``recurrent``, a convolution ``recurrent``, or one weight
    ``V`` for each neuron.

    :meth:`~SpikingModule.sequence` runs all steps in one call, with one node in autograd's graph,
    for a linear layer (see :class:`spikeloom.Recurrent`) and one to one. A convolution, a
    ``recurrent`` with hooks or of another class, and ``record=True`` all to all take the steps one
    by one.

    For what else differs from snnTorch, on purpose, see :class:`Leaky`.

    Args:
        beta: Decay a step, as for :class:`Leaky`.
        V: The weight, one to one: a number, or a tensor for one value a neuron.
        all_to_all: False connects each neuron with itself only.
        linear_features: How many neurons there are, for a linear layer.
        conv2d_channels: How many channels there are, for a convolution.
        kernel_size: Of the convolution.
        threshold: As for :class:`Leaky`.
        spike_grad: As for :class:`Leaky`.
        surrogate_disable: As for :class:`Leaky`.
        init_hidden: The states are the module's alone: they are neither passed nor returned.
        inhibition: Not supported; it couples the neurons of a layer.
        learn_beta: Learn ``beta``.
        learn_threshold: Learn ``threshold``.
        learn_recurrent: Learn what connects them.
        reset_mechanism: ``"subtract"``, ``"zero"`` or ``"none"``.
        state_quant: As for :class:`Leaky`.
        output: With ``init_hidden``, return ``mem`` too.
        reset_delay: As for :class:`Leaky`.
        time_first: ``forward`` takes ``[T, batch, *]``.
        implementation: As for :func:`spikeloom.run`.
        events_up_to: As for :class:`spikeloom.Recurrent`; 0 has the bits of snnTorch's own product.

    Shape:
        - Input: ``[batch, *]``, or ``[T, batch, *]`` with ``time_first`` and in ``sequence``
        - Output: ``spk`` like the input, ``mem`` ``[batch, *]``

    Raises:
        TypeError: If an argument has the wrong type, or it is not said what connects the neurons.
        ValueError: If a value is out of range, or ``inhibition`` is asked for.

    Example:
        >>> import torch
        >>> from spikeloom.plugins import snntorch
        >>> lif = snntorch.RLeaky(0.5, all_to_all=False, V=-0.5, learn_recurrent=False)
        >>> spk, mem = lif.sequence(torch.ones(6, 1, 2))
        >>> spk[:, 0, 0]
        tensor([0., 1., 0., 1., 0., 1.])

    Source: snnTorch 1.0, ``snntorch.RLeaky``.
    """

    _own, _called = _own, _called
    beta: Tensor
    threshold: Tensor
    recurrent: Any

    def __init__(
        self,
        beta: float | Tensor,
        V: float | Tensor = 1.0,
        all_to_all: bool = True,
        linear_features: int | None = None,
        conv2d_channels: int | None = None,
        kernel_size: int | tuple[int, int] | None = None,
        threshold: float | Tensor = 1.0,
        spike_grad: Any = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        learn_recurrent: bool = True,
        reset_mechanism: str = "subtract",
        state_quant: Callable[[Tensor], Tensor] | bool = False,
        output: bool = False,
        reset_delay: bool = True,
        *,
        time_first: bool = False,
        implementation: str = "auto",
        events_up_to: float | None = None,
    ) -> None:
        _check_connection(all_to_all, linear_features, conv2d_channels, kernel_size)
        settings = {
            "beta": as_tensor("RLeaky: beta", beta, learn_beta),
            "threshold": as_tensor("RLeaky: threshold", threshold, learn_threshold),
            "reset_mechanism": reset_mechanism,
            "reset_delay": reset_delay,
            "graded_spikes_factor": as_tensor("RLeaky: graded_spikes_factor", 1.0),
        }
        if not all_to_all:
            settings["V"] = as_tensor("RLeaky: V", V, learn_recurrent)
        super().__init__(
            settings,
            spike_grad=spike_grad,
            surrogate_disable=surrogate_disable,
            inhibition=inhibition,
            state_quant=state_quant,
            init_hidden=init_hidden,
            output=output,
            time_first=time_first,
            implementation=implementation,
        )
        self.all_to_all = bool(all_to_all)
        self.events_up_to = checked_threshold(events_up_to, "events_up_to")
        if all_to_all:
            self.recurrent = _connection(linear_features, conv2d_channels, kernel_size)
            self.recurrent.requires_grad_(learn_recurrent)
        else:
            self.recurrent = Times(self.V)

    def init_rleaky(self) -> Any:
        """:meth:`reset_mem` under the name that snnTorch's tutorials use."""
        return self.reset_mem()

    def _answer(self, y: Any, after: State) -> Any:
        """As snnTorch's: the spikes are also the first of the states."""
        return (y, after[0]) if self._returns_states else y

    def _call(
        self,
        x: Any,
        state: State | None,
        params: Any,
        steps: bool,
        record: str | None = None,
        lengths: Lengths = None,
    ) -> Any:
        if not self.all_to_all:
            return super()._call(x, state, params, steps, record, lengths)
        if steps:
            return self._step(x, state, params)
        if record is not None or not _is_plain_linear(self.recurrent):
            if lengths is not None:
                raise ValueError(
                    "lengths: RLeaky takes the steps one by one with record=True, with a "
                    "convolution and with hooks on its recurrent layer, and then does not know "
                    "where a sequence ends; run sequences of one length together"
                )
            return self._step_by_step(x, state, params, record is not None)
        return run_with_feedback(
            self.neuron,
            x,
            self.recurrent.weight,
            self.recurrent.bias,
            None if state is None else state[1].to(x.dtype),
            state,
            params=params,
            implementation=self.implementation,
            threshold=self.events_up_to,
            lengths=lengths,
        )

    def _step(self, x: Tensor, state: State | None, params: Any) -> Any:
        """One step of a layer that is connected all to all."""
        spk = torch.zeros_like(x) if state is None else state[1].to(x.dtype)
        back = self.recurrent(spk).to(x.dtype)
        return run_step(
            self.neuron, (x, back), state, params=params, implementation=self.implementation
        )

    def _step_by_step(self, x: Tensor, state: State | None, params: Any, record: bool) -> Any:
        """All steps, each differentiated by autograd; with ``record`` also ``mem`` after each."""
        if not len(x):
            return run(self.neuron, (x, x), state, params=params, record="mem" if record else None)
        spk_rec, mem_rec = [], []
        for now in x:
            y, state = self._step(now, state, params)
            spk_rec.append(y)
            mem_rec.append(state[0])
        spikes = torch.stack(spk_rec)
        return (spikes, state, torch.stack(mem_rec)) if record else (spikes, state)


def _circuit(module: RLeaky) -> Circuit | None:
    return None if module.state_quant else circuit_of_recurrent(module)


# A description says nothing of what connects the neurons.
register(RLeaky, replace(OURS, describe=undescribed, circuit=_circuit))


@COUNTERPARTS.of(AllToAll, CalledAllToAll, OneToOne, CalledOneToOne)
def _native(module: Any) -> nn.Module:
    recurrent, learns = (
        module.recurrent,
        any(p.requires_grad for p in module.recurrent.parameters()),
    )
    how = {
        "all_to_all": module.all_to_all,
        "learn_recurrent": learns,
        "reset_delay": module.neuron.reset_delay,
    }
    if not module.all_to_all:
        native: Any = native_of(module, snntorch.RLeaky, V=recurrent.V.detach(), **how)
        if learns:
            native.recurrent.V = native.V = recurrent.V
        return native
    if isinstance(recurrent, nn.Linear):
        sizes: dict[str, Any] = {"linear_features": recurrent.in_features}
    else:
        sizes = {"conv2d_channels": recurrent.in_channels, "kernel_size": recurrent.kernel_size}
    native = native_of(module, snntorch.RLeaky, **sizes, **how)
    native.recurrent = recurrent
    return native


def _check_connection(all_to_all: Any, features: Any, channels: Any, kernel_size: Any) -> None:
    """Raise unless it is said in one way what connects the neurons."""
    if not all_to_all:
        if features or channels or kernel_size:
            raise TypeError(
                "RLeaky: linear_features, conv2d_channels and kernel_size are for all_to_all=True; "
                "with all_to_all=False give the weight V alone"
            )
    elif features and (channels or kernel_size):
        raise TypeError(
            "RLeaky: give linear_features, or conv2d_channels and kernel_size, not both"
        )
    elif not features and not (channels and kernel_size):
        raise TypeError(
            "RLeaky: all_to_all=True needs linear_features, or conv2d_channels and kernel_size"
        )


def _connection(features: Any, channels: Any, kernel_size: Any) -> nn.Module:
    """What connects the neurons, as snnTorch makes it."""
    if features:
        return nn.Linear(features, features)
    sizes = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    padding = (sizes[0] // 2, sizes[1] // 2)
    return nn.Conv2d(channels, channels, kernel_size, padding=padding)


def _is_plain_linear(module: nn.Module) -> bool:
    """Whether a module is torch's linear layer without hooks on its calls."""
    forward = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    backward = module._backward_hooks or module._backward_pre_hooks
    return type(module) is nn.Linear and not forward and not backward
