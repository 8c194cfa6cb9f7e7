"""A network of snnTorch-style neurons as a whole."""

from __future__ import annotations

import snntorch
from torch import nn

from .module import SpikingModule

__all__ = ["reset", "takes_steps"]


def reset(net: nn.Module) -> None:
    """Put the hidden states of a network back to rest, cut from any graph.

    Reaches nested and copied neurons, spikeloom's and snnTorch's own, and no other network.
    ``snntorch.utils.reset`` of snnTorch 1.0 looks one level deep, misses copies and classes it does
    not know, and resets the same classes in every other network.

    Args:
        net: The network, or a single neuron.

    Example:
        >>> import torch
        >>> from spikeloom.plugins import snntorch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), snntorch.Leaky(0.9, init_hidden=True))
        >>> spk = net(torch.ones(1, 2))
        >>> net[1].mem.shape
        torch.Size([1, 3])
        >>> snntorch.reset(net)
        >>> net[1].mem.shape
        torch.Size([0])
    """
    for module in net.modules():
        if isinstance(module, (SpikingModule, snntorch.SpikingNeuron)):
            # snnTorch's StateLeaky and AssociativeLeaky carry no state between calls.
            getattr(module, "reset_mem", lambda: None)()


def takes_steps(module: nn.Module) -> bool | None:
    """True for a neuron that takes one step at each call, False for sequences, else None."""
    if isinstance(module, SpikingModule):
        return not module.time_first
    return True if isinstance(module, snntorch.SpikingNeuron) else None
