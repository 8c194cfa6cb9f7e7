"""A number's power of two split off by its bits, which is quick."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spikeloom.kernel.plain import is_memory, is_watched

__all__ = ["even_parts", "logarithm", "mantissa_and_scale", "whole_and_rest"]

# dtype -> integer dtype, bits of the fraction, bias of the exponent.
LAYOUT = {torch.float32: (torch.int32, 23, 127), torch.float64: (torch.int64, 52, 1023)}


def mantissa_and_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """|x| = mantissa * scale, the mantissa in [1, 2); by bits, as frexp is slow."""
    integer, fraction, bias = LAYOUT[x.dtype]
    bits = x.contiguous().view(integer)
    kept = (1 << fraction) - 1
    mantissa = ((bits & kept) | (bias << fraction)).view(x.dtype)
    scale = (bits & ((2 * bias + 1) << fraction)).view(x.dtype)
    # A NaN must not become a mantissa.
    return torch.where(x == x, mantissa, x), scale


def logarithm(x: Tensor) -> Tensor:
    """The logarithm of the power of two at or below x."""
    exponents = (torch.frexp(x).exponent - 1).to(x.dtype)
    ends = torch.where(x == 0, -math.inf, math.inf)  # frexp gives these no exponent
    return torch.where((x == 0) | x.isinf(), ends, exponents * math.log(2.0))


def even_parts(x: Tensor, sign: int) -> tuple[Tensor, Tensor]:
    """X = mantissa * 4**e, the mantissa in [1, 4); returns it and 2**(sign * e)."""
    if _is_positive(x):
        integer, fraction, bias = LAYOUT[x.dtype]
        bits, one = x.contiguous().view(integer), bias << fraction
        e = (bits - one) >> (fraction + 1)
        mantissa = bits - (e << (fraction + 1))
        return mantissa.view(x.dtype), (e * (sign << fraction) + one).view(x.dtype)
    half, exponent = torch.frexp(x)
    e = (exponent - 1) >> 1
    mantissa = torch.ldexp(half, exponent - 2 * e)
    # The root of zero is zero, its inverse infinite, that of a negative number NaN.
    scale = torch.ldexp(torch.ones_like(x), sign * e)
    zero = x == 0
    scale = torch.where(zero, 0.0 if sign > 0 else math.inf, scale)
    mantissa = torch.where(zero, 1.0, mantissa)
    return torch.where(x < 0, math.nan, mantissa), scale


def _is_positive(x: Tensor) -> bool:
    """Whether every number is positive, finite and normal, where that can be seen at no cost."""
    if is_watched() or not (is_memory(x) and x.is_cpu):
        return False
    least, most = torch.aminmax(x.detach())
    return float(least) >= torch.finfo(x.dtype).tiny and float(most) < math.inf


def whole_and_rest(x: Tensor) -> tuple[Tensor, Tensor]:
    """2**x = 2**rest * scale, the rest in [0, 1)."""
    integer, fraction, bias = LAYOUT[x.dtype]
    x = x.clamp(-bias, bias + 1)
    whole = x.floor()
    # Below the smallest normal number the scale's bits are those of zero, at the top of infinity;
    # those of NaN do not matter, which the rest is as well.
    scale = ((whole + bias).to(integer) << fraction).view(x.dtype)
    return x - whole, scale
