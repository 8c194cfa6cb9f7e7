"""An example input, what its axes are, and how a network is run on it.

A host's exporter takes one example: for a network that is called once in each step it is one step,
for a network that takes sequences it is a sequence, and it may have no batch axis. Shapes cannot
tell which; the calls that the network makes can.
"""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from spikeloom.hosted import copied, to_rest
from spikeloom.kernel.values import checked_count
from spikeloom.modules import is_neuron, takes_steps

__all__ = ["Example", "copy_at_rest", "example_of", "spikes_over_time"]

Weighted = (nn.Linear, nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class Example:
    """An example with all its axes.

    Attributes:
        sequence: ``[T, batch, *]``; a single step is repeated.
        stepwise: Whether the network takes one step of it at each call.
        leading: How many axes in front of a signal's own the example had: time, batch.
    """

    sequence: Tensor
    stepwise: bool
    leading: int


def copy_at_rest(net: nn.Module) -> nn.Module:
    """A copy of a network with all neurons at rest.

    Raises:
        TypeError: If it is no network.
        ValueError: If it cannot be copied.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net: must be a torch.nn.Module, got {type(net).__name__}")
    fresh = copied("net", net)
    to_rest(fresh)
    return fresh


def example_of(net: nn.Module, given: Any, steps: int) -> Example:
    """Find the axes of an example by calling the network with it once.

    Args:
        net: The network; a copy is called.
        given: ``[batch, *]`` or ``[*]`` for a network that takes steps, ``[T, batch, *]`` for one
            that takes sequences.
        steps: How often a single step is repeated.

    Raises:
        TypeError: If the example is no floating-point tensor, or ``steps`` no int.
        ValueError: If the network does not run on it, or ``steps`` is below 1.
    """
    if not isinstance(given, Tensor) or not given.is_floating_point():
        found = given.dtype if isinstance(given, Tensor) else type(given).__name__
        remedy = "; example.float() makes one" if isinstance(given, Tensor) else ""
        raise TypeError(f"example: must be a floating-point tensor, got {found}{remedy}")
    checked_count("steps", steps)
    stepwise, batched = _calls(copy_at_rest(net).eval(), given)
    if stepwise:
        step = given if batched else given[None]
        return Example(step.expand(steps, *step.shape), True, int(batched))
    if given.dim() < 3:
        raise ValueError(
            f"example: the network takes sequences, [T, batch, *], got {list(given.shape)}; if it "
            f"repeats one image in a loop of its own, hand over the part inside the loop"
        )
    return Example(given, False, 2)


def _calls(net: nn.Module, given: Tensor) -> tuple[bool, bool]:
    """Whether an example is one step of the network, and whether it has a batch axis."""
    neurons = {module: takes_steps(module) for module in net.modules() if is_neuron(module)}
    called: Counter[nn.Module] = Counter()
    single = [given.dim() == 1]
    sequences: list[bool] = []

    def count(module: nn.Module, args: Any, result: Any) -> None:
        called[module] += 1

    def compare(module: Any, args: Any) -> None:
        # torch's layers take a sample without batch as an input of one axis fewer, and a Linear
        # takes any number of axes in front.
        more = args[0].dim() - module.weight.dim() if args else 0
        single.append(more == -1)
        sequences.append(more == 1)

    for module in net.modules():
        if neurons.get(module):
            module.register_forward_hook(count)
        if isinstance(module, Weighted):
            module.register_forward_pre_hook(compare)
    try:
        with torch.no_grad():
            net(given)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(
            f"example: the network does not run on {list(given.shape)}: {error}"
        ) from error
    if not neurons:
        return sequences[:1] != [True], not any(single)
    # In a time loop of the user's own a neuron is called in every step.
    return 1 in called.values(), not any(single)


def spikes_over_time(net: nn.Module, sequence: Tensor, stepwise: bool) -> Tensor:
    """The first output of a network from rest, ``[T, batch, *]``.

    Args:
        net: The network.
        sequence: ``[T, batch, *]``.
        stepwise: Whether it takes one step at each call; a ``state`` or ``mem`` is handed back.
    """
    to_rest(net)
    with torch.no_grad():
        if not stepwise:
            return _first_tensor(net(sequence))
        explicit = {"state", "mem"} & set(inspect.signature(net.forward).parameters)
        state: tuple[Any, ...] = ()
        outputs = []
        for now in sequence:
            result = net(now, *state)
            if explicit and isinstance(result, tuple) and not getattr(net, "init_hidden", False):
                state = result[1:]
            outputs.append(_first_tensor(result))
        return torch.stack(outputs)


def _first_tensor(result: Any) -> Tensor:
    tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    if not tensors:
        raise TypeError(f"net: must return a tensor, got {type(result).__name__}")
    return tensors[0]
