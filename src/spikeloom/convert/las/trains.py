r"""Operators on spike trains ``[K, *]``: what adds up to the operator on their sums.

A bilinear operator sends at step t what the prefix sums :math:`S(t)` of its operands add to its
result,

.. math:: P_t = S_A(t)\,S_B(t) - S_A(t-1)\,S_B(t-1) = A_t\,S_B(t) + S_A(t-1)\,B_t

which needs additions only, and adds up to :math:`S_A(K)\,S_B(K)`.

Source: LAS, arXiv:2505.09659 (AAAI 2026).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["add_once", "linear", "matrix_product", "product", "same_steps"]


def linear(spikes: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer on spikes; the bias enters once, at the first step.

    Args:
        spikes: ``[K, *, in]``.
        weight: ``[out, in]``.
        bias: ``[out]``.

    Returns:
        ``[K, *, out]``.
    """
    y = nn.functional.linear(spikes, weight)
    return y if bias is None else add_once(y, bias)


def product(a: Tensor, b: Tensor) -> Tensor:
    """The elementwise product of two spike trains ``[K, *]``, by prefix differences."""
    return _bilinear(torch.mul, a, b)


def matrix_product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product of two spike trains ``[K, *, n, m]`` and ``[K, *, m, p]``."""
    return _bilinear(torch.matmul, a, b)


def _bilinear(times: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    if len(a) != len(b):
        raise ValueError(f"spike trains must have the same number of steps: {len(a)}, {len(b)}")
    until_a, until_b = a.cumsum(0), b.cumsum(0)
    y = times(a, until_b)
    y[1:] += times(until_a[:-1], b[1:])
    return y


def add_once(spikes: Tensor, constant: Tensor) -> Tensor:
    """Spikes ``[K, *]`` and a constant that leaves with the first of them, added in place."""
    spikes[0] += constant
    return spikes


def same_steps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two spike trains, the shorter one silent at its end."""
    steps = max(len(a), len(b))
    return _lengthened(a, steps), _lengthened(b, steps)


def _lengthened(spikes: Tensor, steps: int) -> Tensor:
    silent = spikes.new_zeros(steps - len(spikes), *spikes.shape[1:])
    return torch.cat([spikes, silent]) if len(silent) else spikes
