"""Spiking norms of the last axis: LayerNorm and RMSNorm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spikeloom.convert.las.layers import Spiking, owned, the_argument, wide
from spikeloom.convert.las.sites import VALUES, Site
from spikeloom.convert.las.trains import add_once, product, same_steps
from spikeloom.modules import register
from spikeloom.neurons import Reduced, fit_reduced

__all__ = ["LayerNorm", "Norm", "RMSNorm"]


class Norm(Spiking):
    """What LayerNorm and RMSNorm share: x / sqrt(mean x^2 + eps), of an encoded x.

    The result is a product of spike trains. Whatever multiplies it encodes it.
    """

    def __init__(self, weight: Tensor | None, bias: Tensor | None, eps: float | None) -> None:
        super().__init__()
        self._take(weight, bias, eps)

    def _take(self, weight: Tensor | None, bias: Tensor | None, eps: float | None) -> None:
        self.weight = None if weight is None else owned(weight)
        self.bias = None if bias is None else owned(bias)
        self.eps = eps
        self.before = Site()
        self.install(8, 32)

    def install(self, steps: int, segments: int) -> None:
        """Take tables of K steps."""
        self.steps, self.segments = steps, segments
        self.square: Reduced = fit_reduced("square", steps, segments=segments)
        self.rsqrt: Reduced = fit_reduced("rsqrt", steps, segments=segments)

    def _centred(self, x: Tensor) -> Tensor:
        return x

    def forward(self, *args: Tensor, **named: Tensor) -> Tensor:
        """The norm, computed in float32 at least."""
        x = the_argument(args, named)
        # As torch's, which a view may follow.
        return super().forward(wide(x)).to(x.dtype).contiguous()

    def exact(self, x: Tensor) -> Tensor:
        """The norm itself; its site observes."""
        x = self.before(self._centred(x))
        scale = torch.rsqrt(self._variance(x.square()))
        return self._scaled(x * scale)

    def decoded(self, x: Tensor) -> Tensor:
        """The norm of decoded spikes."""
        x = self.before(self._centred(x))
        scale = self.rsqrt(self._variance(self.square(x)))
        return self._scaled(x * scale)

    def spikes(self, x: Tensor) -> Tensor:
        """The norm, step by step."""
        s = self.before.spikes(self._centred(x))
        scale = self.rsqrt.spikes(self._variance(self.square.spikes(s.sum(0)).sum(0)))
        y = product(*same_steps(s, scale))
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else add_once(y, self.bias)

    def _variance(self, squares: Tensor) -> Tensor:
        # Without an eps torch takes that of the dtype it computes in.
        eps = torch.finfo(squares.dtype).eps if self.eps is None else self.eps
        return squares.mean(-1, keepdim=True) + eps

    def _scaled(self, x: Tensor) -> Tensor:
        if self.weight is None:
            return x
        return x * self.weight if self.bias is None else torch.addcmul(self.bias, x, self.weight)

    def extra_repr(self) -> str:
        """Its eps."""
        return f"eps={self.eps}"


register(Norm, VALUES)


class LayerNorm(Norm, nn.LayerNorm):  # type: ignore[misc]  # torch declares its bias a tensor
    """``nn.LayerNorm`` of the last axis on spikes.

    Args:
        original: The norm; its weights are shared, not copied.
    """

    def __init__(self, original: nn.LayerNorm) -> None:
        nn.LayerNorm.__init__(self, original.normalized_shape, elementwise_affine=False)
        self.elementwise_affine = original.elementwise_affine
        self._take(original.weight, original.bias, original.eps)

    def _centred(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True)


class RMSNorm(Norm):
    """Root-mean-square normalisation of the last axis, its eps honoured."""
