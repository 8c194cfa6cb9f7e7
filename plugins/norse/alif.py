"""ALIF, whose threshold adapts, as Norse modules."""

from __future__ import annotations

from spikeloom import neurons

from ..adapter import component
from .module import SpikeloomCell, SpikeloomSequence

__all__ = ["ALIF", "ALIFCell"]


@component("adaptive threshold", "Bellec et al., NeurIPS 2018")
class ALIFCell(SpikeloomCell, describes=neurons.ALIF):
    """One step of :class:`ALIF`.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import ALIFCell
        >>> spikes, state = ALIFCell(beta=0.5)(torch.tensor([1.0, 3.0]))
        >>> state
        State(v=tensor([0.5000, 0.0000]), a=tensor([0.0000, 0.5000]))
    """


@component("adaptive threshold", "Bellec et al., NeurIPS 2018")
class ALIF(SpikeloomSequence, describes=neurons.ALIF):
    """Leaky integrate-and-fire with an adaptive threshold, over a sequence.

    It takes the arguments of :class:`spikeloom.neurons.ALIF` and those of every sequence here.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import ALIF
        >>> ALIF(tau=1.0, rho=0.5, beta=1.0)(torch.full((6, 1), 1.6))[0].flatten()
        tensor([1., 0., 1., 0., 0., 1.])
    """
