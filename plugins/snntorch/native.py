"""snnTorch's own neurons in the place of ours."""

from __future__ import annotations

import copy
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.modules import values_of

from ..native import Counterparts, Differs, NativeNeurons, replaced
from .module import SpikingModule
from .surrogate import NoGradient, host_form

__all__ = ["COUNTERPARTS", "native_of", "to_host"]

COUNTERPARTS = Counterparts("snnTorch")


def to_host(net: nn.Module, sample: Tensor | None = None) -> nn.Module:
    """A copy of a network with snnTorch's own neurons, for what knows only those.

    ``snntorch.utils.reset``, ``snntorch.backprop``, snnTorch's NIR exporter and others ask for its
    own classes. So does NeuroBench, which finds no neurons in our modules and says 0 of them; its
    metrics of the copy are those of snnTorch's own. snnTorch has those equal to ours whose names
    they bear, ``Leaky``, ``Synaptic``, ``Alpha``, ``Lapicque`` and ``RLeaky``, with all reset
    mechanisms, surrogates and hidden states, and the parameters that snnTorch can learn; they take
    one step at each call. Weights are copied; the neurons are at rest and learn what they learned.
    Each is run beside ours on random input and on input that meets the threshold, and must fire the
    same spikes. Hooks on replaced neurons stay with the original.

    From here on snnTorch's rules hold: a state of another shape silently starts anew,
    ``surrogate.sigmoid`` yields NaN far below the threshold, and snnTorch's NIR exporter writes
    every reset as a reset to zero; :func:`export_to_nir` tells.

    Args:
        net: The network; it is not changed.
        sample: An input on which the whole networks are compared, as for :func:`export_to_nir`;
            None compares the neurons only.

    Raises:
        NoCounterpart: If snnTorch has no neuron equal to one of ours; all are listed.
        TypeError: If an argument has the wrong type.
        ValueError: If the network cannot be copied, or does not run on the sample.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikeloom.plugins.snntorch import Leaky, to_host
        >>> net = nn.Sequential(nn.Linear(3, 2), Leaky(0.9, init_hidden=True, learn_beta=True))
        >>> native = to_host(net, torch.rand(8, 3))
        >>> native[1], native[1].beta
        (Leaky(), Parameter containing:
        tensor(0.9000, requires_grad=True))
    """
    return replaced(net, sample, NATIVE)


def native_of(module: SpikingModule, cls: type, **settings: Any) -> nn.Module:
    """A neuron of snnTorch's that is called, fires and learns as one of ours.

    It has the learned tensors of ours, which may be tied to others.

    Args:
        module: Ours.
        cls: SnnTorch's class.
        settings: The arguments that are no parameters of the neuron.

    Raises:
        Differs: If snnTorch's cannot.
    """
    if module.time_first:
        raise Differs(
            f"it takes sequences (time_first=True), snnTorch's {cls.__name__} one step at each call"
        )
    taken, values = signature(cls).parameters, values_of(module)
    # What connects a recurrent neuron is its class's own affair.
    own = {name: value for name, value in values.items() if name != "V"}
    learned = {name: value for name, value in own.items() if isinstance(value, nn.Parameter)}
    if unknown := [name for name in learned if f"learn_{name}" not in taken]:
        raise Differs(f"its {unknown[0]} is learned, that of snnTorch's {cls.__name__} is not")
    numbers = {
        name: value.detach() if isinstance(value, Tensor) else value for name, value in own.items()
    }
    given = {name: value for name, value in numbers.items() if name in taken}
    native: Any = cls(
        **{**given, **settings},
        **_gradient(module.neuron),
        **{f"learn_{name}": True for name in learned},
        init_hidden=module.init_hidden,
        output=module.output,
        state_quant=getattr(module.neuron, "state_quant", None) or False,
        reset_mechanism=module.neuron.reset_mechanism,
    )
    if "graded_spikes_factor" not in taken:  # all have it, not all as an argument
        native.graded_spikes_factor = torch.as_tensor(numbers["graded_spikes_factor"])
    for name, value in learned.items():
        setattr(native, name, value)
    return native


def _gradient(neuron: Any) -> dict[str, Any]:
    """How the derivative of a spike is told to snnTorch."""
    if called := getattr(neuron, "spike_grad", None):
        return {"spike_grad": called}
    if isinstance(neuron.surrogate, NoGradient):
        return {"surrogate_disable": True}
    function = host_form(neuron.surrogate)
    if function is None:
        raise Differs(f"snnTorch has no surrogate gradient {neuron.surrogate}")
    return {"spike_grad": function}


def _run(neuron: Any, x: Tensor) -> Tensor:
    neuron = copy.deepcopy(neuron)
    states: tuple[Any, ...] = ()
    spikes = []
    for now in x:
        result = neuron(now, *states)
        y, *rest = result if isinstance(result, tuple) else (result,)
        # Of a recurrent neuron what fired is the first of its states.
        after = result if hasattr(neuron, "recurrent") else tuple(rest)
        states = () if neuron.init_hidden else after
        spikes.append(y)
    return torch.stack(spikes)


NATIVE = NativeNeurons("snnTorch", (SpikingModule,), COUNTERPARTS, _run)
