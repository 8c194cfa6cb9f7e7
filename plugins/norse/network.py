"""A network of Norse modules as a whole."""

from __future__ import annotations

from norse.torch.module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell
from torch import nn

from .module import SpikeloomCell, SpikeloomSequence

__all__ = ["takes_steps"]


def takes_steps(module: nn.Module) -> bool | None:
    """True for a neuron that takes one step at each call, False for sequences, else None."""
    if isinstance(module, (SpikeloomCell, SNNCell, SNNRecurrentCell)):
        return True
    return False if isinstance(module, (SpikeloomSequence, SNN, SNNRecurrent)) else None
