"""Lapicque: snnTorch's neuron of a resistor and a capacitor, also for whole sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import snntorch
import torch
from torch import Tensor, nn

from spikeloom.neurons import Lapicque as LapicqueNeuron

from ..adapter import component, description_of
from .arguments import Called, HostNeuron, as_tensor, put_in_order
from .native import COUNTERPARTS, native_of

__all__ = ["Lapicque"]


class CalledLapicque(Called, LapicqueNeuron):
    """A Lapicque that calls functions of the user."""


@component("LIF", "Eshraghian et al., Proc. IEEE 2023, doi:10.1109/JPROC.2023.3308088")
class Lapicque(HostNeuron):
    r"""snnTorch's ``Lapicque``: the same arguments, spikes, potentials, gradients and state_dict.

    .. math::
        r[t] &= \Theta(\mathrm{mem}[t-1] - \theta) \\
        \mathrm{mem}[t] &= x[t]\,\frac{\Delta t}{C}
        + \Bigl(1 - \frac{\Delta t}{R C}\Bigr)\,\mathrm{mem}[t-1] - r[t]\,\theta \\
        \mathrm{spk}[t] &= \Theta(\mathrm{mem}[t] - \theta)

    (for ``reset_mechanism="subtract"``; see :class:`spikeloom.neurons.Lapicque` for the others.)
    Give ``beta``, from which C (or R) is computed as :math:`\beta = e^{-\Delta t / (R C)}` says, or
    both R and C.

    What differs from snnTorch is what differs for :class:`Leaky`: whole sequences run in one call,
    and states that do not fit are an error.

    Args:
        beta: Decay of the potential.
        R: Resistance; with ``beta`` alone 1.
        C: Capacitance.
        time_step: :math:`\Delta t`.
        threshold: Threshold, positive; a number or a tensor. It fires strictly above.
        spike_grad: As for :class:`Leaky`.
        surrogate_disable: No gradient through spikes; as in snnTorch they do not require grad.
        init_hidden: The states are the module's alone: they are neither passed nor returned.
        inhibition: Not supported; it couples the neurons of a layer.
        learn_beta: Not supported: snnTorch computes C from beta once, and learns nothing after the
            first backward pass.
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
        ValueError: If a value is out of range, or ``inhibition`` is asked for,
            or ``beta``, R and C do not state R and C.

    Example:
        >>> import torch
        >>> from spikeloom.plugins import snntorch
        >>> neuron = snntorch.Lapicque(R=1.0, C=2.0)
        >>> spk, mem = neuron.sequence(torch.full((5, 1, 1), 1.5))
        >>> spk.flatten()
        tensor([0., 1., 0., 0., 1.])

    Source: snnTorch 1.0, ``snntorch.Lapicque``.
    """

    _own, _called = LapicqueNeuron, CalledLapicque
    beta: Tensor
    R: Tensor
    C: Tensor
    time_step: Tensor
    threshold: Tensor

    def __init__(
        self,
        beta: float | Tensor | bool = False,
        R: float | Tensor | bool = False,
        C: float | Tensor | bool = False,
        time_step: float | Tensor = 1,
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
        *,
        time_first: bool = False,
        implementation: str = "auto",
    ) -> None:
        if learn_beta:
            raise ValueError(
                "Lapicque: learn_beta=True learns nothing in snnTorch after the first backward "
                "pass, because C is computed from beta once; learn R or C, given as Parameters, or "
                "take Leaky(beta, learn_beta=True)"
            )
        step = as_tensor("Lapicque: time_step", time_step)
        decay, resistance, capacitance = _circuit(beta, R, C, step)
        super().__init__(
            {
                "R": resistance,
                "C": capacitance,
                "time_step": step,
                "threshold": as_tensor("Lapicque: threshold", threshold, learn_threshold),
                "reset_mechanism": reset_mechanism,
                "graded_spikes_factor": as_tensor("Lapicque: graded_spikes_factor", 1.0),
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
        self.register_buffer("beta", decay)
        put_in_order(self)

    def init_lapicque(self) -> Any:
        """:meth:`reset_mem` under the name that snnTorch's tutorials use."""
        return self.reset_mem()


def _circuit(beta: Any, R: Any, C: Any, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """beta, R and C, of which snnTorch computes those that are not given."""
    given = {
        name: as_tensor(f"Lapicque: {name}", value)
        for name, value in (("beta", beta), ("R", R), ("C", C))
        if value is not False
    }
    if given.keys() == {"R", "C"}:
        decay = torch.exp(torch.ones(1) * (-step / (given["R"] * given["C"]))).detach()
        return decay, given["R"], given["C"]
    if "beta" not in given or len(given) == 3:
        named = ", ".join(given) or "none of them"
        raise ValueError(
            f"Lapicque: give beta, beta with one of R and C, or R and C without beta; got {named}"
        )
    decay = given["beta"]
    if "C" in given:
        return decay, step / (given["C"] * torch.log(1 / decay)), given["C"]
    resistance = given.get("R", torch.ones(()))
    return decay, resistance, step / (resistance * torch.log(1 / decay))


@description_of(snntorch.Lapicque, settings="inhibition=False and state_quant=False")
def _described(module: Any) -> LapicqueNeuron | None:
    if module.inhibition or module.state_quant:
        return None
    return LapicqueNeuron(
        module.R.detach().float(),
        module.C.detach().float(),
        module.time_step.float(),
        module.threshold.detach(),
        module.reset_mechanism,
        graded_spikes_factor=module.graded_spikes_factor.detach(),
    )


@COUNTERPARTS.of(LapicqueNeuron, CalledLapicque)
def _native(module: Any) -> nn.Module:
    return native_of(module, snntorch.Lapicque)
