"""How many samples a search can try its settings on, so that it ends soon on a large network too.

It is counted in arithmetic, not in seconds: the same network is converted alike on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

__all__ = ["affordable", "operations"]

# Additions and multiplications that a search may take. Most are spared, as trials that cannot win
# are given up: a quarter of a minute of one core is left,
AFFORDED = 4e12
# and the settings that it usually tries.
TRIALS = 24


def operations(run: Callable[[], Any]) -> int:
    """The additions and multiplications of layers with weights, and of matrix products.

    Args:
        run: What to count.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def affordable(operations: int, steps: int) -> int:
    """How many samples each setting can be tried on.

    Args:
        operations: Of one sample, in the plain network.
        steps: T; layers run once for each.
    """
    return int(AFFORDED / (TRIALS * steps * max(1, operations)))
