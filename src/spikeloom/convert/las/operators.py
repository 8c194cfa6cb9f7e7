r"""Operators on spike trains, and the layers made of them.

Each operator has two forms that agree: *spikes*, in which K weighted spikes enter and leave step
by step, and *decoded*, which computes with their sums and is fast. A bilinear operator sends at
step t what the prefix sums :math:`S(t)` of its operands add to its result,

.. math:: P_t = S_A(t)\,S_B(t) - S_A(t-1)\,S_B(t-1) = A_t\,S_B(t) + S_A(t-1)\,B_t

which needs additions only, and adds up to :math:`S_A(K)\,S_B(K)`.

Source: LAS, arXiv:2505.09659 (AAAI 2026).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.convert.las.sites import Make, SharedSite, Site, fired, made
from spikeloom.kernel.call import COMPUTED, run
from spikeloom.kernel.neuron import Neuron
from spikeloom.neurons import LinearHG, Reduced, fit_hg, fit_reduced
from spikeloom.neurons.tables import FUNCTIONS

__all__ = [
    "Activation",
    "Attention",
    "GatedMLP",
    "LayerNorm",
    "Linear",
    "RMSNorm",
    "Softmax",
    "Spiking",
    "linear",
    "matrix_product",
    "product",
]


# --- Operators on spike trains -----------------------------------------------------------------


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
    return y if bias is None else with_constant(y, bias)


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


def with_constant(spikes: Tensor, constant: Tensor) -> Tensor:
    """Spikes ``[K, *]`` and a constant that leaves with the first of them."""
    return torch.cat([(spikes[:1] + constant), spikes[1:]])


def same_steps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two spike trains, the shorter one silent at its end."""
    steps = max(len(a), len(b))
    return _lengthened(a, steps), _lengthened(b, steps)


def _lengthened(spikes: Tensor, steps: int) -> Tensor:
    silent = spikes.new_zeros(steps - len(spikes), *spikes.shape[1:])
    return torch.cat([spikes, silent]) if len(silent) else spikes


# --- Layers ------------------------------------------------------------------------------------


class Spiking(nn.Module):
    """A layer in two forms.

    Attributes:
        form: ``"decoded"``: fast; ``"spikes"``: step by step, the same result.
        observing: During calibration the layer computes what the original did.
    """

    form = "decoded"
    observing = True

    def forward(self, x: Tensor) -> Tensor:
        """The layer's value."""
        if self.observing:
            return self.exact(x)
        if self.form == "spikes":
            return self.spikes(x).sum(0)
        return self.decoded(x)

    def exact(self, x: Tensor) -> Tensor:
        """What the original layer computes, its sites observing."""
        return self.decoded(x)

    def decoded(self, x: Tensor) -> Tensor:
        """The value, computed with decoded spikes."""
        raise NotImplementedError

    def spikes(self, x: Tensor) -> Tensor:
        """The spikes ``[K, *]`` that add up to the value."""
        raise NotImplementedError


class Linear(Spiking):
    """A linear layer whose input is spikes.

    Args:
        weight: ``[out, in]``, or ``[in, out]`` when transposed.
        bias: ``[out]`` or None.
        transposed: The weight is GPT-2's ``Conv1D``'s.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, transposed: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.transposed = transposed
        # Named as those of the layer it replaces, for code that asks.
        self.out_features, self.in_features = self._matrix().shape
        self.site: Site | SharedSite = Site()

    def _matrix(self) -> Tensor:
        return self.weight.T if self.transposed else self.weight

    def share(self, site: Site) -> None:
        """Read the spikes of another layer's site."""
        # A plain attribute may not take the place of a module.
        del self.site
        self.site = SharedSite(site)

    @property
    def source(self) -> Site:
        """The site that encodes the input, its own or another layer's."""
        return self.site.site if isinstance(self.site, SharedSite) else self.site

    def decoded(self, x: Tensor) -> Tensor:
        """``W x + b`` of the decoded input."""
        return nn.functional.linear(self.site(x), self._matrix(), self.bias)

    def spikes(self, x: Tensor) -> Tensor:
        """``W`` times each spike."""
        return linear(self.site.spikes(x), self._matrix(), self.bias)

    def extra_repr(self) -> str:
        """Its sizes."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


@lru_cache(maxsize=256)
def activation_neuron(
    function: str, low: float, high: float, steps: int, segments: int
) -> tuple[LinearHG, Neuron]:
    """An activation on a range, with the tails that it has; and its closed form."""
    reach = {"gelu": 6.0, "gelu_tanh": 6.0, "quick_gelu": 8.0, "silu": 16.0, "relu": 2.0**-10}
    if function in reach:
        core = reach[function]
        tails: dict[str, Any] = {"zero_below": -core, "identity_above": core}
        # Two pieces an octave beyond the core come on top.
        segments += 2 * max(0, math.ceil(math.log2(high / core))) + 1
    else:
        low, high, tails = max(low, -9.0), min(high, 9.0), {}
    neuron = fit_hg(function, low, high, steps, segments=segments, strict=False, **tails)
    return neuron, neuron.decoder()


class Activation(Spiking):
    """A scalar function by a gated few-spike neuron.

    Args:
        function: A name in :data:`spikeloom.neurons.tables.FUNCTIONS`.
    """

    def __init__(self, function: str) -> None:
        super().__init__()
        self.function = function
        self.name = ""
        self.node: nn.Module | None = None
        self.low = self.high = 0.0

    def exact(self, x: Tensor) -> Tensor:
        """The function itself; its range is observed."""
        if x.numel():
            least, most = (float(value) for value in torch.aminmax(x.detach()))
            if not math.isfinite(least + most):
                raise ValueError(f"calibration: the input of {self.name} holds NaN or infinity")
            self.low, self.high = min(self.low, least), max(self.high, most)
        return FUNCTIONS[self.function](x)

    def fit(self, steps: int, segments: int, headroom: float) -> None:
        """Generate the table for what was observed."""
        # A power of two, so that layers share tables; at least two octaves beyond the core.
        reach = max(abs(self.low), self.high, 16.0) * headroom
        reach = 2.0 ** math.ceil(math.log2(reach))
        self.install(steps, segments, reach)

    def install(self, steps: int, segments: int, reach: float) -> None:
        """Take the table for magnitudes up to ``reach``."""
        self.steps, self.segments, self.reach = steps, segments, max(reach, 32.0)
        self.neuron, self._decoder = activation_neuron(
            self.function, -self.reach, self.reach, steps, segments
        )

    def decoded(self, x: Tensor) -> Tensor:
        """The function of every element."""
        y, _ = run(self._decoder, x.reshape(-1, x.shape[-1]))
        return y.view(x.shape)

    def spikes(self, x: Tensor) -> Tensor:
        """The weighted spikes of the function of every element."""
        if self.node is not None:
            return fired(self.node, x, self.neuron)
        y, _ = run(self.neuron, x[None])
        return y

    def fire_through(self, make: Make | None) -> None:
        """Let a host's module fire the spikes, or again the layer itself."""
        self.node = None if make is None else made(make, self.neuron)

    def extra_repr(self) -> str:
        """The function."""
        return self.function


class GatedMLP(Spiking):
    """``down(act(gate x) * up x)``, the product one of spike trains.

    Args:
        gate_proj: A spiking linear layer; named as in the network that it comes from.
        up_proj: A spiking linear layer.
        down_proj: A spiking linear layer.
        act_fn: A spiking activation.
    """

    def __init__(
        self, gate_proj: Linear, up_proj: Linear, down_proj: Linear, act_fn: Activation
    ) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = gate_proj, up_proj, down_proj
        self.act_fn = act_fn
        self.factor = Site()

    def decoded(self, x: Tensor) -> Tensor:
        """The block of decoded spikes."""
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.factor(self.up_proj(x)))

    def spikes(self, x: Tensor) -> Tensor:
        """The block, step by step."""
        gate = self.act_fn.spikes(self.gate_proj.spikes(x).sum(0))
        up = self.factor.spikes(self.up_proj.spikes(x).sum(0))
        return self.down_proj.spikes(product(*same_steps(gate, up)).sum(0))


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
        e = self.power(_octaves_below_maximum(_wide(x)))
        return (e * self.reciprocal(e.sum(-1, keepdim=True))).to(x.dtype)

    def spikes(self, x: Tensor) -> Tensor:
        """The spikes ``[K, *]`` that add up to the probabilities; float32 for half precision."""
        e = self.power.spikes(_octaves_below_maximum(_wide(x)))
        total = e.sum(0).sum(-1, keepdim=True)
        return product(e, self.reciprocal.spikes(total))


def _wide(x: Tensor) -> Tensor:
    """In float32 at least: squares and sums overflow in half precision, as torch's own know."""
    return x.to(COMPUTED[x.dtype])


def _octaves_below_maximum(x: Tensor) -> Tensor:
    return (x - x.amax(-1, keepdim=True)) * math.log2(math.e)


class Norm(Spiking):
    """What LayerNorm and RMSNorm share: x / sqrt(mean x^2 + eps), encoded before and after."""

    def __init__(self, weight: nn.Parameter | None, bias: nn.Parameter | None, eps: float) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = weight, bias, eps
        self.before, self.after = Site(), Site()
        self.install(8, 32)

    def install(self, steps: int, segments: int) -> None:
        """Take tables of K steps."""
        self.steps, self.segments = steps, segments
        self.square: Reduced = fit_reduced("square", steps, segments=segments)
        self.rsqrt: Reduced = fit_reduced("rsqrt", steps, segments=segments)

    def _centred(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        """The norm, computed in float32 at least."""
        return super().forward(_wide(x)).to(x.dtype)

    def exact(self, x: Tensor) -> Tensor:
        """The norm itself; its sites observe."""
        x = self.before(self._centred(x))
        scale = torch.rsqrt(self._variance(x.square()))
        return self._scaled(self.after(x * scale))

    def decoded(self, x: Tensor) -> Tensor:
        """The norm of decoded spikes."""
        x = self.before(self._centred(x))
        scale = self.rsqrt(self._variance(self.square(x)))
        return self._scaled(self.after(x * scale))

    def spikes(self, x: Tensor) -> Tensor:
        """The norm, step by step."""
        s = self.before.spikes(self._centred(x))
        scale = self.rsqrt.spikes(self._variance(self.square.spikes(s.sum(0)).sum(0)))
        y = self.after.spikes(product(*same_steps(s, scale)).sum(0))
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else with_constant(y, self.bias)

    def _variance(self, squares: Tensor) -> Tensor:
        return squares.mean(-1, keepdim=True) + self.eps

    def _scaled(self, x: Tensor) -> Tensor:
        if self.weight is None:
            return x
        return x * self.weight if self.bias is None else torch.addcmul(self.bias, x, self.weight)

    def extra_repr(self) -> str:
        """Its eps."""
        return f"eps={self.eps}"


class LayerNorm(Norm):
    """Layer normalisation of the last axis, its eps honoured."""

    def _centred(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True)


class RMSNorm(Norm):
    """Root-mean-square normalisation of the last axis, its eps honoured."""


class Attention(nn.Module):
    """The sites and tables of one attention: queries, keys, values, probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.form = "decoded"
        self.observing = True
        self.q, self.k, self.v = (Site((-3, -1)) for _ in range(3))
        # A token alone attends to itself with one, which calibration may not have seen.
        self.p = Site((), bound=1.0)
        self.softmax = Softmax()

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float
    ) -> tuple[Tensor, Tensor]:
        """Scaled dot-product attention.

        Args:
            q: ``[batch, heads, queries, features]``.
            k: ``[batch, heads or groups, keys, features]``; likewise ``v``.
            v: Values.
            mask: Added to the scores; broadcasts to ``[batch, heads, queries, keys]``.
            scaling: Times the scores.

        Returns:
            The context ``[batch, heads, queries, features]`` and the probabilities.
        """
        if self.form == "spikes" and not self.observing:
            return self._spikes(q, k, v, mask, scaling)
        q, k, v = self.q(q), _repeated(self.k(k), q), _repeated(self.v(v), q)
        scores = _masked(q @ k.transpose(-2, -1) * scaling, mask)
        exact = self.observing
        p = self.p(scores.softmax(-1) if exact else self.softmax.decoded(scores))
        return p @ v, p

    def _spikes(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float
    ) -> tuple[Tensor, Tensor]:
        sq, sk, sv = self.q.spikes(q), self.k.spikes(k), self.v.spikes(v)
        sk, sv = (torch.stack([_repeated(step, q) for step in s]) for s in (sk, sv))
        scores = matrix_product(*same_steps(sq, sk.transpose(-2, -1))).sum(0)
        probabilities = self.softmax.spikes(_masked(scores * scaling, mask)).sum(0).to(q.dtype)
        sp = self.p.spikes(probabilities)
        return matrix_product(*same_steps(sp, sv)).sum(0), sp.sum(0)


def _repeated(x: Tensor, q: Tensor) -> Tensor:
    """Keys or values of a group of heads, once for each head."""
    groups = q.shape[1] // x.shape[1]
    return x if groups == 1 else x.repeat_interleave(groups, 1)


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores + mask[..., : scores.shape[-1]]
