"""The arguments that snnTorch's neurons share, as attributes and in the state_dict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spikeloom.kernel.vocabulary import detach, with_nan
from spikeloom.neurons.delayed_reset import MECHANISMS, DelayedReset

from .module import SpikingModule
from .surrogate import NoGradient, host_form, recognise

__all__ = ["Called", "HostNeuron", "as_tensor", "put_in_order"]

# snnTorch registers what all its neurons have first, then what each adds.
ORDER = (
    *("threshold", "graded_spikes_factor", "reset_mechanism_val"),
    *("beta", "alpha", "time_step", "R", "C", "V"),
)


class HostNeuron(SpikingModule):
    """A neuron with the arguments of snnTorch's of the same name.

    Args:
        settings: The arguments of the description, without its surrogate.
        spike_grad: The function that fires, or a surrogate; None is ``atan()``.
        surrogate_disable: No gradient through spikes.
        inhibition: Not supported.
        state_quant: A function on the states after each update, or False.
        habits: The arguments of every module.
    """

    # The description, and the one that calls functions of the user.
    _own: ClassVar[Callable[..., DelayedReset]]
    _called: ClassVar[Callable[..., DelayedReset]]

    neuron: DelayedReset
    graded_spikes_factor: Tensor
    reset_mechanism_val: Tensor

    def __init__(
        self,
        settings: dict[str, Any],
        *,
        spike_grad: Any,
        surrogate_disable: bool,
        inhibition: bool,
        state_quant: Callable[[Tensor], Tensor] | bool,
        **habits: Any,
    ) -> None:
        name = type(self).__name__
        if inhibition:
            raise ValueError(
                f"{name}: inhibition=True couples the neurons of a layer, which no fused step can; "
                f"use snntorch.{name} for this layer, they mix freely"
            )
        fires = NoGradient() if surrogate_disable else spike_grad
        super().__init__(self._describe_called(settings, fires, state_quant), **habits)
        mechanism = MECHANISMS.index(settings["reset_mechanism"])
        self.register_buffer("reset_mechanism_val", torch.tensor(mechanism))
        self.register_load_state_dict_post_hook(_follow_loaded_mechanism)
        put_in_order(self)

    @classmethod
    def _describe_called(
        cls, settings: dict[str, Any], spike_grad: Any, state_quant: Any
    ) -> DelayedReset:
        surrogate = recognise(spike_grad)
        if surrogate is None and not callable(spike_grad):
            raise TypeError(
                f"{cls.__name__}: spike_grad must be a surrogate such as "
                f"snntorch.surrogate.atan(), got {spike_grad!r}"
            )
        if state_quant and not callable(state_quant):
            raise TypeError(
                f"{cls.__name__}: state_quant must be a function or False, got {state_quant!r}"
            )
        settings = {**settings, "surrogate": surrogate}
        if surrogate is not None and not state_quant:
            return cls._own(**settings)
        called = spike_grad if surrogate is None else None
        return cls._called(spike_grad=called, state_quant=state_quant or None, **settings)

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


class Called(DelayedReset):
    """Mixin: calls functions of the user, to fire and to quantise its states.

    Args:
        spike_grad: ``mem - threshold`` -> spike, with its own gradient.
        state_quant: ``mem`` -> ``mem``, after each update.
        settings: The arguments of the neuron.
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

    def _charge(self, x: Any, state: tuple[Any, ...], reset: Any, p: Any) -> tuple[Any, ...]:
        return tuple(map(self._quantised, super()._charge(x, state, reset, p)))

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


def as_tensor(name: str, value: Any, learn: bool = False) -> Tensor:
    """A setting as snnTorch keeps it: a Parameter if learned, else a tensor to be a buffer.

    Args:
        name: The class and the argument, for errors.
        value: What a user gave.
        learn: Whether it is learned.
    """
    if isinstance(value, nn.Parameter):
        return value
    try:
        number = not (isinstance(value, Tensor) and value.is_floating_point())
        tensor = torch.as_tensor(value, dtype=torch.get_default_dtype() if number else None)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number or a tensor, got {value!r}") from None
    tensor = tensor.detach()
    return nn.Parameter(tensor) if learn else tensor


def put_in_order(module: nn.Module) -> None:
    """Put parameters and buffers in snnTorch's order, by which an optimiser's state is matched.

    Args:
        module: Theirs.
    """
    registers: tuple[dict[str, Any], ...] = module._parameters, module._buffers
    for kept in registers:
        for name in ORDER:
            if name in kept:
                kept[name] = kept.pop(name)


def _follow_loaded_mechanism(module: HostNeuron, _: Any) -> None:
    if not module.reset_mechanism_val.is_meta:
        number = int(module.reset_mechanism_val)
        if number not in range(len(MECHANISMS)):
            raise ValueError(
                f"{type(module).__name__}: reset_mechanism_val must be 0 (subtract), 1 (zero) or "
                f"2 (none), the loaded state has {number}"
            )
        # The kernel stays if it may: learned values, which it reads, are not judged anew.
        if MECHANISMS[number] != module.reset_mechanism:
            module.reset_mechanism = MECHANISMS[number]
