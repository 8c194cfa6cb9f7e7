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
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spikeloom.convert.signgd.data import Data
from spikeloom.convert.signgd.operators import Site
from spikeloom.convert.signgd.time import Machine

__all__ = ["amplifications"]

# Of a disturbance, relative to a node's reach: above rounding, and small after many nodes.
SMALL = 1e-5
# A node with such steps keeps them to the end of any run; more would not fit into single precision.
LARGEST = 1e15


def amplifications(
    ann: Machine, data: Data, reach: dict[str, Tensor], caution: float
) -> dict[str, float]:
    """A of every node, by name.

    Args:
        ann: The plain network.
        data: Samples.
        reach: The largest magnitude of each node.
        caution: How many times the disturbance of its inputs a node's steps are.
    """
    found: dict[str, float] = {}
    draw = torch.Generator().manual_seed(0)

    def disturb(site: Site, operands: Any, compute: Callable[[], Tensor]) -> Tensor:
        exact, own = data.exact[site.name], reach[site.name]
        value = compute()
        # A disturbed operand may be beyond where the operator is defined.
        value = torch.where(value.isfinite(), value, exact)
        disturbance = float(((value - exact) / own).double().square().mean().sqrt()) / SMALL
        before = (found[name] for name in ann.feeding[site.name])
        found[site.name] = min(max(1.0, caution * disturbance, *before), LARGEST)
        noise = 2.0 * torch.rand(value.shape, generator=draw) - 1.0
        return value + SMALL * found[site.name] * own * noise.to(value)

    ann(data.inputs, disturb)
    return found
