"""Where operators are defined, and what stands for an estimate that lies outside.

A node's estimate moves around its value. If that value is the end of a domain, as 0 is for a
square root, about half of the estimates lie outside. Such an estimate counts as the end itself: the
node of the root moves towards 0, and that of a logarithm moves down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from torch import fx

from spikeloom.convert.signgd.nodes import name_of
from spikeloom.observe import meaning_of

__all__ = ["within_domain"]

# The position of the operand, and the ends of its domain.
Domain = tuple[int, float, float]


def within_domain(
    node: fx.Node, operator: Callable[..., Any], timed: Collection[str]
) -> Callable[..., Any]:
    """The operator of a node, defined for all estimates.

    Args:
        node: An operator of the graph.
        operator: What computes it, given its arguments.
        timed: Names of the values that change with time; others are no estimates.
    """
    reads_estimates = any(source.name in timed for source in node.all_input_nodes)
    domain = _domain(node) if reads_estimates else None
    return operator if domain is None else partial(_clamped, operator, domain)


def _domain(node: fx.Node) -> Domain | None:
    operation = meaning_of(name_of(node))
    if operation is None:
        return None
    if operation.name == "pow" and _is_root(*node.args[:2]):
        return 0, 0.0, math.inf
    return operation.domain


def _is_root(base: Any, exponent: Any) -> bool:
    """Whether a power is undefined for negative numbers."""
    return isinstance(base, fx.Node) and isinstance(exponent, float) and exponent % 1.0 != 0.0


def _clamped(operator: Callable[..., Any], domain: Domain, *args: Any, **kwargs: Any) -> Any:
    place, low, high = domain
    within = args[place].clamp(low, high)
    return operator(*args[:place], within, *args[place + 1 :], **kwargs)
