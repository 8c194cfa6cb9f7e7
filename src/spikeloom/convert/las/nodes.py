"""A host's module that fires the spikes of a site or an activation in their place."""

from __future__ import annotations

from torch import Tensor, nn

from spikeloom.hosted import Make, made, spikes_from_rest
from spikeloom.kernel.neuron import Neuron

__all__ = ["fired", "node_for"]


def node_for(make: Make, neuron: Neuron) -> nn.Module:
    """A host's module for a neuron; its tensors are the site's, which saves them."""
    node: nn.Module = made(make, neuron)
    for module in node.modules():
        module._non_persistent_buffers_set.update(module._buffers)
    return node


def fired(node: nn.Module, x: Tensor, steps: int) -> Tensor:
    """The spikes ``[K, *]`` of a host's module for the values ``[*]``.

    Raises:
        ValueError: If the module yields something else.
    """
    y = spikes_from_rest(node, x[None])
    if y.shape != (steps, *x.shape):
        raise ValueError(
            f"make: {type(node).__name__} yields shape {tuple(y.shape)} for values of shape "
            f"{tuple(x.shape)}, not {steps} spikes for each; make modules that take a whole "
            f"sequence, time first"
        )
    return y
