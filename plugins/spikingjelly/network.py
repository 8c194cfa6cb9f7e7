"""A network of SpikingJelly neurons as a whole."""

from __future__ import annotations

from spikingjelly.activation_based.base import MemoryModule
from spikingjelly.activation_based.neuron import FewSpikeNode
from torch import nn

__all__ = ["takes_steps"]


def takes_steps(module: nn.Module) -> bool | None:
    """True for a neuron that takes one step at each call, False for sequences, else None."""
    if isinstance(module, (MemoryModule, FewSpikeNode)):
        return module.step_mode == "s"
    return None
