"""SpikeLM's elastic bi-spiking neuron as Norse modules."""

from __future__ import annotations

from spikeloom import neurons

from ..adapter import component
from .module import SpikeloomCell, SpikeloomSequence

__all__ = ["ElasticBiSpike", "ElasticBiSpikeCell"]


@component("SpikeLM", "X. Xing et al., SpikeLM, ICML 2024, arXiv 2406.03287")
class ElasticBiSpikeCell(SpikeloomCell, describes=neurons.ElasticBiSpike):
    """One step of :class:`ElasticBiSpike`; an amplitude per step needs the sequence.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import ElasticBiSpikeCell
        >>> spikes, state = ElasticBiSpikeCell(0.5)(torch.tensor([0.1, -0.4]))
        >>> spikes
        tensor([ 0.0000, -0.5000])
    """


@component("SpikeLM", "X. Xing et al., SpikeLM, ICML 2024, arXiv 2406.03287")
class ElasticBiSpike(SpikeloomSequence, describes=neurons.ElasticBiSpike):
    """Ternary spikes times an amplitude, over a sequence.

    It takes the arguments of :class:`spikeloom.neurons.ElasticBiSpike` and those of every sequence
    here (:class:`SpikeloomSequence`).

    Example:
        >>> import torch
        >>> from spikeloom.plugins.norse import ElasticBiSpike
        >>> spikes, state = ElasticBiSpike([0.5, 1.0])(torch.tensor([[0.1, -0.4], [0.3, -0.6]]))
        >>> spikes
        tensor([[ 0.0000, -0.5000],
                [ 0.0000, -1.0000]])
    """
