"""A network of SpikingJelly neurons as a whole."""

from __future__ import annotations

from spikingjelly.activation_based.base import MemoryModule
from spikingjelly.activation_based.neuron import FewSpikeNode
from torch import nn

from ..example import Habits

__all__ = ["HABITS"]


def _takes_steps(module: nn.Module) -> bool | None:
    if isinstance(module, (MemoryModule, FewSpikeNode)):
        return module.step_mode == "s"
    return None


def _reset(net: nn.Module) -> None:
    # Not reset_net, which remembers the modules of a network that may still change.
    for module in net.modules():
        if isinstance(module, MemoryModule):
            module.reset()


HABITS = Habits(_takes_steps, _reset)
