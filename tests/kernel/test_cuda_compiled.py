"""The CUDA kernels as machine code: NVRTC compiles them without a GPU."""

import importlib
import re
from pathlib import Path

import pytest

from spikeloom.kernel import emit_cuda
from spikeloom.kernel.adjoint import adjoint
from spikeloom.kernel.cuda_shape import Shape, backward_shape, fitting, widest
from spikeloom.kernel.trace import Program
from spikeloom.neurons import LIF, surrogate
from tests.kernel.cuda_texts import NEURONS, texts

ROOT = Path(__file__).parents[2]
# No such architecture: the code is PTX for the one before it, sm_90.
BEYOND_90 = 91
DTYPES = ("float32", "float64", "float16", "bfloat16")


@pytest.fixture(scope="module")
def compile_text():
    pytest.importorskip("cupy", reason="CuPy is not installed")
    from spikeloom.kernel import cuda_device

    try:
        cuda_device.compile_text("", 90)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"NVRTC cannot be loaded: {error}")

    def code(text, capability):
        return cuda_device.compile_text(text, capability).code

    code.binary = cuda_device.compile_text
    return code


def is_cubin(code):
    return code.startswith(b"\x7fELF")


@pytest.mark.parametrize("name", NEURONS)
def test_every_neuron_compiles(compile_text, name):
    for text in texts(NEURONS[name], "float32", [(40, True)]):
        assert is_cubin(compile_text(text, 90))


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_compiles_for_every_architecture(compile_text, dtype, capability):
    for text in texts(NEURONS["LIF soft learned"], dtype, [(4, True)]):
        assert is_cubin(compile_text(text, capability))


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("steps", [16, 64])
def test_the_backward_of_lif_fits_in_96_registers(compile_text, capability, dtype, steps):
    program = Program.parse(NEURONS["LIF"].program)
    gradient = adjoint(program, frozenset({("x", 0)}))
    powers = program.powers([2.0, 1.0, 0.0][: len(program.params)])
    shape = backward_shape(program, gradient, steps, dtype, widest(dtype), powers)

    def make(shape):
        return compile_text.binary(emit_cuda.backward(program, gradient, shape), capability)

    found, shape = fitting(make, shape)
    assert 0 < found.registers <= 96 and found.local == 0
    assert shape.vec >= 2 and shape.blocks


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NEURONS)
def test_every_neuron_in_every_dtype_for_every_architecture(compile_text, name, dtype, capability):
    for text in texts(NEURONS[name], dtype, [(16, False), (65, True)]):
        assert is_cubin(compile_text(text, capability))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("steps", "noting"), [(16, 0), (64, 16)])
def test_no_store_is_split(compile_text, dtype, steps, noting):
    """In loops, in their remainders and in single steps."""
    program = Program.parse(NEURONS["LIF"].program)
    gradient = adjoint(program, frozenset({("x", 0)}))
    powers, wide = frozenset({"tau"}), widest(dtype)
    there = Shape(dtype, wide, powers=powers, noting=noting)
    back = backward_shape(program, gradient, steps, dtype, wide, powers)
    for text in (emit_cuda.forward(program, there), emit_cuda.backward(program, gradient, back)):
        ptx = compile_text(text, BEYOND_90).rstrip(b"\0").decode()
        stores = re.findall(r"st\.global\S*", ptx)
        assert stores and all(re.search(r"\.v[24]\.", store) for store in stores)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_shipped_neuron_keeps_values_in_slow_memory(compile_text, dtype, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "benchmarks" / "gpu"))
    registers = importlib.import_module("registers")
    for name, neuron in registers.NEURONS.items():
        for capability in registers.CAPABILITIES:
            for how, binary, _ in registers.kernels(neuron, dtype, neuron.steps or 64, capability):
                assert is_cubin(binary.code) and binary.registers, name
                assert not binary.local, (name, how, capability)


def test_a_device_newer_than_the_compiler_gets_ptx(compile_text):
    (forward, _) = texts(NEURONS["LIF"], "float32")
    assert b".target sm_" in compile_text(forward, 9999)


def test_a_refused_text_says_why(compile_text):
    with pytest.raises(RuntimeError, match=r"NVRTC could not compile.*error"):
        compile_text("nonsense", 90)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_instructions_round_as_torch_and_move_16_bytes(compile_text, dtype):
    (forward, backward) = texts(LIF(2.0, surrogate=surrogate.ATan()), dtype, [(4, True)])
    for text in (forward, backward):
        ptx = compile_text(text, 9999).rstrip(b"\0").decode()
        assert re.search(r"ld\.global\.nc(\.L\w+)*\.v[24]", ptx)
        stores = re.findall(r"st\.global\S*", ptx)
        assert stores and all(re.search(r"\.v[24]", store) for store in stores)
        assert not re.search(r"\.ftz|div\.full|atom|red\.", ptx)
        if text is forward:
            assert not re.search(r"fma\.|mad\.f|\.approx", ptx)
