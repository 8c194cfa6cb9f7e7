"""Spiking attention: queries, keys, values and the probabilities of a softmax by spikes."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from spikeloom.convert.las.blocks import attend, masked
from spikeloom.convert.las.layers import wide
from spikeloom.convert.las.sites import VALUES, Site
from spikeloom.convert.las.trains import matrix_product, product, same_steps
from spikeloom.modules import register
from spikeloom.neurons import fit_reduced

__all__ = ["ATTENTION", "EAGER", "OBSERVING", "Attention", "Softmax"]

# The names that transformers knows it by; while observing it may get its sites.
ATTENTION, OBSERVING = "spikeloom_las", "spikeloom_las_observing"
# The attribute of an attention that is computed by the operations of its own file.
EAGER = "las_eager"


class Softmax(nn.Module):
    """Softmax over the last axis: exponential, reciprocal and product of spikes.

    The maximum is subtracted first, so the largest exponential is one and the sum at least one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.install(8, 32)

    def install(self, steps: int, segments: int) -> None:
        """Take tables of K steps."""
        self.steps, self.segments = steps, segments
        self.power = fit_reduced("exp2", steps, segments=segments)
        self.reciprocal = fit_reduced("reciprocal", steps, segments=segments)

    def decoded(self, x: Tensor) -> Tensor:
        """The probabilities."""
        e = self.power(_octaves_below_maximum(wide(x)))
        return (e * self.reciprocal(e.sum(-1, keepdim=True))).to(x.dtype)

    def spikes(self, x: Tensor) -> Tensor:
        """The spikes ``[K, *]`` that add up to the probabilities; float32 for half precision."""
        e = self.power.spikes(_octaves_below_maximum(wide(x)))
        total = e.sum(0).sum(-1, keepdim=True)
        return product(e, self.reciprocal.spikes(total))


def _octaves_below_maximum(x: Tensor) -> Tensor:
    # Of nothing there is no maximum.
    return (x - x.amax(-1, keepdim=True)) * math.log2(math.e) if x.numel() else x


class Attention(nn.Module):
    """The sites and tables of one attention: queries, keys, values, probabilities.

    Args:
        of_heads: Whether the second axis is one of heads, which have ranges of their own.
    """

    def __init__(self, of_heads: bool = True) -> None:
        super().__init__()
        self.form = "decoded"
        self.observing = True
        self.q, self.k, self.v = (Site((-3, -1) if of_heads else (-1,)) for _ in range(3))
        # A token alone attends to itself with one, which calibration may not have seen.
        self.p = Site((), bound=1.0)
        self.softmax = Softmax()

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        scaling: float,
        weights: bool = True,
        encoded: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Scaled dot-product attention.

        Args:
            q: ``[batch, heads, queries, features]``.
            k: ``[batch, heads or groups, keys, features]``; likewise ``v``.
            v: Values.
            mask: Boolean, or of any float dtype and added to the scores; broadcasts to
                ``[batch, heads, queries, keys]``.
            scaling: Times the scores.
            weights: Whether the probabilities are asked for.
            encoded: Whether keys and values are those of spikes already.

        Returns:
            The context ``[batch, heads, queries, features]`` and the probabilities, which may be
            None where they are not asked for.
        """
        if self.form == "spikes" and not self.observing:
            return self._spikes(q, k, v, mask, scaling)
        q = self.q(q)
        if not encoded:
            k, v = self.k(k), self.v(v)
        if self.observing or _may_be_differentiated(q, k, v, mask):
            return self._whole(q, k, v, mask, scaling)
        probabilities = partial(self._probabilities, dtype=q.dtype)
        return attend(q, k, v, mask, scaling, probabilities, weights)

    def as_in_torch(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        scaling: float,
        weights: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """The same, but a query whose mask is False or minus infinity throughout gets zero.

        Args:
            q: As for :meth:`forward`.
            k: Likewise.
            v: Likewise.
            mask: Likewise.
            scaling: Likewise.
            weights: Likewise.
        """
        if mask is None:
            return self.forward(q, k, v, None, scaling, weights)
        if mask.dtype == torch.bool:
            blind = ~mask.any(-1, keepdim=True)
        else:
            blind = (mask == -torch.inf).all(-1, keepdim=True)
            # A finite floor, so that no score of such a query becomes NaN.
            mask = mask.clamp(min=torch.finfo(q.dtype).min / 4)
        context, p = self.forward(q, k, v, mask, scaling, weights)
        return context.masked_fill(blind, 0.0), None if p is None else p.masked_fill(blind, 0.0)

    def may_skip(self, key: Tensor) -> bool:
        """Whether keys and values of earlier calls need not be encoded again."""
        decoded = self.form == "decoded" and not self.observing
        return decoded and not _may_be_differentiated(key)

    @property
    def code(self) -> str:
        """Tells attentions apart that make other spikes of the same keys or values."""
        return f"{self.k.code} {self.v.code}"

    def _probabilities(self, scores: Tensor, dtype: torch.dtype) -> Tensor:
        """Those of the scores, which are wider than their queries if the mask is."""
        p: Tensor = self.p(self.softmax.decoded(scores).to(dtype))
        return p

    def _whole(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float
    ) -> tuple[Tensor, Tensor]:
        """All scores at once, of encoded values, or of those that calibration observes."""
        k, v = _repeated(k, q), _repeated(v, q)
        scores = masked(q @ k.transpose(-2, -1) * scaling, mask)
        if self.observing:
            p = self.p(scores.softmax(-1).to(q.dtype))
        else:
            p = self._probabilities(scores, q.dtype)
        return p @ v, p

    def _spikes(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float
    ) -> tuple[Tensor, Tensor]:
        sq, sk, sv = self.q.spikes(q), self.k.spikes(k), self.v.spikes(v)
        sk, sv = (torch.stack([_repeated(step, q) for step in s]) for s in (sk, sv))
        scores = matrix_product(*same_steps(sq, sk.transpose(-2, -1))).sum(0)
        probabilities = self.softmax.spikes(masked(scores * scaling, mask)).sum(0).to(q.dtype)
        sp = self.p.spikes(probabilities)
        return matrix_product(*same_steps(sp, sv)).sum(0), sp.sum(0)


register(Attention, VALUES)


def _repeated(x: Tensor, q: Tensor) -> Tensor:
    """Keys or values of a group of heads, once for each head."""
    groups = q.shape[1] // x.shape[1]
    return x if groups == 1 else x.repeat_interleave(groups, 1)


def _may_be_differentiated(*tensors: Tensor | None) -> bool:
    """Whether gradients may be needed, or the operations are recorded."""
    if torch.compiler.is_compiling():
        return True
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
