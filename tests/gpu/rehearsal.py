"""A Python on whose CPU everything for a GPU runs: ``python -m tests.gpu.rehearsal script.py ...``.

The stand-in for CUDA takes the launches, and what asks torch for a GPU gets the CPU. So a script's
whole way is walked without a GPU; its times mean nothing.
"""

import contextlib
import functools
import os
import runpy
import sys
import time
from types import SimpleNamespace

import torch
from cupy.cuda import nvrtc

from spikeloom.kernel import choose
from tests.kernel import cuda_standin

FACTORIES = ("randn", "rand", "randint", "tensor", "empty", "zeros", "ones", "full", "arange")


class Event:
    """A time on the CPU's clock."""

    def __init__(self, enable_timing=False):
        self.at = 0.0

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        """It has happened."""

    def elapsed_time(self, later):
        return 1e3 * (later.at - self.at)


class Stream:
    """The one stream there is."""

    def wait_stream(self, other):
        """Nothing is under way."""


class Graph:
    """A graph whose work was done when it was captured."""

    def replay(self):
        """Nothing is left to do."""


def on_the_cpu(factory):
    """A factory that makes the tensors of a GPU on the CPU."""

    @functools.wraps(factory)
    def make(*args, **kwargs):
        if kwargs.get("device") is not None:
            kwargs["device"] = "cpu"
        return factory(*args, **kwargs)

    return make


def begin(patch=setattr):
    """Put the stand-in in CUDA's place, for tensors too; returns the driver."""
    driver = cuda_standin.take_over(patch)
    patch(nvrtc, "getVersion", lambda: (0, 0))
    patch(choose, "_KERNEL_OF", {"cpu": "cupy", "cuda": "cupy"})
    for name in (*FACTORIES, "linspace"):
        patch(torch, name, on_the_cpu(getattr(torch, name)))
    for kind in (torch.Tensor, torch.nn.Module):
        patch(kind, "cuda", lambda self, *args, **kwargs: self)
    properties = SimpleNamespace(L2_cache_size=0)
    replaced = {
        "is_current_stream_capturing": lambda: False,
        "device_count": lambda: 1,
        "get_device_name": lambda device=None: "no GPU but its stand-in",
        "get_device_properties": lambda device=None: properties,
        "Event": Event,
        "Stream": Stream,
        "current_stream": lambda device=None: _stream(driver, device),
        "stream": contextlib.nullcontext,
        "CUDAGraph": Graph,
        "graph": contextlib.nullcontext,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda device=None: None,
        "max_memory_allocated": lambda device=None: 0,
    }
    for name, value in replaced.items():
        patch(torch.cuda, name, value)
    return driver


def _stream(driver, device):
    stream = Stream()
    stream.cuda_stream = driver.stream_of(None if device is None else torch.device(device).index)
    return stream


def main(arguments):
    """Run a module (``-m name``), a text (``-c text``) or a script as Python does."""
    if arguments[:2] == ["-m", "pip"]:
        os.execv(sys.executable, [sys.executable, *arguments])
    begin()
    if arguments[:2] == ["-m", "pytest"]:
        # Tests ask; torch would too, and then look for the driver.
        torch.cuda.is_available = lambda: True
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        exec(arguments[1], {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
