r"""The steps of a node whose target has not settled yet.

A node's target f(x(t)) depends on the estimates of the nodes before it, and these still move. Let
nu(t) bound how far the target is off at step t or later, and Q(t) the largest error that the node
has there and can still undo. While its error is above nu(t), the node steps in the right
direction. Below, it may step in the wrong one, and is then at most nu(t) + eta(t) off. All that is
left to undo it is the path behind step t, which has to be as long:

.. math:: Q(t+1) = Q(t) - \eta(t) \ge \nu(t) + \eta(t)

The longest step with that property, and so the shortest remaining path, is

.. math:: \eta(t) = \frac{Q(t) - \nu(t)}{2},\qquad Q(1) = \mathrm{margin} \cdot \mathrm{reach}

With a constant target it is successive approximation, one binary digit a step. Where the nodes
before have not settled, Q stays above nu by itself: the path that is lost is there to be lost, and
a node waits as long as its own targets need it to. A decay d above 1/2 instead of 1/2 leaves more
path to spare, and takes more steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["pursuit_steps", "unrest"]

# Of a step, relative to the reach: far below rounding, and positive.
SMALLEST = 1e-12
# How many neurons and samples are looked at.
LOOKED_AT = 1 << 14


def pursuit_steps(nu: Sequence[float], margin: float, decay: float) -> list[float]:
    """The step sizes that follow a target of known unrest.

    Args:
        nu: How far the target is off at each step, relative to the reach; may be infinite.
        margin: The sum of all steps, relative to the reach.
        decay: d, from 1/2 to 1: what is left of the path above nu after a step.

    Example:
        >>> from spikeloom.convert.signgd.pursuit import pursuit_steps
        >>> pursuit_steps([0.0, 0.0, 0.0], margin=1.0, decay=0.5)
        [0.5, 0.25, 0.125]
        >>> pursuit_steps([0.5, 0.5, 0.0, 0.0], margin=1.0, decay=0.5)
        [0.25, 0.125, 0.3125, 0.15625]
    """
    bounds: list[float] = []
    for value in reversed(nu):  # not only now, but at any later step
        bounds.append(max(value, bounds[-1]) if bounds else value)
    left, steps = margin, list[float]()
    for bound in reversed(bounds):
        steps.append(max((left - min(bound, left)) * (1.0 - decay), SMALLEST * margin))
        left -= steps[-1]
    return steps


def unrest(target: Tensor, exact: Tensor, reach: Tensor, caution: float) -> list[float]:
    """How far targets are from where they end, at each step and relative to the reach.

    Args:
        target: What the node follows, ``[T, *]``.
        exact: What it should be in the end, ``[*]``.
        reach: Of each neuron, broadcast to ``[*]``.
        caution: The share of neurons and samples that are no further off; above 1, a multiple of
            the distance that none exceeds.
    """
    count = exact.numel()
    flat, end = target.flatten(1), exact.flatten()
    scale = reach.expand(exact.shape).flatten()
    if count > LOOKED_AT:
        draw = torch.Generator().manual_seed(0)
        chosen = torch.randint(count, (LOOKED_AT,), generator=draw).to(end.device)
        flat, end, scale = flat[:, chosen], end[chosen], scale[chosen]
    # A target may still be undefined, as the square root of an estimate below 0.
    off = ((flat - end).abs() / scale).nan_to_num(torch.inf, torch.inf)
    if not caution:
        return [0.0] * len(target)
    rank = max(1, min(off.shape[1], round(caution * off.shape[1])))
    found: list[float] = (off.kthvalue(rank, dim=1).values * max(1.0, caution)).tolist()
    return found
