"""A product by events where its input is spikes and few of them fire, else torch's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from spikeloom.kernel.choose import MISSING
from spikeloom.kernel.events import DTYPES, Spikes, pack
from spikeloom.kernel.operators import LIBRARY
from spikeloom.kernel.plain import facts
from spikeloom.nn.break_even import FEWEST, break_even, is_hopeless, looked_at, size_of
from spikeloom.nn.operation import Linear, Operation

__all__ = ["LINEAR", "is_spikes", "product"]

LINEAR = Linear()
# Whether a program is recorded that may run without this package; torch 2.6 does not tell.
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
SECOND = (
    "spikeloom: a second derivative was asked for, and an event-driven layer has none; "
    "threshold=0 makes it a dense layer"
)


def product(
    operation: Operation, x: Tensor, weight: Tensor, bias: Tensor | None, threshold: float | None
) -> Tensor:
    """What torch's operation computes, within rounding.

    Args:
        operation: The product.
        x: Its input.
        weight: The weight.
        bias: The bias, or None.
        threshold: The density up to which events are added; None has it measured.
    """
    if threshold == 0.0 or MISSING["llvm"] or not isinstance(x, Tensor) or is_exporting():
        return operation.dense(x, weight, bias)
    if threshold is None and operation.products(x.shape, weight.shape) < FEWEST:
        return operation.dense(x, weight, bias)
    if torch.onnx.is_in_onnx_export():  # it has no operator for events
        return operation.dense(x, weight, bias)
    if torch.compiler.is_compiling():
        if operation is LINEAR and _fits(operation, x, weight, bias):
            return torch.ops.spikeloom.spike_linear(x, weight, bias, threshold)
        return operation.dense(x, weight, bias)
    # Under no_grad too, so that a layer computes the same bits there.
    learns = weight.requires_grad
    # First what is quick to see: what follows costs more than a small product may.
    if threshold is None and is_hopeless(size_of(operation, x, weight, learns=learns)):
        return operation.dense(x, weight, bias)
    if not _fits(operation, x, weight, bias) or _is_watched() or not _is_memory(x, weight, bias):
        return operation.dense(x, weight, bias)
    spikes = _spikes_of(operation, x, weight, threshold, learns=learns)
    if spikes is None:
        return operation.dense(x, weight, bias)
    return Product.apply(operation, x, weight, bias, spikes)


def is_spikes(operation: Operation, x: Tensor) -> bool:
    """Whether an input is spikes, however many of them there are.

    Args:
        operation: The product.
        x: Its input, on any device.
    """
    if x.dtype not in DTYPES or not x.numel():
        return False
    return operation.packed(x.detach().cpu()) is not None


def _fits(operation: Operation, x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether there is a kernel for such tensors; torch says what is wrong with others."""
    if x.dtype not in DTYPES or not x.numel() or torch.is_autocast_enabled("cpu"):
        return False
    others = (weight,) if bias is None else (weight, bias)
    if not x.is_cpu or not all(t.is_cpu and t.dtype == x.dtype for t in others):
        return False
    # A bias of another shape is broadcast, or refused, by torch.
    if bias is not None and bias.shape != weight.shape[:1]:
        return False
    return operation.fits(x, weight)


def _is_watched() -> bool:
    """Whether a tracer, a mode or a transform is active that has to see torch's own operation."""
    if forward_ad._current_level >= 0 or torch.jit.is_tracing():
        return True
    if torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack():
        return True
    modes = torch._C._len_torch_function_stack() and _get_current_function_mode_stack()
    return any(not isinstance(mode, DeviceContext) for mode in modes or ())


def _is_memory(*tensors: Tensor | None) -> bool:
    """Whether the values of tensors are what lies at their addresses."""
    return all(tensor is None or facts(tensor) is not None for tensor in tensors)


def _spikes_of(
    operation: Operation, x: Tensor, weight: Tensor, threshold: float | None, *, learns: bool
) -> Spikes | None:
    """The input as spikes, if it is, and so few of them fire that events are quicker.

    Args:
        operation: The product.
        x: Its input.
        weight: The weight.
        threshold: As for :func:`product`.
        learns: Whether the weight's gradient will be wanted.
    """
    x = x.detach()
    some = looked_at(operation.lines(x))
    seen = pack(some)
    if seen is None:
        return None
    if threshold is None:
        threshold = break_even(size_of(operation, x, weight, learns=learns))
    if not threshold or seen[1] > threshold * some.numel():
        return None
    found = operation.packed(x)
    if found is None or found[1] > threshold * x.numel():
        return None
    return found[0]


def _sum(
    operation: Operation, spikes: Spikes, shape: torch.Size, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """The product by events, as no view: autograd forbids changing a function's view in place."""
    y = operation.product(spikes, shape, weight, bias)
    return torch.ops.aten._unsafe_view(y, y.shape)


# --- Autograd ---


class Product(torch.autograd.Function):
    """The product of spikes and a weight; of the spikes only bits are kept."""

    @staticmethod
    def forward(
        ctx: Any,
        operation: Operation,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        spikes: Spikes,
    ) -> Tensor:
        wanted = ctx.needs_input_grad[1:4]
        kept = (spikes.bits, spikes.negative, spikes.amplitude) if wanted[1] else (None,) * 3
        ctx.save_for_backward(weight if wanted[0] else None, *kept)
        ctx.operation, ctx.wanted, ctx.inputs = operation, wanted, spikes.inputs
        ctx.shapes, ctx.dtype = (x.shape, weight.shape), x.dtype
        return _sum(operation, spikes, x.shape, weight, bias)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        weight, *kept = ctx.saved_tensors
        spikes = Spikes(ctx.inputs, ctx.dtype, *kept) if ctx.wanted[1] else None
        what = ctx.operation, ctx.shapes, gy, weight, spikes, ctx.wanted[2]
        found = _Gradients.apply(*what) if torch.is_grad_enabled() else _gradients(*what)
        return (None, *found, None)


class _Gradients(torch.autograd.Function):
    """The gradients as a function of their own, so that a second derivative is refused."""

    @staticmethod
    def forward(ctx: Any, *what: Any) -> tuple[Tensor | None, ...]:
        return _gradients(*what)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        raise RuntimeError(SECOND)


def _gradients(
    operation: Operation,
    shapes: tuple[torch.Size, torch.Size],
    gy: Tensor,
    weight: Tensor | None,
    spikes: Spikes | None,
    bias: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of the input, the weight and the bias, None where they are not needed.

    Args:
        operation: The product.
        shapes: Those of the input and the weight.
        gy: The gradient of the output.
        weight: The weight if the input's gradient is wanted.
        spikes: The input if the weight's gradient is.
        bias: Whether the bias's gradient is.
    """
    x, w = shapes
    gy = gy.resolve_neg()  # kernels read what lies in memory
    return (
        None if weight is None else operation.input_gradient(x, gy, weight),
        None if spikes is None else operation.weight_gradient(spikes, x, gy, w),
        operation.bias_gradient(gy) if bias else None,
    )


# --- As torch compiles it ---

LIBRARY.define("spike_linear(Tensor x, Tensor weight, Tensor? bias, float? threshold) -> Tensor")
LIBRARY.define(
    "spike_linear_backward(Tensor gy, Tensor x, Tensor weight, float? threshold, bool[] wanted)"
    " -> Tensor[]"
)


def _operator(x: Tensor, weight: Tensor, bias: Tensor | None, threshold: float | None) -> Tensor:
    """The product; whether by events is decided when it runs."""
    spikes = _spikes_of(LINEAR, x, weight, threshold, learns=True)
    if spikes is None:
        return LINEAR.dense(x, weight, bias)
    return _sum(LINEAR, spikes, x.shape, weight, bias)


def _operator_backward(
    gy: Tensor, x: Tensor, weight: Tensor, threshold: float | None, wanted: Sequence[bool]
) -> list[Tensor]:
    spikes = _spikes_of(LINEAR, x, weight, threshold, learns=True) if wanted[1] else None
    shapes = x.shape, weight.shape
    gx, gw, gb = _gradients(LINEAR, shapes, gy, weight if wanted[0] else None, spikes, wanted[2])
    if wanted[1] and gw is None:
        gw = LINEAR.dense_weight_gradient(x, gy, weight.shape)
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


def _keep_nothing(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    pass


def _refuse(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    raise RuntimeError(SECOND)


torch.library.register_autograd(
    "spikeloom::spike_linear_backward", _refuse, setup_context=_keep_nothing, lib=LIBRARY
)
