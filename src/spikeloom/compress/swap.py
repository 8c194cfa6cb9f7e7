"""New weights and buffers of all layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from spikeloom.compress.buffers import keep
from spikeloom.compress.layers import WeightLayer

__all__ = ["Change", "make_changes"]


@dataclass(frozen=True, eq=False)
class Change:
    """What becomes of one layer.

    Attributes:
        layer: The layer.
        weight: Its new weight.
        buffers: What it keeps beside it; None takes a buffer away.
        compressed_from: Fingerprints of the weight that was calibrated and of the new one.
    """

    layer: WeightLayer
    weight: Tensor
    buffers: Mapping[str, Tensor | None]
    compressed_from: tuple[str, str]

    def make(self) -> None:
        """Give the layer its new weight and buffers."""
        self.layer.weight.detach().copy_(self.weight)
        keep(self.layer, {name: new for name, new in self.buffers.items() if new is not None})
        for name, new in self.buffers.items():
            if new is None:
                delattr(self.layer, name)
        vars(self.layer)["compressed_from"] = self.compressed_from


def make_changes(changes: Iterable[Change]) -> None:
    """Make all changes."""
    for change in changes:
        change.make()
