"""The CUDA text itself: its numbers and names, and what is in it."""

import itertools
import math
import re

import pytest
import torch

from spikeloom import Neuron
from spikeloom.kernel import cuda_shape, emit_cuda
from spikeloom.kernel.adjoint import adjoint
from spikeloom.kernel.cuda_shape import Shape, backward_shape, widest
from spikeloom.kernel.cuda_text import Names, literal
from spikeloom.kernel.trace import Program
from spikeloom.kernel.vocabulary import exp, where
from spikeloom.neurons import LIF, surrogate
from tests.kernel.cuda_texts import NEURONS, texts
from tests.kernel.families import CASES

DTYPES = ("float32", "float64", "float16", "bfloat16")


def literal_values(real):
    yield from (0.0, -0.0, 1.0, -1.0, 0.1, 1e-45, 3.4e38, math.pi, 1 / 3, 16777217.0, 1e10, 2.5e-8)
    if real == "double":
        yield from (5e-324, 1.7e308)


@pytest.mark.parametrize("real", ["float", "double"])
def test_numbers_are_written_exactly(real):
    dtype = {"float": torch.float32, "double": torch.float64}[real]
    for value in literal_values(real):
        text = literal(value, real)
        assert text.endswith("f") == (real == "float") and re.search("[.e]", text)
        read = torch.tensor(float(text.removesuffix("f")), dtype=dtype)
        assert read == torch.tensor(value, dtype=dtype)
        assert math.copysign(1, read) == math.copysign(1, value)


def test_numbers_without_digits_are_written_as_quotients():
    assert literal(math.inf, "float") == "(1.0f / 0.0f)"
    assert literal(-math.inf, "double") == "(-1.0 / 0.0)"
    assert literal(1e300, "float") == "(1.0f / 0.0f)"
    assert literal(math.nan, "float") == "(0.0f / 0.0f)"


def test_names_do_not_collide():
    names = Names()
    assert names.claim("tau", ["{}_rows"]) == "tau"
    assert names.claim("tau_rows") == "tau_rows1"
    assert names.claim("for") == "for1"
    assert names.claim("Größe") == "p_Gr_e"


@pytest.mark.parametrize("name", NEURONS)
def test_threads_meet_nowhere_but_in_the_sums_of_a_warp(name):
    for text in texts(NEURONS[name], "float32", [(16, True), (40, False)]):
        assert not re.search("atomic|__syncthreads|volatile|shfl_xor|shfl_sync", text)
        meeting = re.search("__shared__|__sync|shfl", text)
        assert bool(meeting) == ("WarpSums<" in text)
        assert max(map(len, text.splitlines())) <= 100


def test_the_history_of_a_segment_fits_in_registers():
    program = Program.parse(NEURONS["LIF"].program)
    gradient = adjoint(program, frozenset({("x", 0)}))
    shapes = {steps: backward_shape(program, gradient, steps, "float32", 4) for steps in (1, 5, 64)}
    assert [(s.segment, s.checkpointed, s.ragged) for s in shapes.values()] == [
        (1, False, False),
        (8, False, True),
        (16, True, False),
    ]
    for steps, dtype in itertools.product((1, 16, 64), DTYPES):
        shape = backward_shape(program, gradient, steps, dtype, widest(dtype))
        registers = 2 if dtype == "float64" else 1
        assert shape.vec * shape.segment * registers <= cuda_shape.HISTORY


def test_tables_are_learned_in_short_segments():
    case = next(case for case in CASES if str(case) == "hg")
    program = Program.parse(case.make(16, 8, torch.float32)[0].program)
    for tables, segment in ((True, cuda_shape.TABLED), (False, cuda_shape.SEGMENT)):
        parameters = {("p", name) for name, _ in program.tensors} if tables else set()
        gradient = adjoint(program, frozenset({("x", 0), *parameters}))
        assert backward_shape(program, gradient, 16, "float32", 4).segment == segment


def body_of(text, name):
    """The lines of a function."""
    found = re.search(rf"\b{name}\([^{{]*\{{\n(.*?)\n\}}\n", text, re.DOTALL)
    return found[1]


APPROXIMATE = "fma|__fdividef"


@pytest.mark.parametrize("name", NEURONS)
def test_only_gradients_are_approximate(name):
    for text in texts(NEURONS[name], "float32"):
        for function in re.findall(r"void (step|begin|advance|recompute)\(", text):
            assert not re.search(APPROXIMATE, body_of(text, function)), function


def test_a_spike_is_decided_exactly_on_the_way_back_too():
    (_, backward) = texts(LIF(2.7, surrogate=surrogate.ATan()), "float32")
    recompute, sweep = body_of(backward, "recompute"), body_of(backward, "sweep")
    (decision,) = re.findall(r"const real s = .*", sweep)
    assert decision in recompute and "(x - v) / tau" in recompute
    assert re.search(APPROXIMATE, sweep)


def test_the_way_back_reads_a_step_before_it_computes_the_one_after_it():
    (_, backward) = texts(NEURONS["LIF soft learned"], "float32")
    lines = [line.strip() for line in backward.splitlines()]
    call = next(i for i, line in enumerate(lines) if line.startswith("sweep("))
    for name in ("x", "g_y"):
        ahead = f"load({name}_rows + (t - 1) * {name}_stride + n);"
        (at,) = (i for i, line in enumerate(lines) if line == f"if (k) {name}_ahead = {ahead}")
        assert lines.index(f"const Pack {name} = {name}_ahead;") < at < call


def test_numbers_arrive_as_arguments():
    def step(x, state, p):
        return x * p.gain, (exp(state[0]) + where(x > 0.0, 1.0, 0.0),)

    program = Program.parse(Neuron(step, params={"gain": 0.123}).program)
    text = emit_cuda.forward(program, Shape())
    assert "real gain" in text and "0.123" not in text
