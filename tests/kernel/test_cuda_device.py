"""Compiling, loading and launching, as far as they show without a GPU."""

import ctypes
import struct
import threading
from types import SimpleNamespace

import pytest
import torch

from tests.kernel import cuda_standin, cuda_text_on_cpu

cuda_device = pytest.importorskip(
    "spikeloom.kernel.cuda_device", reason="CuPy is not installed", exc_type=ImportError
)
pytestmark = pytest.mark.skipif(cuda_text_on_cpu.COMPILER is None, reason="g++ is not installed")

TEXT = """
extern "C" __global__ void fill(long long N, float value, double* wide, float* to) {
    for (long long n = 0; n < N; ++n) to[n] = wide[n] + value;
}
"""
GPUS = [torch.device("cuda", index) for index in range(2)]


@pytest.fixture
def driver(monkeypatch):
    return cuda_standin.replace_cuda(monkeypatch.setattr)


# Arguments of ``fill``, and the memory that they point to.
WIDE, TO = torch.arange(4, dtype=torch.float64), torch.zeros(4)
FILLING = struct.pack("qfqq", 4, 0.5, WIDE.data_ptr(), TO.data_ptr())


def test_a_kernel_is_loaded_once_on_each_device_and_launched_on_its_current_stream(driver):
    TO.zero_()
    for device in (GPUS[0], GPUS[1], GPUS[0]):
        cuda_device.load(TEXT, "fill", device).launch(1, 1, FILLING)
    assert driver.loaded == [0, 1]
    assert [(launch.device, launch.stream) for launch in driver.launches] == [
        (0, 70),
        (1, 71),
        (0, 70),
    ]
    assert TO.tolist() == [0.5, 1.5, 2.5, 3.5]


def test_a_device_that_is_current_already_is_not_made_current_again(driver, monkeypatch):
    kernel = cuda_device.load(TEXT, "fill", GPUS[1])
    with torch.cuda.device(GPUS[1]):
        monkeypatch.setattr(torch.cuda, "device", None)
        kernel.launch(1, 1, FILLING)
    assert driver.launches[0].device == 1


def test_the_context_is_made_current_once_in_each_thread_on_each_device(driver, monkeypatch):
    asked = []
    monkeypatch.setattr(
        cuda_device,
        "runtime",
        SimpleNamespace(memGetInfo=lambda: asked.append(driver.current_device())),
    )
    kernels = [cuda_device.load(TEXT, "fill", device) for device in GPUS]

    def work():
        for kernel in (*kernels, *kernels):
            kernel.launch(1, 1, FILLING)

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert asked == [0, 1, 0, 1]


def test_a_loaded_function_stays_for_graphs_that_hold_it(driver):
    kernel = cuda_device.load(TEXT, "fill", GPUS[0])
    assert cuda_device.load.cache_info().maxsize is None
    assert kernel._function.module is not None


def test_the_standin_notices_arguments_that_are_not_the_kernel_s(driver):
    kernel = cuda_device.load(TEXT, "fill", GPUS[0])
    with pytest.raises(AssertionError, match="takes 32 bytes, got 31"):
        kernel.launch(1, 1, FILLING[:-1])
    with pytest.raises(AssertionError):
        kernel.launch(1, 1, FILLING[16:24] + FILLING[8:])  # an address where a number belongs
    with pytest.raises(AssertionError):
        kernel.launch(0, 1, FILLING)


def test_the_standin_runs_threads_from_barrier_to_barrier(driver):
    text = """
    extern "C" __global__ void turn(long long* to) {
        __shared__ long long seen[4];
        seen[threadIdx.x] = threadIdx.x;
        __syncthreads();
        to[threadIdx.x] = seen[3 - threadIdx.x];
    }
    """
    to = torch.zeros(4, dtype=torch.int64)
    kernel = cuda_device.load(text, "turn", GPUS[0])
    kernel.launch(1, 4, bytes(ctypes.c_int64(to.data_ptr())))
    assert to.tolist() == [3, 2, 1, 0]


# --- The compiler ---


class Compiler:
    """NVRTC as far as compile_text sees it."""

    class NVRTCError(Exception):
        """Its error."""

    def __init__(self, refuses=False):
        self.refuses = refuses
        self.options = ()
        self.alive = 0

    def getVersion(self):  # noqa: N802 -- CuPy's names
        return 13, 0

    def getSupportedArchs(self):  # noqa: N802
        return (75, 80, 90)

    def createProgram(self, text, name, headers, include_names):  # noqa: N802
        self.alive += 1
        return text

    def compileProgram(self, program, options):  # noqa: N802
        self.options = options
        if self.refuses:
            raise self.NVRTCError

    def getProgramLog(self, program):  # noqa: N802
        return (
            "line 3: error"
            if self.refuses
            else "ptxas : 16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n"
            "ptxas info : Used 40 registers, used 0 barriers"
        )

    def getCUBIN(self, program):  # noqa: N802
        return b"cubin"

    def getPTX(self, program):  # noqa: N802
        return b"ptx"

    def destroyProgram(self, program):  # noqa: N802
        self.alive -= 1


@pytest.fixture
def compiler(monkeypatch):
    found = Compiler()
    monkeypatch.setattr(cuda_device, "nvrtc", found)
    return found


def test_a_text_is_compiled_for_the_device_with_ieee_arithmetic(compiler):
    found = cuda_device.compile_text("text", 90)
    assert found == (b"cubin\0", 40, 24)
    assert compiler.options[0] == "--gpu-architecture=sm_90"
    ieee = {"--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true"}
    assert ieee <= set(compiler.options) and not any("fast" in o for o in compiler.options)
    assert not compiler.alive


def test_a_device_newer_than_the_compiler_gets_ptx(compiler):
    assert cuda_device.compile_text("text", 120).code == b"ptx\0"
    assert compiler.options[0] == "--gpu-architecture=compute_90"


def test_a_device_older_than_the_compiler_knows_is_named_with_the_remedy(compiler):
    with pytest.raises(RuntimeError, match=r"13\.0 .*from sm_75 on.*sm_70; install"):
        cuda_device.compile_text("", 70)


def test_a_refused_text_says_why(compiler):
    compiler.refuses = True
    with pytest.raises(RuntimeError, match=r"NVRTC could not compile.*line 3: error"):
        cuda_device.compile_text("nonsense", 90)
    assert not compiler.alive


def test_a_text_is_compiled_once_for_all_processes(compiler, monkeypatch, tmp_path):
    monkeypatch.setenv("SPIKELOOM_CACHE", str(tmp_path))
    first = cuda_device._compiled("text", 90)
    compiler.refuses = True
    assert cuda_device._compiled("text", 90) == first
    monkeypatch.setattr(compiler, "getVersion", lambda: (13, 1))
    with pytest.raises(RuntimeError, match="could not compile"):
        cuda_device._compiled("text", 90)  # another compiler makes other code


# --- Whether kernels run here at all ---


def test_a_device_that_runs_an_empty_kernel_is_not_refused(driver):
    assert cuda_device.refusal(GPUS[0]) == ""
    assert [launch.name for launch in driver.launches] == ["nothing"]


def test_a_device_on_which_the_empty_kernel_fails_is_refused_with_the_reason(driver, monkeypatch):
    def refuse(text, capability):
        raise RuntimeError("NVRTC 13.0 compiles for GPUs from sm_75 on")

    monkeypatch.setattr(cuda_device, "_compiled", refuse)
    cuda_device.cupy.__version__ = "14.2.0"
    reason = cuda_device.refusal(GPUS[0])
    assert reason.startswith("CuPy 14.2.0 cannot run a kernel on cuda:0: NVRTC 13.0 compiles")
