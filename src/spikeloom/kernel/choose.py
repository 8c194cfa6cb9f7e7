"""Which implementation runs a neuron, and why."""

from __future__ import annotations

import importlib.util

IMPLEMENTATIONS = ("auto", "cupy", "llvm", "eager")

_KERNEL_OF = {"cpu": "llvm", "cuda": "cupy"}

# Why an implementation's package cannot be used; empty if it can. Looked up once, at import.
MISSING = {
    "llvm": 'llvmlite is not installed: pip install "llvmlite>=0.44"',
    "cupy": 'CuPy is not installed: pip install "spikeloom[cuda13]" (or cuda12)',
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


def choose(implementation: str, device: str, untraceable: str = "") -> tuple[str, str]:
    """Pick the implementation for a call.

    Args:
        implementation: ``auto``, ``cupy``, ``llvm`` or ``eager``.
        device: The input's device type, such as ``cpu``.
        untraceable: Why the neuron has no kernel; empty if it has.

    Returns:
        The implementation, and the reason when ``auto`` fell back to eager.

    Raises:
        ValueError: If the name is unknown.
        RuntimeError: If the implementation asked for cannot run this call.
    """
    if checked_implementation(implementation) == "eager":
        return "eager", "asked for"
    kernel = _KERNEL_OF.get(device)
    if implementation not in ("auto", kernel):
        served = next(where for where, name in _KERNEL_OF.items() if name == implementation)
        raise RuntimeError(
            f"implementation={implementation!r} runs on {served} tensors, the input is on "
            f"{device}; move it there or use implementation='auto'"
        )
    reason = untraceable
    if kernel is None:
        reason = f"there is no kernel for {device} tensors"
    elif not reason:
        reason = MISSING[kernel]
    if not reason:
        return str(kernel), ""
    if implementation != "auto":
        raise RuntimeError(f"implementation={implementation!r} is not available: {reason}")
    return "eager", reason
