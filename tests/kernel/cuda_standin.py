"""A stand-in for CUDA: a driver that checks every launch, and runs it on the CPU.

Everything that spikeloom does for a launch is done: the text is emitted, a module loaded, the
arguments are packed and handed to the driver. What stays unseen is a GPU's own timing and
concurrency.
"""

import contextlib
import ctypes
import functools
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from spikeloom.kernel import call, plan
from tests.kernel import cuda_text_on_cpu
from tests.kernel.cuda_text_on_cpu import Function

# Beyond it a number is an address, and below it none is.
LEAST_ADDRESS = 1 << 32


@dataclass(frozen=True)
class Launch:
    """A launch, as the driver saw it; ``moved`` are the bytes of neurons that it moved."""

    function: Function
    blocks: int
    threads: int
    arguments: tuple
    device: object
    stream: int
    moved: int

    @property
    def name(self):
        return self.function.name

    @property
    def text(self):
        return self.function.text


class Driver:
    """What spikeloom asks of CuPy and of torch.cuda.

    Attributes:
        launches: The launches, in order.
        loaded: The devices on which modules were loaded, in order.
        local: Text -> bytes of local memory that the compiler is to report.
        capability: The devices' compute capability.
        backwards: Whether blocks and threads run in the opposite order.
    """

    def __init__(self):
        self.launches = []
        self.loaded = []
        self.local = lambda text: 0
        self.capability = (9, 0)
        self.backwards = False
        self._functions = {}
        self._current = [None]

    # --- torch.cuda ---

    def current_device(self):
        return self._current[-1]

    @contextlib.contextmanager
    def device(self, device):
        self._current.append(torch.device(device).index)
        try:
            yield
        finally:
            self._current.pop()

    def current_stream(self, device=None):
        return SimpleNamespace(cuda_stream=self.stream_of(torch.device(device).index))

    @staticmethod
    def stream_of(index):
        return 7 if index is None else 70 + index

    # --- cupy ---

    def compiled(self, text, capability):
        from spikeloom.kernel.cuda_device import Binary

        major, minor = self.capability
        assert capability == 10 * major + minor
        return Binary(text.encode() + b"\0", 32, self.local(text))

    def module(self):
        driver = self

        class Module:
            def load(self, code):
                assert code.endswith(b"\0"), "CuPy drops the last byte"
                self.text = code[:-1].decode()
                self.device = driver.current_device()
                driver.loaded.append(self.device)

            def get_function(self, name):
                function = SimpleNamespace(ptr=1000 + len(driver._functions), module=self)
                driver._functions[function.ptr] = (Function(self.text, name), self.device)
                return function

        return Module()

    def launch_kernel(self, ptr, *geometry):
        *grid, shared, stream, parameters, extra = geometry
        function, device = self._functions[ptr]
        blocks, threads = grid[0], grid[3]
        assert grid == [blocks, 1, 1, threads, 1, 1]
        assert 1 <= blocks < 2**31 and 1 <= threads <= function.bound
        assert device == self.current_device(), "the context is another device's"
        assert stream == self.stream_of(device) and shared == parameters == 0
        arguments = function.read(_handed_over(extra))
        for kind, value in zip(function.kinds, arguments, strict=True):
            if kind in "Pq":
                assert (value == 0 or value >= LEAST_ADDRESS) == (kind == "P") or value == 0
        moved = function(blocks, threads, arguments, self.backwards)
        launch = Launch(function, blocks, threads, arguments, device, stream, moved)
        self.launches.append(launch)


def _handed_over(extra):
    """The buffer of arguments that a launch points to, marked as the driver API asks."""
    buffer_mark, buffer, size_mark, size, end = (ctypes.c_void_p * 5).from_address(extra)
    assert (buffer_mark, size_mark, end) == (1, 2, None)
    return ctypes.string_at(buffer, ctypes.c_size_t.from_address(size).value)


def replace_cuda(patch):
    """Put a stand-in in CUDA's place.

    Args:
        patch: Sets an attribute, as ``monkeypatch.setattr`` does.

    Returns:
        The driver.
    """
    from spikeloom.kernel import cuda_device

    driver = Driver()
    for name in ("device", "current_device", "current_stream"):
        patch(torch.cuda, name, getattr(driver, name))
    patch(torch.cuda, "get_device_capability", lambda device=None: driver.capability)
    patch(cuda_device, "cupy", SimpleNamespace(cuda=SimpleNamespace(Module=driver.module)))
    patch(cuda_device, "driver", SimpleNamespace(launchKernel=driver.launch_kernel))
    patch(cuda_device, "runtime", SimpleNamespace(memGetInfo=lambda: (0, 0)))
    patch(cuda_device, "_compiled", driver.compiled)
    for name in ("load", "_capability"):
        patch(cuda_device, name, functools.cache(getattr(cuda_device, name).__wrapped__))
    return driver


def install(monkeypatch):
    """Let tensors of the CPU run the CUDA kernels; returns the driver."""
    if cuda_text_on_cpu.COMPILER is None:
        pytest.skip("g++ is not installed")
    pytest.importorskip("cupy", reason="CuPy is not installed")
    return take_over(monkeypatch.setattr)


def take_over(patch):
    """A stand-in for CUDA that also takes the tensors of the CPU for those of a GPU."""
    from spikeloom.kernel import run_cuda

    driver = replace_cuda(patch)
    patch(plan, "_engine", lambda device: run_cuda)
    # Plans for this stand-in alone, also where a neuron knows one already.
    patch(plan, "_plan", functools.cache(plan._plan.__wrapped__))
    key_of = call.key_of
    patch(call, "key_of", lambda *call: (key := key_of(*call)) and (driver, *key))
    for name in ("_forward_plan", "_backward_plan"):
        patch(run_cuda, name, functools.cache(getattr(run_cuda, name).__wrapped__))
    return driver
