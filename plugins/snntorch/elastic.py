"""SpikeLM's elastic bi-spiking neuron as a snnTorch module."""

from __future__ import annotations

from spikeloom import neurons

from ..adapter import component
from .module import SpikingModule

__all__ = ["ElasticBiSpike"]


@component("SpikeLM", "X. Xing et al., SpikeLM, ICML 2024, arXiv 2406.03287")
class ElasticBiSpike(SpikingModule, describes=neurons.ElasticBiSpike):
    """Ternary spikes times an amplitude, called as ``spk, mem = neuron(x, mem)``.

    It takes the arguments of :class:`spikeloom.neurons.ElasticBiSpike` and those of every module
    here (:class:`SpikingModule`). An amplitude per step is for whole sequences only.

    The losses of ``snntorch.functional`` that count spikes take the signed ones: a negative spike
    counts against its class. Those of spike times mean nothing for them. In
    ``reg.l1_rate_sparsity`` signs cancel; give it ``spk.abs()``.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.snntorch import ElasticBiSpike
        >>> neuron = ElasticBiSpike(0.5, reset="symmetric")
        >>> spk, mem = neuron(torch.tensor([[0.1, -0.4]]))
        >>> spk
        tensor([[ 0.0000, -0.5000]])
    """
