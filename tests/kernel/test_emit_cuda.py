"""The CUDA kernels without a GPU: run on the CPU behind a shim, and compiled to machine code."""

import itertools
import math
import re

import pytest
import torch

import spikeloom
from spikeloom import Gated, Neuron, PerStep
from spikeloom.kernel import emit_cuda
from spikeloom.kernel.adjoint import adjoint
from spikeloom.kernel.cuda_scan import Shape
from spikeloom.kernel.cuda_text import Names, literal
from spikeloom.kernel.emit_cuda import backward_shape, widest
from spikeloom.kernel.trace import Program
from spikeloom.kernel.vocabulary import exp, fire, lookup, where
from spikeloom.neurons import IF, LIF, Leaky, LIFBox, Trace, surrogate
from tests.kernel import cuda_shim
from tests.kernel.families import CASES
from tests.kernel.test_families import draw, filled, leaves, loss_of

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
# Steps and neurons: one segment exactly, part of one, several, the last one shorter; with and
# without vectors (8 neurons in 16 bytes is the most).
SIZES = [(1, 7), (5, 16), (16, 264), (17, 37), (40, 8)]


@pytest.fixture
def shim(monkeypatch):
    """CPU tensors run the CUDA text; the kernels as they are launched."""
    return cuda_shim.install(monkeypatch)


def vec_of(kernel):
    return int(re.search(r"VEC = (\d+)", kernel.text)[1])


def run_both(make, xs, states, params, steps=None, **options):
    """Values and gradients of a neuron by the CUDA text and by the eager step."""

    def run_with(implementation):
        values = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
        inputs = [x.detach().requires_grad_() for x in xs]
        start = None if states is None else leaves(states, states[0].dtype)
        x = tuple(inputs) if len(inputs) > 1 else inputs[0]
        given = None if start is None else tuple(start)
        y, last, *seq = spikeloom.run(
            make(values), x, given, implementation=implementation, **options
        )
        found = [*(y if isinstance(y, tuple) else (y,)), *last, *seq]
        everything = [*inputs, *(start or ()), *values.values()]
        grads = torch.autograd.grad(loss_of(found, []), everything, allow_unused=True)
        return found, filled(grads, everything)

    return run_with("llvm"), run_with("eager")


def assert_same(found, expected, inexact=False):
    (values, grads), (expected_values, expected_grads) = found, expected
    for a, b in zip(values, expected_values, strict=True):
        if inexact:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(a, b)
    for a, b in zip(grads, expected_grads, strict=True):
        # Two roundings of a 16-bit gradient may differ by one unit in the last place.
        tolerance = {torch.float64: 1e-12, torch.float32: 2e-5}.get(a.dtype, 1e-2)
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# --- The text, run ---


@pytest.mark.parametrize("steps, neurons", SIZES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_families_equal_the_eager_step(shim, case, steps, neurons):
    params, xs, states = draw(case, steps, neurons, torch.float32)
    params = {name: tensor.float() for name, tensor in params.items()}
    xs, states = [x.float() for x in xs], [state.float() for state in states]
    assert_same(*run_both(case.neuron, xs, states, params), case.inexact)
    assert {vec_of(kernel) > 1 for kernel in shim[:1]} == {neurons % 4 == 0}


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_families_in_every_dtype_equal_the_eager_step(shim, case, dtype):
    real = torch.float64 if dtype == "float64" else torch.float32
    params, xs, states = draw(case, 17, 24, real)
    params = {name: tensor.to(real) for name, tensor in params.items()}
    xs, states = [x.to(DTYPES[dtype]) for x in xs], [state.to(real) for state in states]
    assert_same(*run_both(case.neuron, xs, states, params), case.inexact)
    assert vec_of(shim[0]) == widest(dtype)


@pytest.mark.parametrize("steps, neurons", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("v_reset", [0.1, None], ids=["hard", "soft"])
def test_lif_from_rest_equals_the_eager_step(shim, v_reset, dtype, steps, neurons):
    x = (torch.randn(steps, neurons) * 1.5 + 0.6).to(DTYPES[dtype])
    assert_same(*run_both(lambda p: LIF(2.0, v_reset=v_reset), [x], None, {}))


@pytest.mark.parametrize("tau", [2.0, 2.7], ids=["a power of two", "another number"])
def test_division_by_a_number_is_exact(shim, tau):
    x = torch.randn(5, 64) * torch.logspace(-42, 30, 64)
    assert_same(*run_both(lambda p: LIF(tau, v_reset=None), [x], None, {}))
    assert ("1.0f / tau" in shim[0].text) == (tau == 2.0)


@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_every_16_bit_number_is_read_and_written_as_torch_does(shim, narrow):
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    x = bits.view(DTYPES[narrow])
    x = x[torch.isfinite(x)][None]
    through = Neuron(lambda x, state, p: (x * p.scale, (state[0],)), params={"scale": 1.0 / 3.0})
    y, _ = spikeloom.run(through, x)
    expected, _ = spikeloom.run(through, x, implementation="eager")
    assert torch.equal(y, expected)
    nan, _ = spikeloom.run(through, x.new_full((1, 8), math.nan))
    assert nan.isnan().all()


def test_parameters_of_every_kind_get_their_gradient(shim):
    def step(x, state, p):
        v, row = state
        h = p.decay * v + x * p.gain + p.offset * lookup(p.table, row)
        s = fire(h - p.threshold, surrogate.ATan())
        return s, (h - s * p.threshold, row)

    def make(values):
        return Neuron(
            step,
            state=("v", "row"),
            params={
                "decay": values["decay"],
                "gain": PerStep(values["gain"]),
                "offset": 0.3,
                "table": Gated(values["table"]),
                "threshold": values["threshold"],
            },
        )

    for steps, neurons in ((3, 40), (20, 41)):
        params = {
            "decay": torch.tensor(0.7),
            "gain": torch.rand(steps) + 0.5,
            "table": torch.randn(3, steps),
            "threshold": torch.rand(neurons) + 0.5,
        }
        states = [torch.randn(neurons), torch.randint(0, 3, (neurons,)).float()]
        assert_same(*run_both(make, [torch.randn(steps, neurons)], states, params))


def test_a_row_outside_the_table_takes_the_nearest(shim):
    def step(x, state, p):
        return lookup(p.table, state[0]), state

    table = torch.tensor([[1.0], [2.0], [3.0]])
    neuron = Neuron(step, params={"table": Gated(table)})
    rows = torch.tensor([-3.0, 0.0, 1.0, 2.0, 7.0, math.inf, -math.inf])
    y, _ = spikeloom.run(neuron, torch.zeros(1, 7), (rows,))
    assert y[0].tolist() == [1.0, 1.0, 2.0, 3.0, 3.0, 3.0, 1.0]


def test_a_history_of_states_that_never_change_needs_no_checkpoints(shim):
    def step(x, state, p):
        return x * x * lookup(p.table, state[0]), state

    def make(values):
        return Neuron(step, params={"table": Gated(values["table"])})

    rows = torch.randint(0, 3, (24,)).float()
    assert_same(*run_both(make, [torch.randn(40, 24)], [rows], {"table": torch.randn(3, 40)}))
    assert "recompute" not in shim[-1].text and "SEGMENT" not in shim[-1].text


def test_a_sum_over_many_neurons_is_exact_to_float32(shim):
    x = torch.rand(1, 1 << 20)

    def gradient(dtype):
        gain = torch.tensor(1.0, dtype=dtype, requires_grad=True)
        neuron = Neuron(lambda x, state, p: (x * p.gain, state), params={"gain": gain})
        spikeloom.run(neuron, x.to(dtype))[0].sum().backward()
        return gain.grad.double()

    torch.testing.assert_close(gradient(torch.float32), x.double().sum(), rtol=1e-7, atol=0)


def test_few_threads_go_over_the_neurons_in_turn(shim, monkeypatch):
    from spikeloom.kernel import run_cuda

    x, params = torch.randn(6, 3000), {"tau": torch.tensor(2.3)}
    (_, many), _ = run_both(lambda p: LIF(p["tau"]), [x], None, params)
    monkeypatch.setattr(run_cuda, "SUMMING", 256)
    found, expected = run_both(lambda p: LIF(p["tau"]), [x], None, params)
    assert_same(found, expected)
    torch.testing.assert_close(found[1], many, rtol=1e-6, atol=1e-6)


def test_large_tables_are_summed_by_fewer_threads(shim, monkeypatch):
    from spikeloom.kernel import run_cuda

    monkeypatch.setattr(run_cuda, "SHARES", 1)
    params = {"gain": torch.rand(4)}
    make = lambda p: Neuron(  # noqa: E731
        lambda x, state, q: (x * q.gain, state), params={"gain": PerStep(p["gain"])}
    )
    assert_same(*run_both(make, [torch.randn(4, 1000)], None, params))


@pytest.mark.parametrize(
    "view, wide",
    [
        (lambda x: x[:, 1:], False),
        (lambda x: x[:, :36], True),
        (lambda x: x[::2], True),
        (lambda x: x[:1].expand(9, 40), True),
        (lambda x: x.view(9, 5, 8).transpose(1, 2), True),
        (lambda x: x[:, ::2], True),
    ],
    ids=["misaligned", "cut", "every other row", "one row again", "transposed", "copied"],
)
def test_memory_layouts(shim, view, wide):
    x = view(torch.randn(9, 40))
    assert_same(*run_both(lambda p: LIF(), [x], None, {}))
    assert (vec_of(shim[0]) == 4) == wide


def test_rows_of_an_odd_stride_are_read_one_by_one(shim):
    x = torch.randn(9, 41)[:, :40]
    assert_same(*run_both(lambda p: LIF(), [x], None, {}))
    assert vec_of(shim[0]) == 1


@pytest.mark.parametrize("options", [{"reduce": "sum"}, {"reduce": "mean"}, {"record": "v"}])
def test_reduced_and_recorded_runs(shim, options):
    x = torch.randn(19, 12) + 0.5
    assert_same(*run_both(lambda p: LIF(), [x], None, {}, **options))


def test_a_neuron_without_a_state(shim):
    neuron = Neuron(lambda x, state, p: (x * x, ()), state=())
    x = torch.randn(3, 4, requires_grad=True)
    y, _ = spikeloom.run(neuron, x)
    y.sum().backward()
    assert torch.equal(y, x * x) and torch.equal(x.grad, 2 * x.detach())


def test_initial_states_that_need_no_gradient(shim):
    x, v = torch.randn(4, 8, requires_grad=True), torch.randn(8)
    y, _ = spikeloom.run(LIF(), x, (v,))
    (grad,) = torch.autograd.grad(y.sum(), x)
    y, _ = spikeloom.run(LIF(), x, (v,), implementation="eager")
    torch.testing.assert_close(grad, torch.autograd.grad(y.sum(), x)[0])


def test_nan_stays_nan(shim):
    x = torch.zeros(3, 8)
    x[1, 2] = math.nan
    _, (v,) = spikeloom.run(LIF(v_reset=None), x)
    assert v.isnan().tolist() == [n == 2 for n in range(8)]


def test_any_parameter_name_becomes_an_identifier(shim):
    names = [
        "float",
        "x",
        "v",
        "h",
        "s",
        "y_rows",
        "g_x",
        "_own",
        "A",
        "τ",
        "load",
        "t",
        "INFINITY",
    ]

    def step(x, state, p):
        (v,) = state
        total = sum(getattr(p, name) for name in names)
        h = v * 0.5 + x * total
        s = fire(h - p.h, surrogate.ATan())
        return s * p.s, (h - s,)

    def make(values):
        return Neuron(step, params=values, name="odd // name\\\n")

    params = {name: torch.tensor(0.1 + 0.01 * i) for i, name in enumerate(names)}
    assert_same(*run_both(make, [torch.randn(4, 8)], None, params))


# --- The text itself ---


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


NEURONS = {
    "LIF": LIF(2.0),
    "LIF soft learned": LIF(torch.tensor(2.0, requires_grad=True), v_reset=None),
    "IF": IF(),
    "Leaky": Leaky(torch.full((3,), 0.5, requires_grad=True)),
    "LIFBox": LIFBox(),
    "Trace": Trace(0.5, 0.25),
    **{case.name: case.make(4, 8, torch.float32)[0] for case in CASES},
}


def texts(neuron, dtype, sizes=((16, True),)):
    """A neuron's kernels, by name."""
    program = Program.parse(neuron.program)
    leaves = {("x", i) for i in range(program.inputs)} | {("p", n) for n, _ in program.tensors}
    gradient = adjoint(program, frozenset(leaves))
    for steps, wide in sizes:
        vec = widest(dtype) if wide else 1
        yield emit_cuda.forward(program, Shape(dtype, vec))
        shape = backward_shape(program, gradient, steps, dtype, vec)
        yield emit_cuda.backward(program, gradient, shape)


@pytest.mark.parametrize("name", NEURONS)
def test_results_cannot_depend_on_the_order_of_threads(name):
    for text in texts(NEURONS[name], "float32", [(16, True), (40, False)]):
        assert not re.search("atomic|__shared__|__sync|volatile|shfl", text)
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
        assert shape.vec * shape.segment * registers <= emit_cuda.HISTORY


# --- Compiled for a GPU ---


@pytest.fixture(scope="module")
def compile_text():
    run_cuda = pytest.importorskip("spikeloom.kernel.run_cuda", reason="CuPy is not installed")
    try:
        run_cuda.compile_text("", 90)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"NVRTC cannot be loaded: {error}")
    return run_cuda.compile_text


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


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NEURONS)
def test_every_neuron_in_every_dtype_for_every_architecture(compile_text, name, dtype, capability):
    for text in texts(NEURONS[name], dtype, [(16, False), (65, True)]):
        assert is_cubin(compile_text(text, capability))


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
        ptx = compile_text(text, 9999).decode()
        assert not re.search(r"fma\.|mad\.f|\.ftz|\.approx|div\.full", ptx)
        assert re.search(r"ld\.global\.nc(\.L\w+)*\.v[24]", ptx) and re.search(
            r"st\.global\.v[24]", ptx
        )
        assert "atom" not in ptx and "red." not in ptx


def test_numbers_arrive_as_arguments():
    def step(x, state, p):
        return x * p.gain, (exp(state[0]) + where(x > 0.0, 1.0, 0.0),)

    program = Program.parse(Neuron(step, params={"gain": 0.123}).program)
    text = emit_cuda.forward(program, Shape())
    assert "real gain" in text and "0.123" not in text
