"""The CUDA text of a kernel, run on a CPU: g++, behind definitions that stand in for a GPU.

A kernel here has no shared memory, no synchronisation and no atomics, so running its threads one
after another is faithful. What stays unseen is the launch itself, and speed.
"""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from spikeloom.kernel import call, plan

COMPILER = shutil.which("g++")
FLAGS = ("-O1", "-std=c++17", "-ffp-contract=off", "-fno-strict-aliasing", "-Wno-unknown-pragmas")

SHIM = """
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>
#define __device__
#define __global__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)

struct Index { unsigned int x; };
static thread_local Index blockIdx, threadIdx, blockDim, gridDim;

static inline float __uint_as_float(unsigned int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
static inline unsigned int __float_as_uint(float value) {
    unsigned int bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

KERNEL

template <typename... A, std::size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<A>*>(arguments[I])...);
}

template <typename... A>
constexpr std::size_t count(void (*)(A...)) { return sizeof...(A); }

extern "C" long long arguments() { return count(NAME); }

extern "C" void launch(unsigned int blocks, unsigned int threads, void** arguments) {
    gridDim.x = blocks;
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
            call(NAME, arguments, std::make_index_sequence<count(NAME)>());
}
"""


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="spikeloom-shim-")


@functools.cache
def build(text: str, name: str) -> ctypes.CDLL:
    """The text as a library with the functions ``launch`` and ``arguments``."""
    stem = Path(_folder().name) / f"kernel{build.cache_info().currsize}"
    source, library = stem.with_suffix(".cpp"), stem.with_suffix(".so")
    source.write_text(SHIM.replace("KERNEL", text).replace("NAME", name))
    command = [COMPILER, *FLAGS, "-shared", "-fPIC", "-o", str(library), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr}\n{text}"
    return ctypes.CDLL(str(library))


class ShimKernel:
    """What run_cuda takes for a kernel, on tensors of the CPU."""

    launched: ClassVar[list["ShimKernel"]] = []

    def __init__(self, text, name):
        self.text = text
        self._library = build(text, name)

    def __call__(self, device, blocks, arguments):
        from spikeloom.kernel.run_cuda import BLOCK

        assert len(arguments) == self._library.arguments()
        types = {int: ctypes.c_int64, np.float32: ctypes.c_float, np.float64: ctypes.c_double}
        values = [types[type(argument)](argument) for argument in arguments]
        addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        self.launched.append(self)
        self._library.launch(blocks, BLOCK, addresses)


def install(monkeypatch):
    """Let CPU tensors run the CUDA text; returns the list of kernels as they are launched."""
    if COMPILER is None:
        pytest.skip("g++ is not installed")
    run_cuda = pytest.importorskip("spikeloom.kernel.run_cuda", reason="CuPy is not installed")
    monkeypatch.setattr(plan, "_engine", lambda device: run_cuda)
    # Plans for this test alone, also where a neuron knows one already.
    monkeypatch.setattr(plan, "_plan", plan._plan.__wrapped__)
    monkeypatch.setattr(call, "key_of", lambda *call: None)
    monkeypatch.setattr(run_cuda, "Kernel", ShimKernel)
    monkeypatch.setattr(ShimKernel, "launched", [])
    # Fresh caches for this test, the real ones afterwards.
    for name in ("_forward_kernel", "_backward_kernel", "_forward_plan", "_backward_plan"):
        make = getattr(run_cuda, name).__wrapped__
        monkeypatch.setattr(run_cuda, name, functools.cache(make))
    return ShimKernel.launched
