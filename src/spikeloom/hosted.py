"""How a neuron module of any framework is made, run and reset.

A recipe, a model or an imported graph takes ``make=``, a function from a neuron to a module, such
as ``plugins.<host>.make``. The modules differ in their conventions: some take one step unless told
otherwise, some keep their state, some return it beside the spikes. Their classes' conventions
(:mod:`spikeloom.modules`) state them, and what a ``make`` returns is run once beside its neuron.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from spikeloom.kernel.neuron import Neuron
from spikeloom.modules import Conventions, conventions_of, why_unlike
from spikeloom.modules.rest import output_of, to_rest

__all__ = ["Make", "copied", "made", "output_of", "spikes_from_rest", "to_rest"]

Make = Callable[[Neuron], nn.Module]


def copied(name: str, net: nn.Module, shared: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy of a network.

    Args:
        name: The argument, for errors.
        net: The network.
        shared: Identity of what is not copied -> what it is.

    Raises:
        ValueError: If torch cannot copy it, because a tensor in it has a graph.
    """
    try:
        return copy.deepcopy(net, dict(shared or {}))
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
            sequences, or one that does not compute what the neuron does when it is run beside it.

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
    conventions = conventions_of(module) or Conventions()
    conventions.take_sequences(module)
    if takes := _unfit(conventions, module):
        raise TypeError(
            f"make: returns a {kind}, which takes {takes} at each call, where whole sequences "
            f"[T, batch, *] are needed; use plugins.<host>.make"
        )
    if unlike := why_unlike(module, neuron):
        raise TypeError(f"make: returns a {kind}, which {unlike}")
    return module


def _unfit(conventions: Conventions, module: nn.Module) -> str:
    """What a module takes in the place of whole sequences, time first; empty if it takes them."""
    if conventions.takes_steps(module):
        return "one step"
    return "a sequence [batch, T, *]" if conventions.batch_first(module) else ""


def spikes_from_rest(module: nn.Module, x: Tensor) -> Tensor:
    """The spikes of a module made by :func:`made`, whatever it saw before.

    Args:
        module: The module.
        x: Input ``[T, batch, *]``.
    """
    to_rest(module)
    return output_of(module(x))
