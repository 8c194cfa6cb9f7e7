"""A network of Norse modules as a whole."""

from __future__ import annotations

from norse.torch.module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell
from torch import nn

from ..example import Habits
from .module import SpikeloomCell, SpikeloomSequence

__all__ = ["HABITS"]


def _takes_steps(module: nn.Module) -> bool | None:
    if isinstance(module, (SpikeloomCell, SNNCell, SNNRecurrentCell)):
        return True
    return False if isinstance(module, (SpikeloomSequence, SNN, SNNRecurrent)) else None


# States are in the caller's hands: there is nothing to reset.
HABITS = Habits(_takes_steps, lambda net: None)
