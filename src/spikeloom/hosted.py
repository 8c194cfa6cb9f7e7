"""How a neuron module of any framework is made, run and put back to rest.

A recipe, a model or an imported graph takes ``make=``, a function from a neuron to a module, such
as ``plugins.<host>.make``. The modules differ in their manners: some take one step unless told
otherwise, some keep their state, some return it beside the spikes. All of that is settled here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from spikeloom.kernel.neuron import Neuron

__all__ = ["Make", "copied", "made", "output_of", "spikes_from_rest", "to_rest"]

Make = Callable[[Neuron], nn.Module]


def copied(name: str, net: nn.Module) -> nn.Module:
    """A deep copy of a network.

    Args:
        name: The argument, for errors.
        net: The network.

    Raises:
        ValueError: If torch cannot copy it, because a tensor in it has a graph.
    """
    try:
        return copy.deepcopy(net)
    except RuntimeError as error:
        raise ValueError(
            f"{name}: cannot be copied; reset its neurons' states first, and make torch's pruning "
            f"or weight normalisation permanent (torch.nn.utils.prune.remove, "
            f"torch.nn.utils.remove_weight_norm): {error}"
        ) from error


def made(make: Make, neuron: Neuron) -> Any:
    """A module for a neuron that takes whole sequences, time first.

    Args:
        make: Any function from a neuron to a module, such as ``plugins.<host>.make``.
        neuron: The description.

    Raises:
        TypeError: If ``make`` is no function, or returns something else than a module that takes
            sequences.

    Example:
        >>> import spikeloom
        >>> type(made(spikeloom.SpikingLayer, spikeloom.neurons.IF())).__name__
        'SpikingLayer'
    """
    if not callable(make):
        raise TypeError(f"make: must be a function such as plugins.<host>.make, got {make!r}")
    module: Any = make(neuron)
    kind = type(module).__name__
    if not issubclass(type(module), nn.Module):
        raise TypeError(f"make: must return a torch.nn.Module, got {kind}; use plugins.<host>.make")
    if getattr(module, "step_mode", None) == "s":
        module.step_mode = "m"
    if getattr(module, "time_first", None) is False:
        try:
            module.time_first = True
        except AttributeError:
            raise TypeError(
                f"make: returns a {kind}, which takes one step at each call, where whole "
                f"sequences are needed; use plugins.<host>.make"
            ) from None
    return module


def output_of(result: Any) -> Any:
    """What a neuron module emits; some hosts return its state beside it."""
    return result[0] if isinstance(result, tuple) else result


def spikes_from_rest(module: nn.Module, x: Tensor) -> Tensor:
    """The spikes of a module made by :func:`made`, whatever it saw before.

    Args:
        module: The module.
        x: Input ``[T, batch, *]``.
    """
    to_rest(module)
    return output_of(module(x))


def to_rest(model: nn.Module) -> None:
    """Put every neuron that keeps its state back to rest.

    snnTorch's modules have ``reset_mem()``; SpikingJelly's have ``reset()`` and a ``step_mode``;
    Norse's and our own layer keep no state.

    Args:
        model: A neuron, or a model with neurons of any framework.
    """
    for module in model.modules():
        forget: Any = getattr(module, "reset_mem", None)
        if forget is None and hasattr(module, "step_mode"):
            forget = getattr(module, "reset", None)
        if callable(forget):
            forget()
