"""CUDA C -> a function on a device: NVRTC and the driver, both through CuPy.

Nothing here waits for the GPU or reads from it, and a launch goes to torch's current stream, so
launches can be captured in a CUDA graph once their kernels have been loaded by a first call.
"""

from __future__ import annotations

import ctypes
import re
import threading
from functools import cache
from typing import NamedTuple

import cupy
import torch
from cupy.cuda import driver, nvrtc, runtime

from spikeloom.kernel import cuda_cache

# Neither contraction nor flushing to zero: kernels round as torch does. cupy.RawModule appends
# -ftz=true to whatever it is given, so the compiler is called directly.
OPTIONS = (
    "--std=c++17",
    "--fmad=false",
    "--ftz=false",
    "--prec-div=true",
    "--prec-sqrt=true",
    "--ptxas-options=-v",
)

# Marks of the driver API around arguments that lie in one buffer.
_BUFFER, _SIZE, _END = 1, 2, 0


class Binary(NamedTuple):
    """What the compiler made of a text.

    Attributes:
        code: A cubin, or PTX for a device newer than the compiler.
        registers: 32-bit registers of a thread; 0 if the driver has yet to assign them.
        local: Bytes of slow memory that a thread needs because its registers do not suffice.
    """

    code: bytes
    registers: int
    local: int


def compile_text(text: str, capability: int) -> Binary:
    """Machine code for a device of this compute capability (90 for sm_90).

    For a device newer than the compiler knows, the code is PTX, which its driver translates.

    Raises:
        RuntimeError: If the compiler refuses the text, or the device is too old for it.
    """
    archs = nvrtc.getSupportedArchs()
    if capability < min(archs):
        major, minor = nvrtc.getVersion()
        raise RuntimeError(
            f"NVRTC {major}.{minor} compiles for GPUs from sm_{min(archs)} on, this one is "
            f"sm_{capability}; install the CuPy of an older CUDA, such as cupy-cuda12x"
        )
    known = max(arch for arch in archs if arch <= capability)
    exact = known == capability
    target = f"--gpu-architecture={'sm' if exact else 'compute'}_{known}"
    program = nvrtc.createProgram(text, "spikeloom.cu", [], [])
    try:
        nvrtc.compileProgram(program, [target, *OPTIONS])
        log = nvrtc.getProgramLog(program)
        code = nvrtc.getCUBIN(program) if exact else nvrtc.getPTX(program)
    except nvrtc.NVRTCError as error:
        log = nvrtc.getProgramLog(program)
        raise RuntimeError(f"NVRTC could not compile a kernel for sm_{known}: {log}") from error
    finally:
        nvrtc.destroyProgram(program)
    # CuPy takes both for texts and drops their last byte, which is zero.
    return Binary(bytes(code) + b"\0", _reported(r"Used (\d+) registers", log), _local(log))


def _local(log: str) -> int:
    return _reported(r"(\d+) bytes stack frame", log) + _reported(r"(\d+) bytes spill stores", log)


def _reported(pattern: str, log: str) -> int:
    """The largest figure of this kind in the assembler's report."""
    return max(map(int, re.findall(pattern, log)), default=0)


class Kernel:
    """A CUDA function on one device.

    Attributes:
        local: Bytes of slow memory that a thread needs because its registers do not suffice.
    """

    def __init__(self, text: str, name: str, device: torch.device) -> None:
        binary = _compiled(text, _capability(device))
        self.local = binary.local
        self._device = device
        with torch.cuda.device(device):
            module = cupy.cuda.Module()
            module.load(binary.code)
        self._function = module.get_function(name)  # it keeps the module alive

    def launch(self, blocks: int, threads: int, arguments: bytes) -> None:
        """Launch on torch's current stream; returns at once.

        Args:
            blocks: How many blocks.
            threads: How many threads a block has.
            arguments: All arguments, one after another, each aligned to its own size.
        """
        buffer = ctypes.create_string_buffer(arguments, len(arguments))
        size = ctypes.c_size_t(len(arguments))
        address, length = ctypes.addressof(buffer), ctypes.addressof(size)
        extra = (ctypes.c_void_p * 5)(_BUFFER, address, _SIZE, length, _END)
        stream = torch.cuda.current_stream(self._device).cuda_stream
        grid = (blocks, 1, 1, threads, 1, 1)
        if torch.cuda.current_device() == self._device.index:
            self._launch(grid, stream, ctypes.addressof(extra))
        else:
            with torch.cuda.device(self._device):
                self._launch(grid, stream, ctypes.addressof(extra))

    def _launch(self, grid: tuple[int, ...], stream: int, extra: int) -> None:
        _ensure_context(self._device)
        driver.launchKernel(self._function.ptr, *grid, 0, stream, 0, extra)


# A captured CUDA graph holds functions that nothing in Python refers to: they stay for ever.
@cache
def load(text: str, name: str, device: torch.device) -> Kernel:
    """The kernel of this name in a text, compiled and loaded once for each device.

    Raises:
        RuntimeError: If the compiler refuses the text, or the device is too old for it.
    """
    return Kernel(text, name, device)


def _compiled(text: str, capability: int) -> Binary:
    """The machine code of a text, from the disk if it is there."""
    key = "\n".join([text, str(capability), *OPTIONS, str(nvrtc.getVersion())])
    found = cuda_cache.read(key)
    if found is None:
        found = compile_text(text, capability)
        cuda_cache.write(key, found)
    return Binary(*found)


@cache
def _capability(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


_thread = threading.local()


def _ensure_context(device: torch.device) -> None:
    """Make the device's context current in a thread that has not called the CUDA runtime yet."""
    known: set[torch.device] = _thread.__dict__.setdefault("devices", set())
    if device not in known:
        runtime.memGetInfo()
        known.add(device)


def refusal(device: torch.device) -> str:
    """Why kernels cannot run on a device: what failed when an empty one was tried; or empty.

    Args:
        device: With an index.
    """
    try:
        load('extern "C" __global__ void nothing() {}', "nothing", device).launch(1, 1, b"")
    except Exception as error:  # CuPy, NVRTC and the driver each have errors of their own
        return f"CuPy {cupy.__version__} cannot run a kernel on {device}: {error}"
    return ""
