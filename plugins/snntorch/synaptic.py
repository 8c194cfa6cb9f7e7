"""Synaptic: snnTorch's neuron behind a synaptic current, also for whole sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import snntorch
from torch import Tensor, nn

from spikeloom.neurons import Synaptic as SynapticNeuron

from ..adapter import component, description_of
from .arguments import Called, HostNeuron, as_tensor
from .native import COUNTERPARTS, native_of

__all__ = ["Synaptic"]


class CalledSynaptic(Called, SynapticNeuron):
    """A Synaptic that calls functions of the user."""


@component("LIF", "Eshraghian et al., Proc. IEEE 2023, doi:10.1109/JPROC.2023.3308088")
class Synaptic(HostNeuron):
    r"""snnTorch's ``Synaptic``: the same arguments, spikes, states, gradients and state_dict.

    .. math::
        r[t] &= \Theta(\mathrm{mem}[t-1] - \theta) \\
        \mathrm{syn}[t] &= \alpha\,\mathrm{syn}[t-1] + x[t] \\
        \mathrm{mem}[t] &= \beta\,\mathrm{mem}[t-1] + \mathrm{syn}[t] - r[t]\,\theta \\
        \mathrm{spk}[t] &= \Theta(\mathrm{mem}[t] - \theta)

    (for ``reset_mechanism="subtract"``; see :class:`spikeloom.neurons.Synaptic` for the others.)

    What differs from snnTorch is what differs for :class:`Leaky`: whole sequences run in one call,
    and states that do not fit are an error.

    Args:
        alpha: Decay of the current a step, clamped to [0, 1] in the step; a number, or a tensor for
            one value a neuron.
        beta: Decay of the potential, likewise.
        threshold: Threshold, positive; a number or a tensor. It fires strictly above.
        spike_grad: As for :class:`Leaky`.
        surrogate_disable: No gradient through spikes; as in snnTorch they do not require grad.
        init_hidden: The states are the module's alone: they are neither passed nor returned.
        inhibition: Not supported; it couples the neurons of a layer.
        learn_alpha: Learn ``alpha``. A Parameter is learned in any case.
        learn_beta: Learn ``beta``.
        learn_threshold: Learn ``threshold``.
        reset_mechanism: ``"subtract"``, ``"zero"`` or ``"none"``.
        state_quant: A function on the states after each update; it runs step after step.
        output: With ``init_hidden``, return the states too.
        reset_delay: False returns ``mem`` after the reset.
        time_first: ``forward`` takes ``[T, batch, *]``, see :class:`SpikingModule`.
        implementation: As for :func:`spikeloom.run`.

    Shape:
        - Input: ``[batch, *]``, or ``[T, batch, *]`` with ``time_first`` and in ``sequence``
        - Output: ``spk`` like the input, states ``[batch, *]``

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range, or ``inhibition`` is asked for.

    Example:
        >>> import torch
        >>> from spikeloom.plugins import snntorch
        >>> neuron = snntorch.Synaptic(alpha=0.5, beta=0.5)
        >>> spk, syn, mem = neuron.sequence(torch.full((4, 1, 1), 0.5))
        >>> spk.flatten()
        tensor([0., 0., 1., 0.])

    Source: snnTorch 1.0, ``snntorch.Synaptic``.
    """

    _own, _called = SynapticNeuron, CalledSynaptic
    alpha: Tensor
    beta: Tensor
    threshold: Tensor

    def __init__(
        self,
        alpha: float | Tensor,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        spike_grad: Any = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_alpha: bool = False,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "subtract",
        state_quant: Callable[[Tensor], Tensor] | bool = False,
        output: bool = False,
        reset_delay: bool = True,
        *,
        time_first: bool = False,
        implementation: str = "auto",
    ) -> None:
        super().__init__(
            {
                "alpha": as_tensor("Synaptic: alpha", alpha, learn_alpha),
                "beta": as_tensor("Synaptic: beta", beta, learn_beta),
                "threshold": as_tensor("Synaptic: threshold", threshold, learn_threshold),
                "reset_mechanism": reset_mechanism,
                "reset_delay": reset_delay,
                "graded_spikes_factor": as_tensor("Synaptic: graded_spikes_factor", 1.0),
            },
            spike_grad=spike_grad,
            surrogate_disable=surrogate_disable,
            inhibition=inhibition,
            state_quant=state_quant,
            init_hidden=init_hidden,
            output=output,
            time_first=time_first,
            implementation=implementation,
        )

    def init_synaptic(self) -> Any:
        """:meth:`reset_mem` under the name that snnTorch's tutorials use."""
        return self.reset_mem()


@description_of(snntorch.Synaptic, settings="inhibition=False and state_quant=False")
def _described(module: Any) -> SynapticNeuron | None:
    if module.inhibition or module.state_quant:
        return None
    return SynapticNeuron(
        module.alpha.detach(),
        module.beta.detach(),
        module.threshold.detach(),
        module.reset_mechanism,
        module.reset_delay,
        graded_spikes_factor=module.graded_spikes_factor.detach(),
    )


@COUNTERPARTS.of(SynapticNeuron, CalledSynaptic)
def _native(module: Any) -> nn.Module:
    return native_of(module, snntorch.Synaptic, reset_delay=module.neuron.reset_delay)
