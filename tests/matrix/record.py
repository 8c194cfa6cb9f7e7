"""A plain run of a network in which hooks write down what layers read and neurons fire."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["Record", "as_double", "call", "recorded", "tensors_of"]

WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)


@dataclass
class Record:
    """What a run showed.

    Attributes:
        inputs: Weight layer -> what each call read.
        spikes: Neuron -> what each call fired.
        output: What the network returned.
    """

    inputs: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    spikes: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    output: Any = None


def recorded(net: nn.Module, sample: Any) -> Record:
    """Run a network from rest, in its own dtype."""
    record = Record()
    for module in net.modules():
        if hasattr(module, "reset_states"):
            module.reset_states()
    with ExitStack() as stack, torch.no_grad():
        for name, module in net.named_modules():
            if isinstance(module, WEIGHTED):
                stack.enter_context(_reads(record.inputs[name], module))
            elif hasattr(module, "neuron"):
                stack.enter_context(_fires(record.spikes[name], module))
        record.output = call(net, sample)
    return record


def call(net: nn.Module, sample: Any) -> Any:
    """The network's output on a sample in the dtype of its weights."""
    dtype = next((p.dtype for p in net.parameters()), torch.float32)
    sample = as_double(sample) if dtype == torch.float64 else sample
    if isinstance(sample, dict):
        return net(**sample)
    return net(*sample) if isinstance(sample, tuple) else net(sample)


def as_double(sample: Any) -> Any:
    def double(leaf: Any) -> Any:
        return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return tree_map(double, sample)


def tensors_of(output: Any) -> list[Tensor]:
    """All tensors of an output, those in a dataclass too."""
    if hasattr(output, "__dataclass_fields__"):
        output = vars(output)
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def _reads(inputs: list[Tensor], layer: nn.Module):
    def note(_: nn.Module, args: Any, kwargs: Any) -> None:
        inputs.append(tree_leaves((args, kwargs))[0].clone())

    return layer.register_forward_pre_hook(note, with_kwargs=True)


@contextmanager
def _fires(spikes: list[Tensor], neuron: nn.Module):
    """Note the spikes of a neuron, however it is called."""

    def note(y: Any) -> Any:
        spikes.append((y[0] if isinstance(y, tuple) else y).clone())
        return y

    hook = neuron.register_forward_hook(lambda _, args, y: None if note(y) is y else y)
    sequence = getattr(neuron, "sequence", None)
    if sequence is not None:
        neuron.sequence = lambda *args, **kwargs: note(sequence(*args, **kwargs))
    try:
        yield
    finally:
        hook.remove()
        if sequence is not None:
            del neuron.sequence
