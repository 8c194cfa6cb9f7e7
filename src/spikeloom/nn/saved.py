"""pack_saved: what a network keeps for its backward pass, in bits where it is spikes.

torch hands over every tensor that an operation saves. Ones that hold nothing but 0 and one
magnitude, with or without a sign, are kept as bits; all others as they are.
"""

from __future__ import annotations

import math
import threading
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from spikeloom.kernel.choose import MISSING
from spikeloom.kernel.events import DTYPES, Spikes, pack, unpack
from spikeloom.kernel.plain import facts
from spikeloom.nn.break_even import looked_at

__all__ = ["pack_saved", "unpack_saved"]

Module = TypeVar("Module", bound=nn.Module)

# Tensors so small stay as they are.
FEWEST = 1 << 12
# Values of a row of bits, at least.
ROW = 1 << 10


def pack_saved(net: Module) -> Module:
    """Keep spikes as bits for the backward pass of a network.

    Whatever an operation of the network's forward saves and is spikes, takes one bit a value
    instead of 32 or 64, two if some of them are negative: the input of linear layers and
    convolutions, the matrices of spiking attention, what is pooled. Gradients are the same, bit for
    bit. Packing reads a tensor once and unpacking writes it once. Layers of :func:`event_driven`
    keep bits anyway.

    A tensor stays as it is if its values, besides zero, have several magnitudes, if it is small,
    of another dtype than float32 and float64, or not on a CPU. Nothing is packed while
    ``torch.compile`` records the network itself, nor where other hooks on saved tensors are set,
    such as those of :func:`torch.utils.checkpoint.checkpoint` with ``use_reentrant=False``.

    If a call is interrupted from the keyboard, torch has it clean up nothing: packing ends with the
    network's next call, or with :func:`unpack_saved`.

    Args:
        net: Any network; :func:`unpack_saved` undoes it.

    Returns:
        The network.

    Raises:
        TypeError: If ``net`` is no module.

    Example:
        >>> import torch, spikeloom
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(64, 64),
        ...     spikeloom.SpikingLayer(spikeloom.neurons.LIF()),
        ...     torch.nn.Linear(64, 10),
        ... )
        >>> spikeloom.pack_saved(net)(torch.randn(8, 16, 64)).sum().backward()
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net: must be a torch.nn.Module, got {type(net).__name__}")
    if not _is_packing(net):
        net.register_forward_pre_hook(_enter, prepend=True)
        net.register_forward_hook(_leave, always_call=True)
    return net


def unpack_saved(net: Module) -> Module:
    """Undo :func:`pack_saved`.

    Args:
        net: Any network.

    Returns:
        The network.
    """
    for hooks in (net._forward_pre_hooks, net._forward_hooks):
        for number, hook in list(hooks.items()):
            if hook in (_enter, _leave):
                del hooks[number]
                net._forward_hooks_always_called.pop(number, None)
    _end(net)
    return net


def _is_packing(net: nn.Module) -> bool:
    return _enter in net._forward_pre_hooks.values()


class _Open(threading.local):
    """The calls in this thread that pack, outermost first, and the hooks that each has set."""

    def __init__(self) -> None:
        self.calls: list[tuple[nn.Module, saved_tensors_hooks | None]] = []


_open = _Open()


def _enter(module: nn.Module, args: Any) -> None:
    _end(module)  # torch calls no hook after a KeyboardInterrupt
    hooks = None
    compiles = torch.compiler.is_compiling()
    if torch.is_grad_enabled() and not compiles and not MISSING["llvm"] and not _others_hook():
        hooks = saved_tensors_hooks(_packed, _unpacked)
        hooks.__enter__()
    _open.calls.append((module, hooks))


def _leave(module: nn.Module, args: Any, output: Any) -> None:
    _end(module)


def _end(module: nn.Module) -> None:
    """End the packing of a module's call, and of calls inside it that were interrupted."""
    calls = _open.calls
    first = next((place for place, (called, _) in enumerate(calls) if called is module), len(calls))
    while len(calls) > first:
        _, hooks = calls.pop()
        if hooks is not None and not _others_hook():
            hooks.__exit__()


def _others_hook() -> bool:
    """Whether other hooks than ours, a checkpoint's for example, receive what is saved now."""
    hooks = _hooks(True)
    return hooks is not None and hooks[0] is not _packed


# torch 2.6 does not tell.
_hooks: Any = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None)


class _Packed(NamedTuple):
    """A tensor as bits, and how it lay in memory."""

    spikes: Spikes
    shape: torch.Size
    strides: tuple[int, ...]


class _Kept(NamedTuple):
    """A tensor as it was, and its version: with hooks, torch does not look whether it changed."""

    tensor: Tensor
    version: int


def _packed(tensor: Tensor) -> _Packed | _Kept:
    spikes = _spikes_of(tensor)
    if spikes is None:
        return _Kept(tensor, tensor._version)
    return _Packed(spikes, tensor.shape, tensor.stride())


def _spikes_of(tensor: Tensor) -> Spikes | None:
    """A tensor's values in the order of memory as spikes, if they are, with no gaps."""
    if isinstance(tensor, nn.Parameter) or tensor.numel() < FEWEST or not tensor.is_cpu:
        return None
    if tensor.dtype not in DTYPES or facts(tensor) is None:
        return None
    axes = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    dense = tensor.detach().permute(axes)
    if not dense.is_contiguous():
        return None
    sizes = list(dense.shape)
    while len(sizes) > 1 and sizes[-1] < ROW:
        sizes[-2:] = [sizes[-2] * sizes[-1]]
    rows = dense.reshape(math.prod(sizes[:-1]), sizes[-1])
    if pack(looked_at(rows)) is None:
        return None
    packed = pack(rows)
    return None if packed is None else packed[0]


def _unpacked(kept: _Packed | _Kept) -> Tensor:
    if isinstance(kept, _Packed):
        return unpack(kept.spikes).as_strided(kept.shape, kept.strides)
    tensor, version = kept
    if tensor._version != version:
        raise RuntimeError(
            f"a tensor of shape {list(tensor.shape)} that is needed for the backward pass has been "
            f"modified by an inplace operation: it is at version {tensor._version}, expected "
            f"version {version}"
        )
    return tensor
