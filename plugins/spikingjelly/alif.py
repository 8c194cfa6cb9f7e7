"""ALIF, whose threshold adapts, as a SpikingJelly node."""

from __future__ import annotations

from spikeloom import neurons

from ..adapter import component
from .node import SpikeloomNode

__all__ = ["ALIFNode"]


@component("adaptive threshold", "Bellec et al., NeurIPS 2018")
class ALIFNode(SpikeloomNode, describes=neurons.ALIF, renamed={"surrogate_function": "surrogate"}):
    """Leaky integrate-and-fire with an adaptive threshold.

    It takes the arguments of :class:`spikeloom.neurons.ALIF` and those of every node here.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.spikingjelly import ALIFNode
        >>> node = ALIFNode(tau=1.0, rho=0.5, beta=1.0, step_mode="m")
        >>> node(torch.full((6, 1), 1.6)).flatten()
        tensor([1., 0., 1., 0., 0., 1.])
    """
