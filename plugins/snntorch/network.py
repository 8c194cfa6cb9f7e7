"""A network of snnTorch-style neurons as a whole."""

from __future__ import annotations

from torch import nn

from spikeloom.hosted import to_rest

__all__ = ["reset"]


def reset(net: nn.Module) -> None:
    """Reset the hidden states of a network and detach them from any graph.

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
    to_rest(net)
