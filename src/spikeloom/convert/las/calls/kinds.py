"""Spiking calls: a product, a function, a softmax, a norm or an attention at its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from spikeloom.convert.las.attention import Attention, Softmax
from spikeloom.convert.las.layers import Activation, Spiking
from spikeloom.convert.las.norms import LayerNorm, Norm, RMSNorm
from spikeloom.convert.las.sites import VALUES, Site
from spikeloom.convert.las.trains import same_steps
from spikeloom.modules import register
from spikeloom.neurons import Reduced, fit_reduced

__all__ = ["KINDS", "AttentionCall", "Function", "Magnitude", "NormCall", "Product", "SoftmaxCall"]

Compute = Callable[..., Any]


class Product(nn.Module):
    """A product that is linear in each of its factors; activations among them become spikes.

    Args:
        axes: Factor that is an activation, by the position of its argument -> its axis of features,
            which have ranges of their own; None for one range.

    Attributes:
        multiply_adds: Those of its products of matrices and convolutions in calibration.
    """

    def __init__(self, axes: dict[int, int | None]) -> None:
        super().__init__()
        self.form, self.observing = "decoded", True
        self.multiply_adds = 0
        self.axes: dict[int, int | None] = {}
        for position, axis in axes.items():
            self.encode(position, axis)

    def spec(self) -> dict[str, Any]:
        """The arguments that make it again."""
        return {"axes": [[position, axis] for position, axis in self.axes.items()]}

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Product:
        """What :meth:`spec` describes."""
        return cls(dict(spec["axes"]))

    def encode(self, position: int, axis: int | None) -> None:
        """Let spikes take the place of a further factor."""
        if position not in self.axes:
            self.axes[position] = axis
            self.add_module(f"factor_{position}", Site(() if axis is None else (-1,)))

    def forward(self, function: Compute, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """The product.

        Args:
            function: What is computed.
            args: Its arguments by position.
            kwargs: Its arguments by name.
        """
        if self.form == "spikes" and not self.observing:
            return self._spikes(function, args, kwargs)
        args = list(args)
        for position in self.axes:
            args[position] = self._encoded(position, args[position], "forward")
        if self.observing and all(site.looks for site in self.children()):
            with FlopCounterMode(display=False) as counter:
                y = function(*args, **kwargs)
            self.multiply_adds += counter.get_total_flops() // 2  # it counts both
            return y
        return function(*args, **kwargs)

    def _encoded(self, position: int, x: Tensor, how: str) -> Tensor:
        """A factor with its features last, encoded."""
        axis, site = self.axes[position], getattr(self, f"factor_{position}")
        encode = site if how == "forward" else site.spikes
        if axis in (None, -1):
            y: Tensor = encode(x)
            return y
        y = encode(x.movedim(axis, -1).contiguous()).movedim(-1, axis)
        return y.contiguous() if x.is_contiguous() else y

    def _spikes(self, function: Compute, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """What each step adds to the product of what has arrived, added up."""
        positions = list(self.axes)
        trains = [self._encoded(position, args[position], "spikes") for position in positions]
        if len(trains) == 2:
            trains = list(same_steps(*trains))

        def product(*factors: Tensor) -> Any:
            given = list(args)
            for position, factor in zip(positions, factors, strict=True):
                given[position] = factor
            return function(*given, **kwargs)

        silent = [torch.zeros_like(train[0]) for train in trains]
        base = product(*silent)  # a bias, or what the product is added to
        total, arrived = base, silent
        for spikes in zip(*trains, strict=True):
            for number, spike in enumerate(spikes):
                given = [*arrived[:number], spike, *arrived[number + 1 :]]
                total = total + (product(*given) - base)
                arrived = [*arrived[:number], arrived[number] + spike, *arrived[number + 1 :]]
        return total


class Function(nn.Module):
    """A function of every element by a gated few-spike neuron.

    Args:
        function: A name in :data:`spikeloom.neurons.tables.FUNCTIONS`.
    """

    def __init__(self, function: str) -> None:
        super().__init__()
        self.table = Activation(function)

    def spec(self) -> dict[str, Any]:
        """The arguments that make it again."""
        return {"function": self.table.function}

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Function:
        """What :meth:`spec` describes."""
        return cls(**spec)

    def forward(self, function: Compute, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """The function of the first argument."""
        return self.table(args[0])


class Magnitude(Spiking):
    """A power, a root or an exponential, of numbers of any magnitude.

    Args:
        function: As for :func:`spikeloom.neurons.fit_reduced`.
    """

    def __init__(self, function: str) -> None:
        super().__init__()
        self.function = function
        self.install(8, 32)

    def spec(self) -> dict[str, Any]:
        """The arguments that make it again."""
        return {"function": self.function}

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Magnitude:
        """What :meth:`spec` describes."""
        return cls(**spec)

    def install(self, steps: int, segments: int) -> None:
        """Take a table of K steps."""
        self.steps, self.segments = steps, segments
        self.table: Reduced = fit_reduced(self.function, steps, segments=segments)

    def forward(  # type: ignore[override]  # a call has more than one argument
        self, function: Compute, args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        """The function of the first argument."""
        x = args[0]
        if self.observing:
            return function(*args, **kwargs)
        return self.table.spikes(x).sum(0) if self.form == "spikes" else self.table(x)


class SoftmaxCall(nn.Module):
    """A softmax over any axis."""

    def __init__(self) -> None:
        super().__init__()
        self.form, self.observing = "decoded", True
        self.table = Softmax()

    def spec(self) -> dict[str, Any]:
        """The arguments that make it again."""
        return {}

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> SoftmaxCall:
        """What :meth:`spec` describes."""
        return cls()

    def forward(self, function: Compute, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """The probabilities over the axis that is the second argument."""
        if self.observing:
            return function(*args, **kwargs)
        x, axis = args[0], args[1] if len(args) > 1 else kwargs.get("dim")
        if axis is None:
            axis = 0 if x.dim() in (0, 1, 3) else 1  # as torch takes it
        kind = kwargs.get("dtype", args[2] if len(args) > 2 else None)
        kind = kind if isinstance(kind, torch.dtype) else None
        x = x if kind is None else x.to(kind)
        moved = x.movedim(axis, -1)
        if self.form == "spikes":
            return self.table.spikes(moved).sum(0).to(x.dtype).movedim(-1, axis)
        return self.table.decoded(moved).movedim(-1, axis)


for kind in (Magnitude, SoftmaxCall):
    register(kind, VALUES)


class NormCall(nn.Module):
    """A norm of the last axes without weights, which the call itself multiplies and adds.

    Args:
        centred: Whether the mean is subtracted.
        eps: As in torch.
        channels: Whether the last axis has features, with ranges of their own.
        axes: How many axes there are.
    """

    def __init__(self, centred: bool, eps: float | None, channels: bool, axes: int = 1) -> None:
        super().__init__()
        self.centred, self.eps, self.channels, self.axes = centred, eps, channels, axes
        self.norm: Norm
        if centred:
            assert eps is not None
            self.norm = LayerNorm(nn.LayerNorm(1, eps, elementwise_affine=False))
        else:
            self.norm = RMSNorm(None, None, eps)
        if not channels:
            self.norm.before = Site(())

    def spec(self) -> dict[str, Any]:
        """The arguments that make it again."""
        names = ("centred", "eps", "channels", "axes")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> NormCall:
        """What :meth:`spec` describes."""
        return cls(**spec)

    def forward(self, function: Compute, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """The norm of the first argument."""
        x = args[0]
        return self.norm(x) if self.axes == 1 else self.norm(x.flatten(-self.axes)).view(x.shape)


class AttentionCall(nn.Module):
    """``scaled_dot_product_attention`` by spikes.

    Args:
        of_heads: Whether the third axis from the end is one of heads, which have ranges of their
            own; otherwise it may be as long as it likes.
    """

    def __init__(self, of_heads: bool = True) -> None:
        super().__init__()
        self.of_heads = of_heads
        self.attention = Attention(of_heads)

    def spec(self) -> dict[str, Any]:
        """The arguments that make it again."""
        return {"of_heads": self.of_heads}

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> AttentionCall:
        """What :meth:`spec` describes."""
        return cls(**spec)

    def forward(self, function: Compute, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """The context.

        Args:
            function: torch's.
            args: Query, key, value, and mask, dropout and causality if they are given.
            kwargs: ``scale`` and ``enable_gqa``.
        """
        q, k, v, *rest = args
        given = dict(zip(("attn_mask", "dropout_p", "is_causal"), rest, strict=False))
        kwargs = {**given, **kwargs}
        mask = kwargs.get("attn_mask")
        if (dropout := kwargs.get("dropout_p")) and not self.training:
            raise ValueError(
                f"scaled_dot_product_attention: dropout_p must be 0 outside of training, got "
                f"{dropout}; give dropout_p=p if self.training else 0.0"
            )
        if kwargs.get("is_causal"):
            seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
            mask = seen if mask is None else mask & seen
        scale = kwargs.get("scale")
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        shape, lead = q.shape[:-1], q.shape[:-3]
        q, k, v = (_four(x) for x in (q, k, v))
        if mask is not None and len(lead) > 1 and mask.dim() > 2:
            mask = mask.expand(*lead, *mask.shape[-3:]).flatten(0, len(lead) - 1)
        y, _ = self.attention.as_in_torch(q, k, v, mask, scale)
        return y.reshape(*shape, y.shape[-1])


def _four(x: Tensor) -> Tensor:
    """``[batch, heads, length, features]``, whatever axes there are before the length."""
    return x.reshape(-1, *(1,) * (3 - x.dim()), *x.shape[-3:])


KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (Product, Function, Magnitude, SoftmaxCall, NormCall, AttentionCall)
}
