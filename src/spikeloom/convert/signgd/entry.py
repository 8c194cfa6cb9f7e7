"""What enters a converted network: numbers, and not far larger ones than calibration showed.

A comparison with NaN is false, so a node would take NaN for a number like any other; and inputs far
beyond those of the calibration drive many nodes beyond their reach. Both are seen where they come
in, by one pass over the real inputs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Entry", "largest"]

# How much larger than in calibration inputs may be: samples of one distribution differ too.
USUAL = 1.25


def largest(value: Any) -> float:
    """The largest magnitude of a real tensor, NaN if it holds one; 0 for anything else."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel():
        return 0.0
    least, most = torch.aminmax(value.detach())
    return max(-least.item(), most.item())  # of NaN, both are


class Entry:
    """Looks at the arguments of every call.

    Args:
        names: Of the flat arguments.
        seen: The largest magnitude that each had in calibration.
    """

    def __init__(self, names: Sequence[str], seen: Sequence[float]) -> None:
        self.names, self.seen = tuple(names), tuple(seen)
        self.has_warned = False

    def check(self, inputs: Sequence[Any]) -> None:
        """Refuse what is no number, and warn once of what is far larger than in calibration.

        A graph that is compiled or exported cannot look: NaN then passes through to the output.

        Args:
            inputs: The flat arguments of a call.

        Raises:
            ValueError: If an argument holds NaN, or infinity where calibration had none.

        Warns:
            UserWarning: The first time that an argument exceeds 1.25 times the largest magnitude
                that it had in calibration.
        """
        if torch.compiler.is_compiling():
            return
        for name, value, seen in zip(self.names, inputs, self.seen, strict=True):
            found = largest(value)
            if found <= USUAL * seen:
                continue
            if not math.isfinite(found):
                raise ValueError(
                    f"{name}: holds NaN or infinity, which neurons would turn into numbers; "
                    f"leave such samples out, or replace the values"
                )
            if not self.has_warned:
                self.has_warned = True
                warnings.warn(
                    f"signGD: {name} reaches {found:.3g}, in calibration it reached {seen:.3g}; "
                    f"values beyond a node's reach are cut. Convert again with calibration "
                    f"batches like these inputs",
                    stacklevel=5,
                )
