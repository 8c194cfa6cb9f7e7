"""LAS's few-spike neurons as Norse modules."""

from __future__ import annotations

from spikeloom import neurons

from ..adapter import component
from .module import SpikeloomCell, SpikeloomSequence

__all__ = ["HG", "OAT", "HGCell", "OATCell"]

LAS = "LAS: Loss-less ANN-SNN Conversion, AAAI 2026, arXiv 2505.09659"


@component("few-spike conversion", LAS)
class OATCell(SpikeloomCell, describes=neurons.OAT):
    """Outlier-aware threshold neuron: a value enters, its K weighted spikes leave.

    It takes the arguments of :class:`spikeloom.neurons.OAT` and ``implementation``.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import OATCell
        >>> spikes, state = OATCell(steps=4, normal=1.0, outlier=16.0)(torch.tensor([0.7, 9.5]))
        >>> spikes.sum(0)
        tensor([0.6875, 9.0000])
    """


@component("few-spike conversion", LAS)
class OAT(SpikeloomSequence, describes=neurons.OAT):
    """Outlier-aware threshold neuron: a sequence is summed, K weighted spikes leave.

    It takes the arguments of :class:`spikeloom.neurons.OAT`, ``record_states`` and
    ``implementation``.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import OAT
        >>> spikes, state = OAT(steps=4, normal=1.0)(torch.tensor([[0.5], [0.2]]))
        >>> spikes.flatten()
        tensor([0.5000, 0.0000, 0.1250, 0.0625])
    """


@component("few-spike conversion", LAS)
class HGCell(SpikeloomCell, describes=neurons.HG):
    """Hierarchically gated neuron: the range of the value chooses the few-spike table.

    It takes the arguments of :class:`spikeloom.neurons.HG` and ``implementation``. For a generated
    table use ``make_cell(spikeloom.neurons.fit_hg(...))``.

    Example:
        >>> import torch
        >>> from spikeloom import neurons
        >>> from spikeloom.plugins.norse import HGCell
        >>> tables = [neurons.FewSpike([r, r / 2], [r, r / 2], [r, r / 2]) for r in (1.0, 8.0)]
        >>> spikes, state = HGCell([2.0], tables)(torch.tensor([1.7, 12.5]))
        >>> spikes.sum(0)
        tensor([ 1.5000, 12.0000])
    """


@component("few-spike conversion", LAS)
class HG(SpikeloomSequence, describes=neurons.HG):
    """:class:`HGCell` for a sequence, which is summed first.

    It takes the arguments of :class:`spikeloom.neurons.HG`, ``record_states`` and
    ``implementation``.

    Example:
        >>> import torch
        >>> from spikeloom import neurons
        >>> from spikeloom.plugins.norse import HG
        >>> tables = [neurons.FewSpike([r, r / 2], [r, r / 2], [r, r / 2]) for r in (1.0, 8.0)]
        >>> HG([2.0], tables)(torch.tensor([[1.0], [0.7]]))[0].sum(0)
        tensor([1.5000])
    """
