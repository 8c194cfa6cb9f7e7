"""Dynamical isometry: how a neuron's surrogate derivative lets gradients through."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spikeloom.kernel.call import run
from spikeloom.kernel.neuron import Neuron

__all__ = ["Isometry", "measure_isometry"]

Function = Neuron | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Isometry:
    r"""What :func:`measure_isometry` found of a function f and an input x.

    Attributes:
        phi: :math:`\mathrm{E}[f'(x)^2]`; 1 passes gradients on at their size.
        varphi: :math:`\mathrm{Var}[f'(x)^2]`; 0 treats all alike.
        power: :math:`\mathrm{E}[f(x)^2] / \mathrm{E}[x^2]`.
        correlation: :math:`\mathrm{E}[x f(x)]` over the root of both mean squares; not centred.
        deep_phi: The same as ``phi`` for the Jacobian of several layers,
            :math:`\mathrm{tr}(J J^\top) / n`; None if not asked for.
    """

    phi: float
    varphi: float
    power: float
    correlation: float
    deep_phi: float | None = None


def measure_isometry(
    function: Function,
    samples: Tensor | None = None,
    *,
    depth: int = 0,
    width: int = 256,
    trials: int = 8,
    seed: int = 0,
) -> Isometry:
    r"""Measure how isometric one step of a neuron is, alone and in a deep network.

    A block with Jacobian J is isometric if :math:`\phi(J J^\top) = \mathrm{tr}(J J^\top) / n` is 1
    and :math:`\varphi`, the variance of the same spectrum, is 0; over blocks :math:`\phi`
    multiplies. For an elementwise function :math:`\phi = \mathrm{E}[f'(x)^2]`.

    Three caveats. f' is the surrogate, which is chosen, not the derivative of what fires. A gain
    in the weights repairs a small :math:`\phi`, as He initialisation does for ReLU. And
    isometry is not accuracy: among SpikeLM's amplitudes k = 4 is the most isometric and scores
    worst.

    The deep network alternates random orthogonal weights with the function. Its layers' inputs
    are brought to variance 1, as normalisation would, and that is not differentiated.

    Args:
        function: A neuron, of which the first step from rest counts (or all spikes of a few-spike
            neuron), or an elementwise torch function, called with float64.
        samples: Inputs, of any shape; by default a million standard normal values.
        depth: Layers of the deep network; 0 leaves it out.
        width: Its width n.
        trials: Over how many networks and inputs it is averaged.
        seed: Of every random number drawn.

    Raises:
        TypeError: If the function or the samples are none.
        ValueError: If the samples hold no two different values or are not finite, the function is
            not elementwise or not differentiable, or a count is out of range.

    Example:
        >>> import torch
        >>> from spikeloom.neurons import ElasticBiSpike
        >>> found = measure_isometry(ElasticBiSpike(2 * 0.7979), depth=6)
        >>> round(found.phi, 2), round(found.deep_phi, 1)
        (0.89, 0.5)

    Source: Chen et al., "A Comprehensive and Modularized Statistical Framework for Gradient Norm
    Equality in Deep Neural Networks", TPAMI 2020; Xing et al., ICML 2024.
    """
    for name, count, least in (("depth", depth, 0), ("width", width, 1), ("trials", trials, 1)):
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise ValueError(f"{name}: must be a whole number of at least {least}, got {count!r}")
    generator = torch.Generator().manual_seed(seed)
    if samples is None:
        samples = torch.randn(1_000_000, generator=generator)
    if not callable(function) and not isinstance(function, Neuron):
        raise TypeError(f"function: must be a neuron or a function, got {function!r}")
    if not isinstance(samples, Tensor) or samples.is_complex():
        raise TypeError(f"samples: must be a real tensor, got {samples!r}")
    x = samples.detach().double().reshape(-1)
    if x.numel() < 2 or not bool(x.isfinite().all()) or not float(x.var()) > 0.0:
        raise ValueError("samples: must be finite and hold at least two different values")
    y, slope = _value_and_slope(function, x)
    square = slope**2
    return Isometry(
        phi=float(square.mean()),
        varphi=float(square.var(correction=0)),
        power=float((y**2).mean() / (x**2).mean()),
        correlation=float(torch.cosine_similarity(x, y, dim=0)),
        deep_phi=_deep(function, depth, width, trials, generator) if depth else None,
    )


def _value_and_slope(function: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        # The sum, as a few-spike neuron answers with several spikes.
        y = run(function, x[None], reduce="sum")[0] if isinstance(function, Neuron) else function(x)
        if not isinstance(y, Tensor) or y.shape != x.shape or not y.requires_grad:
            raise ValueError(
                "function: must be elementwise and differentiable, and be called with float64; it "
                f"yields {tuple(y.shape) if isinstance(y, Tensor) else y!r} for {tuple(x.shape)}"
            )
        (slope,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), slope


def _deep(
    function: Function, depth: int, width: int, trials: int, generator: torch.Generator
) -> float:
    found = []
    for _ in range(trials):
        x = torch.randn(width, generator=generator, dtype=torch.float64)
        jacobian = torch.eye(width, dtype=torch.float64)
        for _ in range(depth):
            noise = torch.randn(width, width, generator=generator, dtype=torch.float64)
            weight, _ = torch.linalg.qr(noise)
            h = weight @ x
            spread = float(h.std())
            # A silent layer stays silent; there is nothing to bring to variance 1.
            h = h / spread if spread > 0.0 else h
            x, slope = _value_and_slope(function, h)
            jacobian = slope[:, None] * (weight @ jacobian)
        found.append(float((jacobian**2).sum()) / width)
    return math.fsum(found) / trials
