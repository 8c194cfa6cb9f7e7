"""The ranges that the authors published for a LLaMA, and tables with the bits of published ones.

A range is a pair of numbers. A table holds a function's values by their bits, so that its range,
its least value and its last bit say what it yields, but for the spacing of its rows. The square
root is the one for BERT, up to 1,500: of those for a LLaMA, which reach further, only the errors
are known. The published reciprocals are fitted coefficients: here reciprocals stay in float.
"""

from __future__ import annotations

import math
import re
from typing import cast

import torch
from torch import Tensor, nn

from spikeloom.convert.las.attention import Softmax
from spikeloom.convert.las.layers import Activation
from spikeloom.convert.las.norms import Norm
from spikeloom.convert.las.sites import Site

__all__ = ["with_published_ranges", "with_published_tables"]

# Pattern of a site's name -> inner and outer range.
RANGES = {
    r"self_attn\.q_proj": (10.0, 40.0),
    r"las\.q": (4.0, 10.0),
    r"las\.k": (5.0, 10.0),
    r"las\.v": (1.0, 5.0),
    r"las\.p": (1.0, 2.0),  # one range, 1, which no probability exceeds
    r"o_proj": (2.0, 6.0),
    r"gate_proj": (4.0, 10.0),
    r"mlp\.factor": (5.0, 50.0),
    r"down_proj": (10.0, 500.0),
    r"norm.*\.before": (5.0, 3000.0),
    r"lm_head": (2.0, 50.0),  # in float there; the ranges of a norm's output
}
# Upper ends and last bits of the tables of the square root.
ROOTS = ((10.0, 2.0**-13), (1500.0, 2.0**-9))


def with_published_ranges(network: nn.Module) -> nn.Module:
    """A converted LLaMA, its calibrated ranges replaced."""
    for name, site in network.named_modules():
        if isinstance(site, Site):
            inner, outer = next(r for pattern, r in RANGES.items() if re.search(pattern, name))
            shape = cast(Tensor, site.normal).shape
            ranges = [torch.full(shape, inner), torch.tensor(outer)]
            assert site.neuron is not None  # it is converted
            site.install(site.neuron.steps, ranges, "truncate")
    return network


def with_published_tables(network: nn.Module) -> nn.Module:
    """A converted network, its tables of SiLU, exponential and square root replaced."""
    for part in network.modules():
        if isinstance(part, Activation) and part.function == "silu":
            part.decoded = _silu  # type: ignore[method-assign]  # of this layer alone
        elif isinstance(part, Softmax):
            part.power = _power  # type: ignore[assignment]  # a function in its place
        elif isinstance(part, Norm):
            part.rsqrt = _inverse_root  # type: ignore[assignment]  # a function in its place
    return network


def _by_bits(y: Tensor, least: float, last: float) -> Tensor:
    """A value by the bits that a table has."""
    return least + last * torch.floor((y - least) / last)


def _silu(x: Tensor) -> Tensor:
    return _by_bits(nn.functional.silu(x.clamp(-10, 30)), -0.2785, 2.0**-10)


def _power(x: Tensor) -> Tensor:
    """2**x for x up to 0, by a table of the exponential on [0, 1]."""
    rest = x.clamp(min=-126.0) * math.log(2.0)
    whole_part = rest.floor()
    return torch.exp(whole_part) * _by_bits(torch.exp(rest - whole_part), 1.0, 2.0**-14)


def _inverse_root(x: Tensor) -> Tensor:
    root = torch.sqrt(x.clamp(1e-4, ROOTS[-1][0]) + 1e-5)
    small, large = (_by_bits(root, 0.0, last) for _, last in ROOTS)
    return torch.where(x <= ROOTS[0][0], small, large).reciprocal()
