r"""How much larger than the first node's the steps of a node have to be, because its inputs move.

While a node's steps shrink, its estimate moves up and down by about one step. What this does to
the nodes behind it is seen in the plain network: every value is disturbed by a random number
within one step, in order, and each node's steps are made large enough for the disturbance that
reaches it. With D that disturbance, relative to the reach and to the steps of a node whose inputs
are constant, they are

.. math:: A = \max(1, \mathrm{caution} \cdot D, A_1, A_2, \ldots)

times as large as such a node's, and at least as large as A of the nodes that feed it: a softmax
that is certain, say, hardly feels a disturbance now, but moves while its inputs are on their way.
All nodes' steps shrink at one rate, so a node with a larger A
keeps its first step longer, and its inputs settle first. In a chain, A grows from node to node by
a factor.

What arrives at the outputs tells how far they are off while all steps are still of one size, and
so how many steps the network needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spikeloom.convert.signgd.data import Data, spread_of
from spikeloom.convert.signgd.operators import Site
from spikeloom.convert.signgd.time import Machine

__all__ = ["Disturbance", "disturbance"]

# Of a first node's disturbance, relative to its reach: above rounding, and small after many nodes.
SMALL = 1e-5
# A disturbance beyond this share of a reach does not show what a small one does. The nodes whose
# own is larger are disturbed once more, with all disturbances this much smaller.
LINEAR, SMALLER = 1e-2, 1e-3
# A node with such steps keeps them to the end of any run; more would not fit into single precision.
LARGEST = 1e15


@dataclass(frozen=True)
class Disturbance:
    """What the steps of a network's nodes do to the nodes behind them, and to the outputs.

    Attributes:
        factors: A of every node, by name.
        output: How far the outputs move, relative to their spread, when a node whose inputs are
            constant takes steps as large as its reach, and every other node A times as large ones;
            infinite if that is beyond what single precision tells.
    """

    factors: dict[str, float]
    output: float


def disturbance(
    ann: Machine, data: Data, reach: dict[str, Tensor], caution: float, *, by_channel: bool = False
) -> Disturbance:
    """Disturb every node of the plain network by a random number within one step.

    Args:
        ann: The plain network.
        data: Samples.
        reach: The largest magnitude of each node.
        caution: How many times the disturbance of its inputs a node's steps are.
        by_channel: Whether a node feels what its channel feels that feels most, instead of the root
            mean square of all.
    """
    factors: dict[str, float] = {}
    scale = SMALL
    moved = _disturbed(ann, data, reach, caution, scale, factors, by_channel)
    while len(factors) < len(reach):
        scale *= SMALLER
        moved = _disturbed(ann, data, reach, caution, scale, factors, by_channel)
    return Disturbance(factors, moved if max(factors.values()) < LARGEST else math.inf)


def _disturbed(
    ann: Machine,
    data: Data,
    reach: dict[str, Tensor],
    caution: float,
    scale: float,
    factors: dict[str, float],
    by_channel: bool,
) -> float:
    """How far the outputs move; adds the factors of the nodes whose disturbance is small.

    Args:
        ann: The plain network.
        data: Samples.
        reach: The largest magnitude of each node.
        caution: How many times the disturbance of its inputs a node's steps are.
        scale: The disturbance of a node whose factor is 1, relative to its reach.
        factors: Those that are known.
        by_channel: As above.
    """
    draw = torch.Generator().manual_seed(0)

    def disturb(site: Site, operands: Any, compute: Callable[[], Tensor]) -> Tensor:
        name, exact, own = site.name, data.exact[site.name], reach[site.name]
        if any(source not in factors for source in ann.feeding[name]):
            return exact  # what it feels is not known yet
        value = compute()
        # A disturbed operand may be beyond where the operator is defined.
        value = torch.where(value.isfinite(), value, exact)
        if name not in factors:
            felt = _felt((value - exact) / own, site.channel if by_channel else None) / scale
            before = (factors[source] for source in ann.feeding[name])
            found = min(max(1.0, caution * felt, *before), LARGEST)
            if scale * found > LINEAR:
                return exact
            factors[name] = found
        noise = 2.0 * torch.rand(value.shape, generator=draw) - 1.0
        return value + scale * factors[name] * own * noise.to(value)

    outputs = ann(data.inputs, disturb)
    moved = [
        _rms(torch.where(y.isfinite(), y, exact) - exact) / spread_of(exact)
        for y, exact in zip(outputs, data.outputs, strict=True)
        if isinstance(exact, Tensor) and exact.is_floating_point() and exact.isfinite().all()
    ]
    return max(moved, default=0.0) / scale


def _felt(off: Tensor, channel: int | None) -> float:
    """The root mean square, or that of the channel whose own is the largest."""
    if channel is None or not off.numel():
        return _rms(off)
    return max(map(_rms, off.unbind(channel)))


def _rms(value: Tensor) -> float:
    return float(value.double().square().mean().sqrt())
