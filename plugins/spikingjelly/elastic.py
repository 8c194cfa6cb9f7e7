"""SpikeLM's elastic bi-spiking neuron as a SpikingJelly node."""

from __future__ import annotations

from spikeloom import neurons

from ..adapter import component
from .node import SpikeloomNode

__all__ = ["ElasticBiSpikeNode"]


@component("SpikeLM", "X. Xing et al., SpikeLM, ICML 2024, arXiv 2406.03287")
class ElasticBiSpikeNode(SpikeloomNode, describes=neurons.ElasticBiSpike):
    """Ternary spikes times an amplitude; :class:`spikeloom.neurons.ElasticBiSpike` has the rest.

    Args:
        alpha: Amplitude: a number, ``[T]`` values (then in step mode "m" only), or per neuron with
            two or more dimensions; a Parameter is learned.
        decay: Leak of the membrane; 0 is the stateless quantiser.
        reset: ``"released"`` or ``"symmetric"``.
        unit_spikes: Send -1, 0 and 1, for weights that have absorbed the amplitude.
        grad_scale: Scale the amplitude's gradient as published.
        step_mode: ``"s"`` or ``"m"``.
        store_v_seq: Keep the membrane potential after every step as ``v_seq``.
        implementation: ``"auto"``, ``"cupy"``, ``"llvm"`` or ``"eager"``.

    SpikingJelly's spike compressors lose the sign; :class:`SignedSpikeCompressor` keeps it, and
    :func:`signed_rules` counts signed spikes as synaptic operations.

    Example:
        >>> import torch
        >>> from spikeloom.plugins.spikingjelly import ElasticBiSpikeNode
        >>> node = ElasticBiSpikeNode(0.5, reset="symmetric", step_mode="m")
        >>> node(torch.tensor([[0.1, -0.4], [0.3, 0.2]]))
        tensor([[ 0.0000, -0.5000],
                [ 0.5000,  0.0000]])
    """
