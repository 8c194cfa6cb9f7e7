"""Leaky: snnTorch's leaky integrate-and-fire neuron, also for whole sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import snntorch
from torch import Tensor, nn

from spikeloom.neurons import Leaky as LeakyNeuron

from ..adapter import component, description_of
from .arguments import Called, HostNeuron, as_tensor
from .native import COUNTERPARTS, native_of

__all__ = ["Leaky"]


class CalledLeaky(Called, LeakyNeuron):
    """A Leaky that calls functions of the user."""


@component("LIF", "Eshraghian et al., Proc. IEEE 2023, doi:10.1109/JPROC.2023.3308088")
class Leaky(HostNeuron):
    r"""snnTorch's ``Leaky``: the same arguments, spikes, potentials, gradients and state_dict.

    .. math::
        r[t] &= \Theta(\mathrm{mem}[t-1] - \theta) \\
        \mathrm{mem}[t] &= \beta\,\mathrm{mem}[t-1] + x[t] - r[t]\,\theta \\
        \mathrm{spk}[t] &= \Theta(\mathrm{mem}[t] - \theta)\,g

    (for ``reset_mechanism="subtract"``; see :class:`spikeloom.neurons.Leaky` for the others.)

    A step without ``mem`` goes on from the neuron's own, as in snnTorch: call
    :func:`spikeloom.plugins.snntorch.reset`, or ``mem = lif.reset_mem()``, before a new batch.

    What differs from snnTorch, on purpose: a whole sequence runs in one call, and without ``mem``
    starts at rest; a ``mem`` that is passed, or kept with ``init_hidden``, and has another shape is
    an error instead of a silent restart; spikes keep the input's dtype; setting
    ``reset_mechanism``, or loading it, takes effect; copies and pickles work after a backward pass;
    and it is no subclass of ``snntorch.Leaky``, so snnTorch's NIR exporter refuses it rather than
    writing a hard reset where there is none. For the same reason ``snntorch.utils.reset`` of
    snnTorch 1.0 does not know it: use :func:`spikeloom.plugins.snntorch.reset`. Nor does the
    deprecated ``snntorch.backprop``, which calls no network that ends in a class it does not know:
    write the training loop out, or train the copy that :func:`spikeloom.plugins.snntorch.to_host`
    makes and load its ``state_dict``.

    Args:
        beta: Decay a step, clamped to [0, 1] in the step; a number, or a tensor for one value a
            neuron.
        threshold: Threshold, positive; a number or a tensor. It fires strictly above.
        spike_grad: One of ``snntorch.surrogate``, or of :mod:`spikeloom.neurons.surrogate`; None
            is ``atan()``. Any other function of ``mem - threshold`` is called as it is, step after
            step (``SSO``, ``custom_surrogate`` and functions of your own).
        surrogate_disable: No gradient through spikes; as in snnTorch they do not require grad.
        init_hidden: ``mem`` is the module's alone: it is neither passed nor returned.
        inhibition: Not supported; it couples the neurons of a layer.
        learn_beta: Learn ``beta``. A Parameter is learned in any case.
        learn_threshold: Learn ``threshold``.
        reset_mechanism: ``"subtract"``, ``"zero"`` or ``"none"``.
        state_quant: A function on ``mem`` after each update, such as
            ``snntorch.functional.quant.state_quant()``; also runs step after step.
        output: With ``init_hidden``, return ``mem`` too.
        graded_spikes_factor: Height of a spike.
        learn_graded_spikes_factor: Learn it.
        reset_delay: False returns ``mem`` after the reset.
        time_first: ``forward`` takes ``[T, batch, *]``, see :class:`SpikingModule`.
        implementation: As for :func:`spikeloom.run`.

    Shape:
        - Input: ``[batch, *]``, or ``[T, batch, *]`` with ``time_first`` and in ``sequence``
        - Output: ``spk`` like the input, ``mem`` ``[batch, *]``

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of range, or ``inhibition`` is asked for.

    Example:
        >>> import torch
        >>> from spikeloom.plugins import snntorch
        >>> lif = snntorch.Leaky(beta=0.5)
        >>> spk, mem = lif.sequence(torch.ones(4, 1, 2))
        >>> spk[:, 0, 0]
        tensor([0., 1., 0., 1.])
        >>> hidden = snntorch.Leaky(beta=0.5, init_hidden=True)
        >>> torch.stack([hidden(torch.ones(1, 2)) for step in range(4)])[:, 0, 0]
        tensor([0., 1., 0., 1.])

    Source: snnTorch 1.0, ``snntorch.Leaky``.
    """

    _own, _called = LeakyNeuron, CalledLeaky
    beta: Tensor
    threshold: Tensor

    def __init__(
        self,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        spike_grad: Any = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "subtract",
        state_quant: Callable[[Tensor], Tensor] | bool = False,
        output: bool = False,
        graded_spikes_factor: float | Tensor = 1.0,
        learn_graded_spikes_factor: bool = False,
        reset_delay: bool = True,
        *,
        time_first: bool = False,
        implementation: str = "auto",
    ) -> None:
        height = as_tensor(
            "Leaky: graded_spikes_factor", graded_spikes_factor, learn_graded_spikes_factor
        )
        super().__init__(
            {
                "beta": as_tensor("Leaky: beta", beta, learn_beta),
                "threshold": as_tensor("Leaky: threshold", threshold, learn_threshold),
                "reset_mechanism": reset_mechanism,
                "reset_delay": reset_delay,
                "graded_spikes_factor": height,
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

    def init_leaky(self) -> Any:
        """:meth:`reset_mem` under the name that snnTorch's tutorials use."""
        return self.reset_mem()


@description_of(
    snntorch.Leaky,
    settings="inhibition=False and state_quant=False",
)
def _leaky(module: Any) -> LeakyNeuron | None:
    if module.inhibition or module.state_quant:
        return None
    return LeakyNeuron(
        module.beta.detach(),
        module.threshold.detach(),
        module.reset_mechanism,
        module.reset_delay,
        graded_spikes_factor=module.graded_spikes_factor.detach(),
    )


@COUNTERPARTS.of(LeakyNeuron, CalledLeaky)
def _native(module: Any) -> nn.Module:
    return native_of(module, snntorch.Leaky, reset_delay=module.neuron.reset_delay)
