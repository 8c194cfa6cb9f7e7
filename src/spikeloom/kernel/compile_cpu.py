"""LLVM IR -> machine code, through llvmlite."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from spikeloom.kernel import emit_llvm
from spikeloom.kernel.adjoint import Adjoint
from spikeloom.kernel.llvm_scan import Assume
from spikeloom.kernel.trace import Program

__all__ = ["Kernel", "backward_kernel", "forward_kernel", "permutes"]

# Kernels of each direction that are kept; one takes about a megabyte.
KEPT = 128


class Kernel:
    """A compiled function of one argument: the address of its words, numbers last."""

    def __init__(self, text: str, name: str) -> None:
        module = llvm.parse_assembly(text)
        module.verify()
        machine = _machine()
        tuning = llvm.create_pipeline_tuning_options(speed_level=2)
        tuning.loop_vectorization = tuning.slp_vectorization = False
        builder = llvm.create_pass_builder(machine, tuning)
        builder.getModulePassManager().run(module, builder)
        # The engine owns the machine code; it must live as long as the function.
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        address = self._engine.get_function_address(name)
        self._function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)

    def __call__(self, words: Sequence[int], numbers: bytes) -> None:
        """Run; other Python threads may run meanwhile."""
        self._function(_packer(len(words))(*words) + numbers)


@lru_cache(maxsize=256)
def _packer(count: int) -> Any:
    """What makes bytes of so many words."""
    return struct.Struct(f"{count}q").pack


def _machine() -> Any:
    if tuple(int(part) for part in llvmlite.__version__.split(".")[:2]) < (0, 45):
        llvm.initialize()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3)


@lru_cache(maxsize=1)
def permutes() -> bool:
    """Whether this CPU permutes the lanes of whole registers, as ``Assume`` says."""
    features = llvm.get_host_cpu_features()
    return bool(features.get("avx512f"))


@lru_cache(maxsize=KEPT)
def forward_kernel(program: Program, dtype: str, assume: Assume) -> Kernel:
    """The kernel that runs a neuron through time.

    Args:
        program: The traced neuron.
        dtype: What the inputs are stored as, such as ``bfloat16``.
        assume: What the kernel may take for granted.
    """
    return Kernel(emit_llvm.forward(program, dtype, assume), "forward")


@lru_cache(maxsize=KEPT)
def backward_kernel(program: Program, gradient: Adjoint, dtype: str, assume: Assume) -> Kernel:
    """The kernel of the reverse sweep; the arguments are those above, and the adjoint."""
    return Kernel(emit_llvm.backward(program, gradient, dtype, assume), "backward")
