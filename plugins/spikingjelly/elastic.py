"""SpikeLM's elastic bi-spiking neuron as a SpikingJelly node."""

from __future__ import annotations

import math
from typing import Any

import torch
from spikingjelly.activation_based import neuron as host
from spikingjelly.activation_based import surrogate
from torch import nn

from spikeloom import neurons

from ..adapter import component
from ..native import Differs
from .native import COUNTERPARTS, habits_of, number_of
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


@COUNTERPARTS.of(neurons.ElasticBiSpike)
def _native(module: SpikeloomNode) -> nn.Module:
    neuron: Any = module.neuron
    if neuron.reset != "symmetric":
        raise Differs('SpikingJelly\'s ternary neurons reset after both signs, reset="symmetric"')
    if (alpha := number_of(module, "alpha")) != 1.0:
        raise Differs(f"SpikingJelly's ternary spikes are of height 1, its alpha is {alpha}")
    settings = {
        # Ours fires above half the amplitude, SpikingJelly's at the threshold.
        "v_threshold": float(torch.tensor(0.5).nextafter(torch.tensor(1.0))),
        # Gradients pass straight through for potentials of at most 1.
        "surrogate_function": surrogate.Rect(alpha=1.0),
        "detach_reset": True,
        **habits_of(module),
    }
    if neuron.decay == 1.0:
        return host.TernaryIFNode(**settings)
    tau = 1.0 / (1.0 - neuron.decay)
    if tau == 1.0 or math.frexp(tau)[0] != 0.5:
        raise Differs(
            f"SpikingJelly's leak is 1 - 1 / tau and exact for tau a power of two, "
            f"its decay is {neuron.decay}"
        )
    return host.TernaryLIFNode(tau, decay_input=False, **settings)
