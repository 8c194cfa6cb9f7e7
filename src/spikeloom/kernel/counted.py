"""Whether a counter of single operations is active, from which a kernel would hide them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch._C import _len_torch_dispatch_stack as _dispatch_modes
from torch._C import _len_torch_function_stack as _function_modes
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack

__all__ = ["counting_modes", "uncounted", "unseen"]

# Packages whose modes count the operations of a call, one by one.
COUNTERS = ("spikingjelly.activation_based.op_counter.",)


def counting_modes() -> list[Any]:
    """The modes that count operations now; mostly none.

    A subclass of a counter's mode is one too.
    """
    if torch.compiler.is_compiling() or not (_dispatch_modes() or _function_modes()):
        return []
    modes = (*_get_current_dispatch_mode_stack(), *_get_current_function_mode_stack())
    return [mode for mode in modes if any(map(_counts, type(mode).__mro__))]


def _counts(cls: type) -> bool:
    return cls.__module__.startswith(COUNTERS)


@contextmanager
def uncounted() -> Iterator[None]:
    """A context whose operations are not counted, because they are not the network's.

    A graph that is recorded holds them, as it holds everything that its values depend on.
    """
    with unseen() if counting_modes() else nullcontext():
        yield


@contextmanager
def unseen() -> Iterator[None]:
    """A context in which no mode sees an operation, so that tensors have values."""
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        yield
