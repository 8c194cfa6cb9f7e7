"""A linear layer's product, by events where its input is spikes and few of them fire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from spikeloom.kernel.choose import MISSING
from spikeloom.kernel.events import DTYPES, Spikes, pack, product, weight_gradient
from spikeloom.kernel.operators import LIBRARY
from spikeloom.kernel.plain import facts
from spikeloom.nn.break_even import FEWEST, break_even, looked_at

__all__ = ["linear", "rows_of"]

SECOND = (
    "spikeloom: a second derivative was asked for, and an event-driven layer has none; "
    "threshold=0 makes it a dense layer"
)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, threshold: float | None) -> Tensor:
    """``F.linear(x, weight, bias)``, within rounding.

    Args:
        x: ``[*, inputs]``.
        weight: ``[outputs, inputs]``.
        bias: ``[outputs]``, or None.
        threshold: The density up to which events are added; None has it measured.
    """
    if threshold is None and x.numel() * weight.shape[0] < FEWEST:
        return F.linear(x, weight, bias)
    if threshold == 0.0 or MISSING["llvm"] or not _fits(x, weight, bias):
        return F.linear(x, weight, bias)
    if torch.compiler.is_compiling():
        return torch.ops.spikeloom.spike_linear(x, weight, bias, threshold)
    if _is_watched() or not _is_memory(x, weight, bias):
        return F.linear(x, weight, bias)
    learns = torch.is_grad_enabled() and weight.requires_grad
    spikes = spikes_of(x, weight, threshold, learns=learns)
    if spikes is None:
        return F.linear(x, weight, bias)
    return Product.apply(x, weight, bias, spikes)


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether there is a kernel for such tensors; torch says what is wrong with others."""
    if x.dtype not in DTYPES or not x.dim() or weight.dim() != 2:
        return False
    if x.shape[-1] != weight.shape[1] or torch.is_autocast_enabled("cpu"):
        return False
    others = (weight,) if bias is None else (weight, bias)
    return x.is_cpu and all(t.is_cpu and t.dtype == x.dtype for t in others)


def _is_watched() -> bool:
    """Whether somebody looks on who is to see, or to transform, torch's own operation."""
    if forward_ad._current_level >= 0 or torch.jit.is_tracing():
        return True
    if torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack():
        return True
    modes = torch._C._len_torch_function_stack() and _get_current_function_mode_stack()
    return any(not isinstance(mode, DeviceContext) for mode in modes or ())


def _is_memory(*tensors: Tensor | None) -> bool:
    """Whether the values of tensors are what lies at their addresses."""
    return all(tensor is None or facts(tensor) is not None for tensor in tensors)


def spikes_of(x: Tensor, weight: Tensor, threshold: float | None, *, learns: bool) -> Spikes | None:
    """The input as spikes, if it is, and so few of them fire that events are quicker.

    Args:
        x: ``[*, inputs]``.
        weight: ``[outputs, inputs]``.
        threshold: As for :func:`linear`.
        learns: Whether the weight's gradient will be wanted.
    """
    rows = rows_of(x.detach())
    if not rows.numel():
        return None
    limit = break_even(rows, weight, learns=learns) if threshold is None else threshold
    if not limit:
        return None
    spikes = None
    for part in (looked_at(rows), rows):
        packed = pack(part)
        if packed is None or packed[1] > limit * part.numel():
            return None
        spikes, _ = packed
    return spikes


def rows_of(x: Tensor) -> Tensor:
    """A tensor's last axis as dense rows.

    Args:
        x: ``[*, inputs]``, with values.
    """
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


class Product(torch.autograd.Function):
    """The product of spikes and a weight; of the spikes only bits are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, spikes: Spikes) -> Tensor:
        wanted = ctx.needs_input_grad
        kept = (spikes.bits, spikes.negative, spikes.amplitude) if wanted[1] else (None,) * 3
        ctx.save_for_backward(weight if wanted[0] else None, *kept)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        return product(spikes, weight, bias).view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        weight, *kept = ctx.saved_tensors
        spikes = Spikes(ctx.shape[-1], ctx.dtype, *kept) if ctx.needs_input_grad[1] else None
        what = gy, weight, spikes, ctx.needs_input_grad[2]
        found = _Gradients.apply(*what) if torch.is_grad_enabled() else gradients(*what)
        return (*found, None)


class _Gradients(torch.autograd.Function):
    """The gradients as a function of their own, so that a second derivative is refused."""

    @staticmethod
    def forward(ctx: Any, *what: Any) -> tuple[Tensor | None, ...]:
        return gradients(*what)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        raise RuntimeError(SECOND)


def gradients(
    gy: Tensor, weight: Tensor | None, spikes: Spikes | None, bias: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of the input, the weight and the bias, None where nobody wants them.

    Args:
        gy: The gradient of the output, ``[*, outputs]``.
        weight: The weight if the input's gradient is wanted.
        spikes: The input if the weight's gradient is.
        bias: Whether the bias's gradient is.
    """
    rows = rows_of(gy)
    gx = None if weight is None else gy @ weight
    gw = None if spikes is None else weight_gradient(spikes, rows)
    return gx, gw, rows.sum(0) if bias else None


# --- As torch compiles it ---

LIBRARY.define("spike_linear(Tensor x, Tensor weight, Tensor? bias, float? threshold) -> Tensor")
LIBRARY.define(
    "spike_linear_backward(Tensor gy, Tensor x, Tensor weight, float? threshold, bool[] wanted)"
    " -> Tensor[]"
)


def _operator(x: Tensor, weight: Tensor, bias: Tensor | None, threshold: float | None) -> Tensor:
    """The product; whether by events is decided when it runs."""
    spikes = spikes_of(x, weight, threshold, learns=True)
    if spikes is None:
        return F.linear(x, weight, bias)
    return product(spikes, weight, bias).view(*x.shape[:-1], weight.shape[0])


def _operator_backward(
    gy: Tensor, x: Tensor, weight: Tensor, threshold: float | None, wanted: Sequence[bool]
) -> list[Tensor]:
    spikes = spikes_of(x, weight, threshold, learns=True) if wanted[1] else None
    gx, gw, gb = gradients(gy, weight if wanted[0] else None, spikes, wanted[2])
    if wanted[1] and gw is None:
        gw = rows_of(gy).t() @ rows_of(x)
    return [found for found in (gx, gw, gb) if found is not None]


LIBRARY.impl("spike_linear", _operator, "CPU")
LIBRARY.impl("spike_linear_backward", _operator_backward, "CPU")


@torch.library.register_fake("spikeloom::spike_linear", lib=LIBRARY)
def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, threshold: float | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@torch.library.register_fake("spikeloom::spike_linear_backward", lib=LIBRARY)
def _fake_backward(
    gy: Tensor, x: Tensor, weight: Tensor, threshold: float | None, wanted: Sequence[bool]
) -> list[Tensor]:
    shapes = x.shape, weight.shape, weight.shape[:1]
    return [gy.new_empty(shape) for shape, want in zip(shapes, wanted, strict=True) if want]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, ctx.threshold = inputs
    ctx.save_for_backward(x, weight)


def _autograd(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:3])
    backward = torch.ops.spikeloom.spike_linear_backward
    found = iter(backward(gy, x, weight, ctx.threshold, wanted))
    return (*(next(found) if want else None for want in wanted), None)


torch.library.register_autograd(
    "spikeloom::spike_linear", _autograd, setup_context=_keep, lib=LIBRARY
)
