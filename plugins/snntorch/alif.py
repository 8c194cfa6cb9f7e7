"""ALIF, whose threshold adapts, as a snnTorch module."""

from __future__ import annotations

from spikeloom import neurons

from ..adapter import component
from .module import SpikingModule

__all__ = ["ALIF"]


@component("adaptive threshold", "Bellec et al., NeurIPS 2018")
class ALIF(SpikingModule, describes=neurons.ALIF):
    """Leaky integrate-and-fire with an adaptive threshold, ``spk, a, mem = neuron(x, a, mem)``.

    It takes the arguments of :class:`spikeloom.neurons.ALIF` and those of every module here.

    Example:
        >>> import torch
        >>> from spikeloom.plugins import snntorch
        >>> alif = snntorch.ALIF(tau=1.0, rho=0.5, beta=1.0)
        >>> spk, a, mem = alif.sequence(torch.full((6, 1, 1), 1.6))
        >>> spk.flatten()
        tensor([1., 0., 1., 0., 0., 1.])
    """
