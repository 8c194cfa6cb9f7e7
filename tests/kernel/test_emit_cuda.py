"""The CUDA kernels without a GPU: run on the CPU by a stand-in."""

import math
import re

import pytest
import torch

import spikeloom
from spikeloom import Gated, Neuron, PerStep
from spikeloom.kernel.cuda_shape import widest
from spikeloom.kernel.vocabulary import fire, lookup
from spikeloom.neurons import LIF, surrogate
from tests.kernel import cuda_standin
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
def launches(monkeypatch):
    """CPU tensors run the CUDA text; the launches, in order."""
    return cuda_standin.install(monkeypatch).launches


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
def test_families_equal_the_eager_step(launches, case, steps, neurons):
    params, xs, states = draw(case, steps, neurons, torch.float32)
    params = {name: tensor.float() for name, tensor in params.items()}
    xs, states = [x.float() for x in xs], [state.float() for state in states]
    assert_same(*run_both(case.neuron, xs, states, params), case.inexact)
    assert {vec_of(kernel) > 1 for kernel in launches[:1]} == {neurons % 4 == 0}


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_families_in_every_dtype_equal_the_eager_step(launches, case, dtype):
    real = torch.float64 if dtype == "float64" else torch.float32
    params, xs, states = draw(case, 17, 24, real)
    params = {name: tensor.to(real) for name, tensor in params.items()}
    xs, states = [x.to(DTYPES[dtype]) for x in xs], [state.to(real) for state in states]
    assert_same(*run_both(case.neuron, xs, states, params), case.inexact)
    assert vec_of(launches[0]) == widest(dtype)


@pytest.mark.parametrize("steps, neurons", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("v_reset", [0.1, None], ids=["hard", "soft"])
def test_lif_from_rest_equals_the_eager_step(launches, v_reset, dtype, steps, neurons):
    x = (torch.randn(steps, neurons) * 1.5 + 0.6).to(DTYPES[dtype])
    assert_same(*run_both(lambda p: LIF(2.0, v_reset=v_reset), [x], None, {}))


@pytest.mark.parametrize("tau", [2.0, 2.7], ids=["a power of two", "another number"])
def test_division_by_a_number_is_exact(launches, tau):
    x = torch.randn(5, 64) * torch.logspace(-42, 30, 64)
    assert_same(*run_both(lambda p: LIF(tau, v_reset=None), [x], None, {}))
    assert ("1.0f / tau" in launches[0].text) == (tau == 2.0)


@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_every_16_bit_number_is_read_and_written_as_torch_does(launches, narrow):
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    x = bits.view(DTYPES[narrow])
    x = x[torch.isfinite(x)][None]
    through = Neuron(lambda x, state, p: (x * p.scale, (state[0],)), params={"scale": 1.0 / 3.0})
    y, _ = spikeloom.run(through, x)
    expected, _ = spikeloom.run(through, x, implementation="eager")
    assert torch.equal(y, expected)
    nan, _ = spikeloom.run(through, x.new_full((1, 8), math.nan))
    assert nan.isnan().all()


def test_parameters_of_every_kind_get_their_gradient(launches):
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


def test_a_row_outside_the_table_takes_the_nearest(launches):
    def step(x, state, p):
        return lookup(p.table, state[0]), state

    table = torch.tensor([[1.0], [2.0], [3.0]])
    neuron = Neuron(step, params={"table": Gated(table)})
    rows = torch.tensor([-3.0, 0.0, 1.0, 2.0, 7.0, math.inf, -math.inf])
    y, _ = spikeloom.run(neuron, torch.zeros(1, 7), (rows,))
    assert y[0].tolist() == [1.0, 1.0, 2.0, 3.0, 3.0, 3.0, 1.0]


def test_a_history_of_states_that_never_change_needs_no_checkpoints(launches):
    def step(x, state, p):
        return x * x * lookup(p.table, state[0]), state

    def make(values):
        return Neuron(step, params={"table": Gated(values["table"])})

    rows = torch.randint(0, 3, (24,)).float()
    assert_same(*run_both(make, [torch.randn(40, 24)], [rows], {"table": torch.randn(3, 40)}))
    assert "recompute" not in launches[-1].text and "SEGMENT" not in launches[-1].text


def test_a_sum_over_many_neurons_is_exact_to_float32(launches):
    x = torch.rand(1, 1 << 20)

    def gradient(dtype):
        gain = torch.tensor(1.0, dtype=dtype, requires_grad=True)
        neuron = Neuron(lambda x, state, p: (x * p.gain, state), params={"gain": gain})
        spikeloom.run(neuron, x.to(dtype))[0].sum().backward()
        return gain.grad.double()

    torch.testing.assert_close(gradient(torch.float32), x.double().sum(), rtol=1e-7, atol=0)


def test_few_threads_go_over_the_neurons_in_turn(launches, monkeypatch):
    from spikeloom.kernel import run_cuda

    x, params = torch.randn(6, 3000), {"tau": torch.tensor(2.3)}
    (_, many), _ = run_both(lambda p: LIF(p["tau"]), [x], None, params)
    monkeypatch.setattr(run_cuda, "SUMMING", 256)
    found, expected = run_both(lambda p: LIF(p["tau"]), [x], None, params)
    assert_same(found, expected)
    torch.testing.assert_close(found[1], many, rtol=1e-6, atol=1e-6)


def test_large_tables_are_summed_by_fewer_threads(launches, monkeypatch):
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
def test_memory_layouts(launches, view, wide):
    x = view(torch.randn(9, 40))
    assert_same(*run_both(lambda p: LIF(), [x], None, {}))
    assert (vec_of(launches[0]) == 4) == wide


def test_rows_of_an_odd_stride_are_read_one_by_one(launches):
    x = torch.randn(9, 41)[:, :40]
    assert_same(*run_both(lambda p: LIF(), [x], None, {}))
    assert vec_of(launches[0]) == 1


@pytest.mark.parametrize("options", [{"reduce": "sum"}, {"reduce": "mean"}, {"record": "v"}])
def test_reduced_and_recorded_runs(launches, options):
    x = torch.randn(19, 12) + 0.5
    assert_same(*run_both(lambda p: LIF(), [x], None, {}, **options))


def test_a_neuron_without_a_state(launches):
    neuron = Neuron(lambda x, state, p: (x * x, ()), state=())
    x = torch.randn(3, 4, requires_grad=True)
    y, _ = spikeloom.run(neuron, x)
    y.sum().backward()
    assert torch.equal(y, x * x) and torch.equal(x.grad, 2 * x.detach())


def test_initial_states_that_need_no_gradient(launches):
    x, v = torch.randn(4, 8, requires_grad=True), torch.randn(8)
    y, _ = spikeloom.run(LIF(), x, (v,))
    (grad,) = torch.autograd.grad(y.sum(), x)
    y, _ = spikeloom.run(LIF(), x, (v,), implementation="eager")
    torch.testing.assert_close(grad, torch.autograd.grad(y.sum(), x)[0])


def test_nan_stays_nan(launches):
    x = torch.zeros(3, 8)
    x[1, 2] = math.nan
    _, (v,) = spikeloom.run(LIF(v_reset=None), x)
    assert v.isnan().tolist() == [n == 2 for n in range(8)]


def test_any_parameter_name_becomes_an_identifier(launches):
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


def test_gradients_are_those_of_exact_arithmetic_to_a_millionth(launches):
    x = torch.randn(16, 4096) * 1.5 + 0.6

    def gradient(dtype, implementation):
        leaf = x.to(dtype).requires_grad_()
        neuron = LIF(2.7, v_reset=None, surrogate=surrogate.ATan())
        y, (v,) = spikeloom.run(neuron, leaf, implementation=implementation)
        weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape)
        (found,) = torch.autograd.grad((y.double() * weight).sum() + v.double().sum(), leaf)
        return y, found

    (y, found), (exact_y, exact) = gradient(torch.float32, "llvm"), gradient(torch.float64, "eager")
    same = (y == exact_y).all(0)  # float64 decides otherwise at a threshold here and there
    assert same.double().mean() > 0.99
    error = (found.double() - exact).abs()[:, same]
    assert error.max() <= 1e-6 * exact.abs().max()
