"""Which implementation runs a neuron, and why."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])

IMPLEMENTATIONS = ("auto", "cupy", "llvm", "eager")

_KERNEL_OF = {"cpu": "llvm", "cuda": "cupy"}
_GET_CUPY = 'pip install "spikeloom[cuda13]" (or cuda12)'

# Why an implementation's package cannot be used; empty if it can. Looked up once, at import.
MISSING = {
    "llvm": 'llvmlite is not installed: pip install "llvmlite>=0.44"',
    "cupy": f"CuPy is not installed: {_GET_CUPY}",
}
for _name, _package in {"llvm": "llvmlite", "cupy": "cupy"}.items():
    if importlib.util.find_spec(_package) is not None:
        MISSING[_name] = ""


def checked_implementation(name: str) -> str:
    """The name, if it is that of an implementation.

    Args:
        name: What a user gave.

    Raises:
        ValueError: If it is unknown.
    """
    if name not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation: must be one of {', '.join(IMPLEMENTATIONS)}, got {name!r}"
        )
    return name


def choose(
    implementation: str, device: str | torch.device, untraceable: str = ""
) -> tuple[str, str]:
    """Pick the implementation for a call.

    Args:
        implementation: ``auto``, ``cupy``, ``llvm`` or ``eager``.
        device: The input's device.
        untraceable: Why the neuron has no kernel; empty if it has.

    Returns:
        The implementation, and the reason when ``auto`` fell back to eager.

    Raises:
        ValueError: If the name is unknown.
        RuntimeError: If the implementation asked for cannot run this call.
    """
    if checked_implementation(implementation) == "eager":
        return "eager", "asked for"
    kind = torch.device(device).type
    kernel = _KERNEL_OF.get(kind)
    if implementation not in ("auto", kernel):
        served = next(where for where, name in _KERNEL_OF.items() if name == implementation)
        raise RuntimeError(
            f"implementation={implementation!r} runs on {served} tensors, the input is on "
            f"{kind}; move it there or use implementation='auto'"
        )
    reason = untraceable
    if kernel is None:
        reason = f"there is no kernel for {kind} tensors"
    elif not reason:
        reason = MISSING[kernel] or (unusable(str(device)) if kernel == "cupy" else "")
    if not reason:
        return str(kernel), ""
    if implementation != "auto":
        raise RuntimeError(f"implementation={implementation!r} is not available: {reason}")
    return "eager", reason


def constant_when_compiled(function: F) -> F:
    """Mark a function whose answer a compiled graph takes as it is.

    The mark is the one of ``torch.compiler.assume_constant_result``, which imports Dynamo to set
    it: a second of CPU that only a process that compiles has to spend.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]  # functions take any
    return function


@constant_when_compiled
def unusable(device: str) -> str:
    """Why no CUDA kernel runs on this device; empty if one does. Tried once for each device."""
    index = torch.device(device).index
    return _unusable(torch.cuda.current_device() if index is None else index)


@cache
def _unusable(index: int) -> str:
    if torch.version.hip:
        return "this torch is built for ROCm, and the kernel is for NVIDIA GPUs"
    try:
        from spikeloom.kernel import cuda_device
    except Exception as error:  # a CuPy that is broken, or made for another CUDA
        return f"CuPy cannot be imported ({error}): {_GET_CUPY}"
    return cuda_device.refusal(torch.device("cuda", index))


@constant_when_compiled
def tell_fallback(implementation: str, device: str, reason: str) -> None:
    """Warn, once for each reason, that ``auto`` runs a GPU step by step.

    Args:
        implementation: What was asked for.
        device: The input's device.
        reason: Why no kernel runs; empty if one does.
    """
    if implementation == "auto" and reason and torch.device(device).type == "cuda":
        _warn(reason)


@cache
def _warn(reason: str) -> None:
    warnings.warn(
        f"spikeloom runs neurons on this GPU step by step, which is slow: {reason}; "
        f"implementation='eager' asks for that and is silent",
        RuntimeWarning,
        stacklevel=2,
    )
