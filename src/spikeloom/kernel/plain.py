"""Whether only autograd follows a call, and its tensors are plain memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

__all__ = ["Facts", "facts", "is_hooked", "is_memory", "is_plain", "is_watched"]

# The shape, strides, dtype and device of a tensor, and whether it requires grad.
Facts = tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device, bool]

STRIDED = torch.strided


def _watchers() -> tuple[Callable[[], Any], ...]:
    """Functions of this torch that tell whether a call is traced or transformed."""
    try:
        return (
            torch._C._is_tracing,
            torch.autograd._profiler_enabled,
            torch._C._are_functorch_transforms_active,
            torch._C._len_torch_dispatch_stack,
        )
    except AttributeError:  # they have other names: assume that it is
        return (lambda: True,)


WATCHERS = _watchers()


def _hooks() -> Callable[[], Any]:
    """A function of this torch that tells whether hooks take what is saved for a gradient."""
    try:
        top = torch._C._autograd._top_saved_tensors_default_hooks
    except AttributeError:  # it has another name: take it that some do
        return lambda: True
    return lambda: top(False)


_top_hooks = _hooks()


def is_hooked() -> bool:
    """Whether hooks take what is saved for a gradient, as activation checkpointing's do."""
    return _top_hooks() is not None


def is_watched() -> bool:
    """Whether a graph, a transformation, a dispatch mode or a profiler is active.

    They see operators only.
    """
    if torch.compiler.is_compiling() or forward_ad._current_level >= 0:
        return True
    for watches in WATCHERS:  # noqa: SIM110 -- half the time of any() over a generator
        if watches():
            return True
    return False


def facts(tensor: Any) -> Facts | None:
    """What a call depends on of a tensor besides its values.

    Args:
        tensor: Any argument of a call.

    Returns:
        The facts; None if it is no tensor, or its values are not what lies at its address.
    """
    if not is_memory(tensor):
        return None
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad


def is_memory(tensor: Any) -> bool:
    """Whether this is a tensor whose values are what lies at its address.

    Args:
        tensor: Any argument of a call.
    """
    kind = type(tensor)
    if kind is not Tensor and kind is not Parameter:
        return False
    try:
        return tensor.layout is STRIDED and not tensor.is_neg() and tensor.data_ptr() != 0
    except RuntimeError:  # it wraps another
        return False


def is_plain(tensors: Sequence[Tensor | None]) -> bool:
    """Whether only autograd follows a call, and its tensors are plain memory.

    Args:
        tensors: Those of the call; None stands for zeros.
    """
    if is_watched():
        return False
    return all(tensor is None or is_memory(tensor) for tensor in tensors)
