"""Which implementation runs a call on a GPU, and what is said where none does."""

import functools
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

import spikeloom
from spikeloom.kernel import call, choose
from spikeloom.neurons import LIF


@pytest.fixture(autouse=True)
def afresh(monkeypatch):
    """What a process finds out once is found out again."""
    for name in ("_unusable", "_warn"):
        monkeypatch.setattr(choose, name, functools.cache(getattr(choose, name).__wrapped__))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setitem(choose.MISSING, "cupy", "")


@pytest.fixture
def cupy_runs(monkeypatch):
    """A CuPy that works; the devices that it was tried on."""
    tried = []

    def refusal(device):
        tried.append(str(device))
        return ""

    fake = SimpleNamespace(refusal=refusal)
    monkeypatch.setitem(sys.modules, "spikeloom.kernel.cuda_device", fake)
    monkeypatch.setattr(spikeloom.kernel, "cuda_device", fake, raising=False)
    return tried


def without_cuda_device(monkeypatch, cupy):
    monkeypatch.delitem(sys.modules, "spikeloom.kernel.cuda_device", raising=False)
    monkeypatch.delattr(spikeloom.kernel, "cuda_device", raising=False)
    monkeypatch.setitem(sys.modules, "cupy", cupy)


def test_a_gpu_with_cupy_runs_the_kernel_and_is_tried_once(cupy_runs):
    for device in ("cuda", "cuda:0", torch.device("cuda", 1), "cuda:1"):
        assert choose.choose("auto", device) == ("cupy", "")
    assert cupy_runs == ["cuda:0", "cuda:1"]


def test_a_cupy_that_cannot_be_imported_falls_back_with_the_reason(monkeypatch):
    without_cuda_device(monkeypatch, None)
    name, reason = choose.choose("auto", "cuda:0")
    assert name == "eager"
    assert "CuPy cannot be imported" in reason and "pip install" in reason
    with pytest.raises(RuntimeError, match="'cupy' is not available: CuPy cannot be imported"):
        choose.choose("cupy", "cuda:0")


def test_a_device_that_cupy_cannot_serve_falls_back_with_the_reason(cupy_runs, monkeypatch):
    module = sys.modules["spikeloom.kernel.cuda_device"]
    monkeypatch.setattr(module, "refusal", lambda device: f"{device} is too old")
    assert choose.choose("auto", "cuda:0") == ("eager", "cuda:0 is too old")


def test_a_torch_for_rocm_has_no_cuda_kernel(cupy_runs, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    name, reason = choose.choose("auto", "cuda:0")
    assert name == "eager" and "ROCm" in reason and cupy_runs == []


def test_a_cupy_that_is_not_installed_is_not_tried(cupy_runs, monkeypatch):
    monkeypatch.setitem(choose.MISSING, "cupy", "CuPy is not installed")
    assert choose.choose("auto", "cuda:0") == ("eager", "CuPy is not installed")
    assert cupy_runs == []


def test_a_gpu_that_runs_step_by_step_is_warned_of_once_for_each_reason():
    for reason in ("CuPy is not installed", "the step is not traced"):
        with pytest.warns(RuntimeWarning, match=f"step by step.*{reason}"):
            choose.tell_fallback("auto", "cuda:0", reason)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            choose.tell_fallback("auto", "cuda:1", reason)


def test_a_call_tells_where_it_falls_back_and_why(monkeypatch):
    told = []
    monkeypatch.setattr(call, "tell_fallback", lambda *found: told.append(found))
    monkeypatch.setitem(choose.MISSING, "llvm", "llvmlite is not installed")
    spikeloom.run(LIF(), torch.ones(2, 3))
    assert told == [("auto", "cpu", "llvmlite is not installed")]


def test_what_was_asked_for_and_what_runs_on_a_cpu_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose.tell_fallback("eager", "cuda:0", "asked for")
        choose.tell_fallback("auto", "cpu", "llvmlite is not installed")
        choose.tell_fallback("auto", "cuda:0", "")


@pytest.mark.parametrize("implementation", ["auto", "eager"])
def test_a_compiled_call_asks_while_it_is_compiled(implementation):
    layer = spikeloom.SpikingLayer(LIF(), implementation=implementation)
    x = torch.randn(4, 8)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), layer(x))


def test_functions_marked_constant_carry_the_mark_that_torch_sets():
    def as_torch_marks_it():
        pass

    torch.compiler.assume_constant_result(as_torch_marks_it)
    mark = vars(as_torch_marks_it)
    assert mark
    for function in (choose.unusable, choose.tell_fallback):
        assert mark.items() <= vars(function).items()
