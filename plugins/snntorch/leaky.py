"""Leaky: snnTorch's leaky integrate-and-fire neuron, also for whole sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import snntorch
import torch
from torch import Tensor, nn

from spikeloom.kernel.vocabulary import detach, with_nan
from spikeloom.neurons import Leaky as LeakyNeuron

from ..adapter import component, description_of
from .module import SpikingModule
from .native import COUNTERPARTS, settings_of, with_learned
from .surrogate import NoGradient, host_form, recognise

__all__ = ["Leaky"]

# The number under which a state_dict keeps the mechanism.
MECHANISMS = ("subtract", "zero", "none")


@component("LIF", "Eshraghian et al., Proc. IEEE 2023, doi:10.1109/JPROC.2023.3308088")
class Leaky(SpikingModule):
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

    neuron: LeakyNeuron
    graded_spikes_factor: Tensor
    reset_mechanism_val: Tensor

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
        if inhibition:
            raise ValueError(
                "Leaky: inhibition=True couples the neurons of a layer, which no fused step can; "
                "use snntorch.Leaky for this layer, they mix freely"
            )
        settings = {
            "beta": _tensor("beta", beta, learn_beta),
            "threshold": _tensor("threshold", threshold, learn_threshold),
            "reset_mechanism": reset_mechanism,
            "reset_delay": reset_delay,
            "graded_spikes_factor": _tensor(
                "graded_spikes_factor", graded_spikes_factor, learn_graded_spikes_factor
            ),
        }
        super().__init__(
            _describe(settings, NoGradient() if surrogate_disable else spike_grad, state_quant),
            init_hidden=init_hidden,
            output=output,
            time_first=time_first,
            implementation=implementation,
        )
        self.register_buffer("reset_mechanism_val", torch.tensor(MECHANISMS.index(reset_mechanism)))
        self.register_load_state_dict_post_hook(_follow_loaded_mechanism)

    @property
    def reset_mechanism(self) -> str:
        """How a spike resets the membrane potential; may be set."""
        return self.neuron.reset_mechanism

    @reset_mechanism.setter
    def reset_mechanism(self, mechanism: str) -> None:
        self.neuron = self.neuron.replace(reset_mechanism=mechanism)
        self.reset_mechanism_val.fill_(MECHANISMS.index(mechanism))

    # The kernel is made for these: they can be read, and setting one raises.

    @property
    def reset_delay(self) -> bool:
        """Whether a reset takes effect at the next step."""
        return self.neuron.reset_delay

    @property
    def spike_grad(self) -> Any:
        """The function that fires, as snnTorch takes it; our surrogate if snnTorch has none."""
        called = getattr(self.neuron, "spike_grad", None)
        return called or host_form(self.neuron.surrogate) or self.neuron.surrogate

    @property
    def surrogate_disable(self) -> bool:
        """Whether no gradient passes a spike."""
        return isinstance(self.neuron.surrogate, NoGradient)

    @property
    def state_quant(self) -> Any:
        """The function that quantises the membrane potential, or False."""
        return getattr(self.neuron, "state_quant", None) or False

    @property
    def inhibition(self) -> bool:
        """False."""
        return False

    def init_leaky(self) -> Any:
        """:meth:`reset_mem` under the name that snnTorch's tutorials use."""
        return self.reset_mem()


class CalledLeaky(LeakyNeuron):
    """A Leaky that calls functions of the user: to fire, and to quantise its state.

    Args:
        spike_grad: ``mem - threshold`` -> spike, with its own gradient.
        state_quant: ``mem`` -> ``mem``, after each update.
        settings: The arguments of :class:`spikeloom.neurons.Leaky`.
    """

    def __init__(
        self,
        *,
        spike_grad: Callable[[Any], Any] | None = None,
        state_quant: Callable[[Any], Any] | None = None,
        **settings: Any,
    ) -> None:
        self.spike_grad = spike_grad
        self.state_quant = state_quant
        super().__init__(**settings)

    def _reset(self, mem: Any, p: Any) -> Any:
        if self.spike_grad is None:
            return super()._reset(mem, p)
        return detach(self.spike_grad(mem - p.threshold))

    def _fire(self, mem: Any, p: Any) -> Any:
        # snnTorch quantises once when it updates and once more when it fires.
        mem = self._quantised(mem)
        if self.spike_grad is None:
            return super()._fire(mem, p)
        u = mem - p.threshold
        return with_nan(self.spike_grad(u), u)

    def _charge(self, x: Any, mem: Any, reset: Any, p: Any) -> Any:
        return self._quantised(super()._charge(x, mem, reset, p))

    def response(self, values: Any) -> Any:
        """The filter below the threshold, of a state that is not quantised."""
        return super().response(values)

    def _quantised(self, mem: Any) -> Any:
        return mem if self.state_quant is None else self.state_quant(mem)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this neuron."""
        called = {"spike_grad": self.spike_grad, "state_quant": self.state_quant}
        settings = {**super().settings(), **called}
        # It has no say beside the function that is called.
        del settings["surrogate" if self.spike_grad else "spike_grad"]
        return settings


def _describe(settings: dict[str, Any], spike_grad: Any, state_quant: Any) -> LeakyNeuron:
    surrogate = recognise(spike_grad)
    if surrogate is None and not callable(spike_grad):
        raise TypeError(
            f"Leaky: spike_grad must be a surrogate such as snntorch.surrogate.atan(), "
            f"got {spike_grad!r}"
        )
    if state_quant and not callable(state_quant):
        raise TypeError(f"Leaky: state_quant must be a function or False, got {state_quant!r}")
    settings = {**settings, "surrogate": surrogate}
    if surrogate is not None and not state_quant:
        return LeakyNeuron(**settings)
    called = spike_grad if surrogate is None else None
    return CalledLeaky(spike_grad=called, state_quant=state_quant or None, **settings)


def _tensor(name: str, value: Any, learn: bool) -> Tensor:
    """A setting as snnTorch keeps it: a Parameter if learned, else a tensor to be a buffer."""
    if isinstance(value, nn.Parameter):
        return value
    try:
        number = not (isinstance(value, Tensor) and value.is_floating_point())
        tensor = torch.as_tensor(value, dtype=torch.get_default_dtype() if number else None)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"Leaky: {name} must be a number or a tensor, got {value!r}") from None
    tensor = tensor.detach()
    return nn.Parameter(tensor) if learn else tensor


def _follow_loaded_mechanism(module: Leaky, _: Any) -> None:
    if not module.reset_mechanism_val.is_meta:
        number = int(module.reset_mechanism_val)
        if number not in range(len(MECHANISMS)):
            raise ValueError(
                f"Leaky: reset_mechanism_val must be 0 (subtract), 1 (zero) or 2 (none), "
                f"the loaded state has {number}"
            )
        # The kernel stays if it may: learned values, which it reads, are not judged anew.
        if MECHANISMS[number] != module.reset_mechanism:
            module.reset_mechanism = MECHANISMS[number]


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
def _native(module: SpikingModule) -> nn.Module:
    neuron: Any = module.neuron
    native = snntorch.Leaky(
        **settings_of(module),
        reset_mechanism=neuron.reset_mechanism,
        reset_delay=neuron.reset_delay,
        state_quant=getattr(neuron, "state_quant", None) or False,
    )
    return with_learned(native, module)
