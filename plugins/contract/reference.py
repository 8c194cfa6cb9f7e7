"""Neurons, plain loops in float64 that compute them too, and comparisons.

Inputs lie on a grid of 1/8 and tau is 2, so float32 computes them without rounding, and many
potentials meet the threshold exactly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import spikeloom
from spikeloom import neurons
from spikeloom.kernel.vocabulary import fire
from spikeloom.neurons.surrogate import ATan

from .host import State

__all__ = [
    "AtanSpike",
    "adaptive",
    "adaptive_loop",
    "adaptive_step",
    "close",
    "grid",
    "lif",
    "lif_loop",
    "raises",
    "same",
    "weight",
]


class AtanSpike(torch.autograd.Function):
    """Fires at u >= 0; differentiates like ``ATan(2.0)``."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        """The spike."""
        ctx.save_for_backward(u)
        return (u >= 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """The derivative of ``ATan(2.0)``."""
        (u,) = ctx.saved_tensors
        return grad / (1 + (math.pi * u) ** 2)


def lif_loop(
    x: Tensor, state: State, tau: Tensor, *, hard: bool, detach: bool
) -> tuple[Tensor, State]:
    """Leaky integrate-and-fire in float64: threshold 1, reset to 0 or by subtraction."""
    (v,) = state
    spikes = []
    for now in x:
        h = v + (now - v) / tau
        s = AtanSpike.apply(h - 1.0)
        reset = s.detach() if detach else s
        v = h * (1 - reset) if hard else h - reset
        spikes.append(s)
    return torch.stack(spikes), (v,)


def lif(*, hard: bool = True, detach: bool = False, tau: float | Tensor = 2.0) -> neurons.LIF:
    """The neuron that ``lif_loop`` computes."""
    v_reset = 0.0 if hard else None
    return neurons.LIF(tau, v_reset=v_reset, detach_reset=detach, surrogate=ATan())


def adaptive_step(x: Any, state: Any, p: Any) -> Any:
    """A neuron as a user writes it: each spike raises the threshold, which then sinks back."""
    v, a = state
    h = v + (x - v) / p.tau
    s = fire(h - 1.0 - a, ATan())
    return s, (h * (1.0 - s), 0.5 * a + p.rise * s)


def adaptive(**params: Any) -> spikeloom.Neuron:
    """The user's neuron: two states, two parameters."""
    return spikeloom.Neuron(
        adaptive_step, state=("v", "a"), params={"tau": 2.0, "rise": 0.5, **params}
    )


def adaptive_loop(x: Tensor, state: State, rise: Tensor) -> tuple[Tensor, State]:
    """The user's neuron in float64."""
    v, a = state
    spikes = []
    for now in x:
        h = v + (now - v) / 2
        s = AtanSpike.apply(h - 1.0 - a)
        v, a = h * (1 - s), 0.5 * a + rise * s
        spikes.append(s)
    return torch.stack(spikes), (v, a)


def grid(*shape: int, seed: int = 0) -> Tensor:
    """Multiples of 1/8 between -2 and 4: potentials often equal the threshold."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-16, 33, shape, generator=generator) / 8


def same(first: Any, second: Any) -> None:
    """Equal to the last bit."""
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def close(first: Any, second: Any, tolerance: float = 1e-5) -> None:
    """Equal in float64 but for rounding."""
    torch.testing.assert_close(first.double(), second, rtol=tolerance, atol=tolerance)


@contextmanager
def raises(error: type[Exception], match: str) -> Iterator[None]:
    """Fail unless the block raises such an error, whose message has this pattern in it."""
    try:
        yield
    except error as found:
        assert re.search(match, str(found)), f"{match!r} is not in {found!s}"
    else:
        raise AssertionError(f"no {error.__name__} with {match!r}")


def weight(y: Tensor) -> Tensor:
    """Distinct weights, so that no two gradients cancel."""
    return torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)
