"""The same as by bits, from comparisons and exact products, for graphs without such operators.

A number is compared with a few powers of two, the largest first, and multiplied by those that fit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["even_parts", "logarithm", "mantissa_and_scale", "whole_and_rest"]


def mantissa_and_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """|x| = mantissa * scale, the mantissa in [1, 2)."""
    mantissa, exponent = _reduced(x, 1)
    return _where_endless(x, mantissa, 1.0), _where_endless(x, _power(exponent), x.abs())


def logarithm(x: Tensor) -> Tensor:
    """The logarithm of the power of two at or below x."""
    _, exponent = _reduced(x, 1)
    ends = torch.where(x == 0, -math.inf, math.inf).to(x.dtype)
    return _where_endless(x, exponent * math.log(2.0), ends)


def even_parts(x: Tensor, sign: int) -> tuple[Tensor, Tensor]:
    """X = mantissa * 4**e, the mantissa in [1, 4); returns it and 2**(sign * e)."""
    mantissa, exponent = _reduced(x, 2)
    zero = x == 0
    scale = torch.where(zero, 0.0 if sign > 0 else math.inf, _power(sign * exponent))
    return torch.where(x < 0, math.nan, torch.where(zero, 1.0, mantissa)), scale


def whole_and_rest(x: Tensor) -> tuple[Tensor, Tensor]:
    """2**x = 2**rest * scale, the rest in [0, 1)."""
    bias = _bias(x)
    x = x.clamp(-bias, bias + 1)
    whole = x.floor()
    return x - whole, _power(whole)


def _bias(x: Tensor) -> int:
    """The exponent of the largest power of two; beyond its negative, numbers have fewer bits."""
    return math.frexp(torch.finfo(x.dtype).max)[1] - 1


def _octaves(x: Tensor) -> list[int]:
    """The numbers of octaves to try, as 64, 32, ..., 1, whose sum is the bias."""
    return [1 << bit for bit in reversed(range(_bias(x).bit_length()))]


def _reduced(x: Tensor, unit: int) -> tuple[Tensor, Tensor]:
    """|x| = mantissa * 2**(unit * e), the mantissa in [1, 2**unit), and e; of 0 it is 0."""
    mantissa, exponent = x.abs(), torch.zeros_like(x)
    octaves = [count for count in _octaves(x) if count >= unit]
    for count in octaves:
        large = mantissa >= 2.0**count
        mantissa = torch.where(large, mantissa * 2.0**-count, mantissa)
        exponent = torch.where(large, exponent + count // unit, exponent)
    # The largest twice: the smallest numbers lie further below 1 than the largest above.
    for count in (octaves[0], *octaves):
        small = mantissa < 2.0 ** (unit - count)
        mantissa = torch.where(small, mantissa * 2.0**count, mantissa)
        exponent = torch.where(small, exponent - count // unit, exponent)
    return mantissa, exponent


def _power(exponent: Tensor) -> Tensor:
    """2**exponent of whole numbers; 0 below the smallest normal number, infinite at the top."""
    left, power = exponent.abs(), torch.ones_like(exponent)
    for count in _octaves(exponent):
        has = left >= count
        scaled = torch.where(exponent < 0, power * 2.0**-count, power * 2.0**count)
        power = torch.where(has, scaled, power)
        left = torch.where(has, left - count, left)
    bias = _bias(exponent)
    return torch.where(exponent > bias, math.inf, torch.where(exponent <= -bias, 0.0, power))


def _where_endless(x: Tensor, otherwise: Tensor, ends: Tensor | float) -> Tensor:
    """``ends`` where x is 0 or infinite, which have no exponent."""
    return torch.where((x == 0) | (x.abs() == math.inf), ends, otherwise)
