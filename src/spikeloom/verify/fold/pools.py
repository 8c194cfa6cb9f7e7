"""Average pools into sums, their 1/n into the weights behind."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.nn.modules.utils import _pair

from spikeloom.grid import scale_weight
from spikeloom.verify.fold.draft import Draft
from spikeloom.verify.fold.layout import is_padded, is_pool
from spikeloom.verify.fold.plain import is_plain, is_weight
from spikeloom.verify.fold.weights import set_tensors

__all__ = ["fold_pool"]


def fold_pool(draft: Draft, name: str, pool: Any) -> tuple[str, str]:
    """Turn an average into a sum, if the next weight layer can take the factor.

    What lies between, pools and flattening, may do anything to the map: a common factor passes.
    """
    if not isinstance(pool, nn.AvgPool2d):
        return "remains", "its number of positions depends on the input, or cannot be overridden"
    if pool.divisor_override == 1:
        return "sum", "is one already"
    target, _ = draft.connections.after(name, is_pool)
    layer = draft.module(target)
    if not is_weight(layer) or not is_plain(pool):
        return "remains", "no weight layer follows it alone"
    uneven = pool.ceil_mode or (is_padded(pool) and not pool.count_include_pad)
    if pool.divisor_override is None and uneven:
        return "remains", "its positions count differently at the border"
    divisor = pool.divisor_override or _positions(pool)
    set_tensors(layer, weight=scale_weight(layer, 1.0 / divisor))
    pool.divisor_override = 1
    return "sum", f"its 1/n is in the weights of {target}"


def _positions(pool: nn.AvgPool2d) -> int:
    sides = _pair(pool.kernel_size)
    return math.prod(sides) if len(sides) == 2 else sides[0] ** 2
