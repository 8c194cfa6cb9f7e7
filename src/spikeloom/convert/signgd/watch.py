"""Counts, at each node, the values beyond its reach: they are cut, and nothing else shows it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spikeloom.convert.signgd.operators import Site

__all__ = ["TOLERATED", "Watch"]

# The share of a node's values that may lie beyond its reach without a warning.
TOLERATED = 0.01


class Watch(nn.Module):
    """Counts values beyond reach, and warns once.

    The counts are tensors that every run adds to, also one that is compiled or exported. Only a
    plain call looks at them, so a compiled one never waits for a device.

    Args:
        sites: The nodes.
    """

    values: Tensor
    beyond: Tensor

    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__()
        self.places = {site.name: i for i, site in enumerate(sites)}
        self.named = [f"{site.title} at {site.place}" for site in sites]
        for name in ("values", "beyond"):
            counts = torch.zeros(len(sites), dtype=torch.int64)
            self.register_buffer(name, counts, persistent=False)
        self.has_warned = False

    def see(self, name: str, values: Tensor, reach: Tensor) -> None:
        """Count the last values of a node.

        Args:
            name: The node's.
            values: Any shape.
            reach: Broadcasts to them.
        """
        place = self.places[name]
        self.values[place] += values.numel()
        self.beyond[place] += (values.detach().abs() > reach.detach()).sum()

    def forget(self) -> None:
        """Begin to count anew."""
        self.values.zero_()
        self.beyond.zero_()

    def shares(self) -> list[float | None]:
        """The share of each node's values beyond its reach; None for a node that saw no value."""
        pairs = zip(self.beyond.tolist(), self.values.tolist(), strict=True)
        return [beyond / values if values else None for beyond, values in pairs]

    def warn(self, usual: Sequence[float]) -> None:
        """Warn, the first time that a node's share is above what is tolerated.

        Args:
            usual: The share of each node in calibration, which the fit chose.

        Warns:
            UserWarning: If more than 1 % beyond the usual share of a node's values were cut.
        """
        if self.has_warned or torch.compiler.is_compiling() or not bool(self.beyond.any()):
            return
        excess = [
            (share or 0.0) - before for share, before in zip(self.shares(), usual, strict=True)
        ]
        place = max(range(len(excess)), key=excess.__getitem__)
        if excess[place] <= TOLERATED:
            return
        self.has_warned = True
        warnings.warn(
            f"signGD: {self.shares()[place]:.1%} of the values of {self.named[place]} lie beyond "
            f"the node's reach and are cut, {usual[place]:.1%} in calibration; see the report. "
            f"Convert again with calibration batches like these inputs, more steps or a larger "
            f"margin",
            stacklevel=4,
        )
