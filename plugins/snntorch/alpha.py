"""Alpha: snnTorch's neuron of two currents, also for whole sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import snntorch
from torch import Tensor, nn

from spikeloom.neurons import Alpha as AlphaNeuron
from spikeloom.neurons.alpha import gain_of

from ..adapter import component, description_of
from ..native import Differs
from .arguments import Called, HostNeuron, as_tensor
from .native import COUNTERPARTS, native_of

__all__ = ["Alpha"]


class CalledAlpha(Called, AlphaNeuron):
    """An Alpha that calls functions of the user."""


@component("alpha function", "Eshraghian et al., Proc. IEEE 2023, doi:10.1109/JPROC.2023.3308088")
class Alpha(HostNeuron):
    r"""snnTorch's ``Alpha``: the same arguments, spikes, states, gradients and state_dict.

    .. math::
        \mathrm{exc}[t] &= \alpha\,\mathrm{exc}[t-1] + x[t],\qquad
        \mathrm{inh}[t] = \beta\,\mathrm{inh}[t-1] - x[t] \\
        \mathrm{mem}[t] &= \Bigl(\frac{\log \alpha}{\log \beta - \log \alpha} + 1\Bigr)
        (\mathrm{exc}[t] + \mathrm{inh}[t]),\qquad
        \mathrm{spk}[t] = \Theta(\mathrm{mem}[t] - \theta)

    (before a reset; see :class:`spikeloom.neurons.Alpha` for those.) ``alpha`` may be learned here;
    snnTorch's own raises an error then.

    What differs from snnTorch is what differs for :class:`Leaky`: whole sequences run in one call,
    and states that do not fit are an error.

    Args:
        alpha: Decay of the excitatory current a step, above ``beta``; a number, or a tensor for one
            value a neuron.
        beta: Decay of the inhibitory current, likewise.
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
        >>> neuron = snntorch.Alpha(alpha=0.9, beta=0.8)
        >>> spk, syn_exc, syn_inh, mem = neuron.sequence(torch.full((5, 1, 1), 2.0))
        >>> spk.flatten()
        tensor([0., 0., 1., 0., 0.])

    Source: snnTorch 1.0, ``snntorch.Alpha``.
    """

    _own, _called = AlphaNeuron, CalledAlpha
    _computed = frozenset({"gain"})
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
        reset_mechanism: str = "zero",
        state_quant: Callable[[Tensor], Tensor] | bool = False,
        output: bool = False,
        *,
        time_first: bool = False,
        implementation: str = "auto",
    ) -> None:
        super().__init__(
            {
                "alpha": as_tensor("Alpha: alpha", alpha, learn_alpha),
                "beta": as_tensor("Alpha: beta", beta, learn_beta),
                "threshold": as_tensor("Alpha: threshold", threshold, learn_threshold),
                "reset_mechanism": reset_mechanism,
                "graded_spikes_factor": as_tensor("Alpha: graded_spikes_factor", 1.0),
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
        # From here on it is computed from the decays, which may learn.
        del self._buffers["gain"]

    @property
    def gain(self) -> Tensor:
        """The factor that gives the potential its height."""
        return gain_of(self.alpha, self.beta)

    def init_alpha(self) -> Any:
        """:meth:`reset_mem` under the name that snnTorch's tutorials use."""
        return self.reset_mem()


@description_of(snntorch.Alpha, written=False)
def _described(module: Any) -> AlphaNeuron | None:
    if module.inhibition or module.state_quant:
        return None
    return AlphaNeuron(
        module.alpha.detach(),
        module.beta.detach(),
        module.threshold.detach(),
        module.reset_mechanism,
        graded_spikes_factor=module.graded_spikes_factor.detach(),
    )


@COUNTERPARTS.of(AlphaNeuron, CalledAlpha)
def _native(module: Any) -> nn.Module:
    if isinstance(getattr(module, "alpha", None), nn.Parameter):
        raise Differs("its alpha is learned, which snnTorch's Alpha announces and then refuses")
    return native_of(module, snntorch.Alpha)
