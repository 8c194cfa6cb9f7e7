"""LAS's few-spike neurons as snnTorch modules."""

from __future__ import annotations

from spikeloom import neurons

from ..adapter import component
from .module import SpikingModule

__all__ = ["HG", "OAT"]

LAS = "LAS: Loss-less ANN-SNN Conversion, AAAI 2026, arXiv 2505.09659"


@component("few-spike conversion", LAS)
class OAT(SpikingModule, describes=neurons.OAT):
    """Outlier-aware threshold neuron: a sequence is summed, K weighted spikes leave.

    It takes the arguments of :class:`spikeloom.neurons.OAT` and those of every module here
    (:class:`SpikingModule`); it takes whole sequences only.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.snntorch import OAT
        >>> spk, *states = OAT(steps=4, normal=1.0, outlier=16.0)(torch.tensor([[0.7, 9.5]]))
        >>> spk.sum(0)
        tensor([0.6875, 9.0000])
    """


@component("few-spike conversion", LAS)
class HG(SpikingModule, describes=neurons.HG):
    """Hierarchically gated neuron: the range of the value chooses the few-spike table.

    It takes the arguments of :class:`spikeloom.neurons.HG` and those of every module here
    (:class:`SpikingModule`). For a generated table use ``make(spikeloom.neurons.fit_hg(...))``.

    Example:
        >>> import torch
        >>> from spikeloom import neurons
        >>> from spikeloom.plugins.snntorch import HG
        >>> tables = [neurons.FewSpike([r, r / 2], [r, r / 2], [r, r / 2]) for r in (1.0, 8.0)]
        >>> spk, *states = HG([2.0], tables)(torch.tensor([[1.7, 12.5]]))
        >>> spk.sum(0)
        tensor([ 1.5000, 12.0000])
    """
