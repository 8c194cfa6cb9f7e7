"""How far each node has to reach: the largest magnitudes that calibration showed, and their floor.

A convolution's channels and a linear layer's features have magnitudes of their own, so each has a
reach of its own; with many samples each neuron has, such as each pixel of a channel. One sample
shows little of a feature, though: a reach that is the largest of n values is at least
``3 / sqrt(n)`` of the largest among its likes, those of a neuron's channel, and of a channel's
node. So few samples give each feature the reach of its node, and many give it one of its own. A
convolution's channel has as many values in one sample as it has pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spikeloom.calibrate import batch_quantile
from spikeloom.convert.signgd.calls import Calls
from spikeloom.convert.signgd.operators import Site
from spikeloom.convert.signgd.time import Machine
from spikeloom.ranks import gathered, largest

__all__ = ["PER", "parts", "reaches", "with_floor"]

# What has a reach of its own.
PER = ("auto", "channel", "neuron", "node")
# Samples from which each neuron does by itself.
SUFFICIENT = 256


def parts(per: str, samples: int) -> str:
    """What has a reach of its own.

    Args:
        per: One of ``PER``.
        samples: How many samples calibration has.
    """
    if per != "auto":
        return per
    return "neuron" if samples >= SUFFICIENT else "channel"


def reaches(ann: Machine, calls: Calls, quantile: float, per: str) -> dict[str, Tensor]:
    """For every node the magnitude that it has to reach, by name.

    Args:
        ann: The plain network.
        calls: The calibration data; all processes have the same of what they find.
        quantile: The share of values that must lie within reach.
        per: One of ``PER`` but ``"auto"``.

    Raises:
        ValueError: If a value is NaN or infinite, or processes have values of different shapes.
    """
    found: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    channels = {site.name: site.channel for site in ann.sites.values()}

    def note(site: Site, operands: Any, compute: Any) -> Tensor:
        value: Tensor = compute()
        seen = batch_quantile(value, quantile, _joined_axes(site, value, per))
        found[site.name] = torch.maximum(found.get(site.name, seen), seen)
        count = value.numel() // seen.numel() if calls.own else 0
        counts[site.name] = counts.get(site.name, 0) + count
        return value

    for flat in calls.to_watch():
        ann(flat, note)
    if calls.are_shared:
        counts = _of_all(found, counts)
    return {name: with_floor(reach, counts[name], channels[name]) for name, reach in found.items()}


def _of_all(found: dict[str, Tensor], counts: dict[str, int]) -> dict[str, int]:
    """Let magnitudes be the largest of all processes.

    Args:
        found: By name, those of this process; replaced.
        counts: Of how many values each of them is the largest.

    Returns:
        The counts of all processes.
    """
    forms = gathered({name: (list(seen.shape), counts[name]) for name, seen in found.items()})
    for rank, others in enumerate(forms):
        for name, (shape, _) in others.items():
            if shape != (of_zero := forms[0][name][0]):
                raise ValueError(
                    f"calibration: the value at {name!r} has shape {shape} in the batches of rank "
                    f"{rank} and {of_zero} in those of rank 0; give all ranks samples of one shape"
                )
    for name, seen in found.items():
        found[name] = largest(seen)
    return {name: sum(own[name][1] for own in forms) for name in counts}


def with_floor(reach: Tensor, count: int, channel: int | None = None) -> Tensor:
    """Reach that is at least a share of the largest among its likes; 1 for a node that was silent.

    Args:
        reach: The largest magnitudes seen.
        count: Of how many values each is the largest.
        channel: The axis of channels, each of which has a floor of its own.

    Example:
        >>> import torch
        >>> from spikeloom.convert.signgd.reach import with_floor
        >>> with_floor(torch.tensor([0.0, 3.0, 4.0]), 36)
        tensor([2., 3., 4.])
    """
    most = float(reach.max()) if reach.numel() else 0.0
    if not most:
        return torch.ones_like(reach)
    share = min(1.0, 3.0 / math.sqrt(count))
    if channel is None:
        return reach.clamp_min(share * most)
    within = [axis for axis in range(reach.dim()) if axis != channel]
    likes = reach.amax(within, keepdim=True).clamp_min(share * most)
    return likes if likes.shape == reach.shape else torch.maximum(reach, share * likes)


def _joined_axes(site: Site, value: Tensor, per: str) -> Sequence[int]:
    """The axes over which one reach is taken."""
    if per == "neuron":
        return site.batch
    own = site.channel if per == "channel" else None
    return [axis for axis in range(value.dim()) if axis != own]
