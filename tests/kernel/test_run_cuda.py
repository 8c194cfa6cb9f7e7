"""How kernels are launched, as far as it shows without a GPU."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spikeloom.kernel import emit_cuda
from spikeloom.kernel.cuda_scan import BLOCK, Shape
from spikeloom.kernel.trace import Program
from spikeloom.neurons import LIF

run_cuda = pytest.importorskip("spikeloom.kernel.run_cuda", reason="CuPy is not installed")


@pytest.fixture
def driver(monkeypatch):
    """A driver that notes what it is asked for."""
    noted = SimpleNamespace(current=[], loaded=[], launched=[])

    @contextlib.contextmanager
    def use(device):
        noted.current.append(device)
        yield
        noted.current.pop()

    class Module:
        def load(self, code):
            noted.loaded.append((noted.current[-1], code))

        def get_function(self, name):
            def launch(grid, block, arguments, *, stream):
                noted.launched.append((noted.current[-1], grid, block, arguments, stream.ptr))

            return launch

    monkeypatch.setattr(torch.cuda, "device", use)
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=7 + device.index)
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(run_cuda.cupy.cuda, "Module", Module)
    monkeypatch.setattr(run_cuda, "compile_text", lambda text, capability: (text, capability))
    return noted


def test_a_kernel_is_loaded_once_on_each_device_and_launched_on_its_current_stream(driver):
    kernel = run_cuda.Kernel("text", "forward")
    devices = [torch.device("cuda", index) for index in (0, 1, 0)]
    for device in devices:
        kernel(device, 3, [1, 2])
    assert driver.loaded == [(device, ("text", 90)) for device in devices[:2]]
    expected = [(device, (3,), (BLOCK,), [1, 2], 7 + device.index) for device in devices]
    assert driver.launched == expected


def test_arguments_are_those_of_the_kernel(monkeypatch):
    calls = []

    class Noted:
        def __init__(self, text, name):
            assert name == "forward"

        def __call__(self, device, blocks, arguments):
            calls.append((blocks, arguments))

    monkeypatch.setattr(run_cuda, "Kernel", Noted)
    monkeypatch.setattr(run_cuda, "_forward_plan", run_cuda._forward_plan.__wrapped__)
    monkeypatch.setattr(run_cuda, "_forward_kernel", run_cuda._forward_kernel.__wrapped__)
    program = Program.parse(LIF(2.0, 1.5).program)
    x, y, w = torch.empty(2 * 5, 1000)[::2], torch.empty(5, 1000), torch.empty(1000)
    rest = torch.zeros(())
    run_cuda.forward(program, 5, [2.0, 1.5, 4.0], [x], [rest], [], [y], [w])
    ((blocks, arguments),) = calls
    addresses = x.data_ptr(), 2000, rest.data_ptr(), 0, w.data_ptr(), y.data_ptr()
    assert arguments == [5, 1000, *addresses, 2.0, 1.5, 4.0]
    assert [type(a) for a in arguments[-3:]] == [np.float32] * 3
    assert blocks == 2  # of 128 threads with 4 neurons each
    assert emit_cuda.forward(program, Shape(vec=4)).count("long long x_stride") == 1


def test_compiler_options_keep_ieee_arithmetic():
    assert {"--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true"} <= set(
        run_cuda.OPTIONS
    )
    assert not any("fast" in option for option in run_cuda.OPTIONS)
