"""Sign gradient descent neurons against published vectors, a float64 loop and torch's functions."""

import copy
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import spikeloom
from spikeloom.kernel.vocabulary import tanh
from spikeloom.neurons import (
    AnalogEncoder,
    Constant,
    Exponential,
    Inverse,
    SignGD,
    SignGDBits,
    SignTracker,
)
from spikeloom.neurons.signgd_functions import FUNCTIONS

GOLDEN = Path(__file__).parents[1] / "golden"
SCHEDULES = {
    "exponential": Exponential(0.15, 0.95),
    "inverse": Inverse(1.0),
    "constant": Constant(0.05),
}
IMPLEMENTATIONS = ["llvm", "eager"]
TORCH = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "gelu_sigmoid": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
    "softplus": F.softplus,
    "abs": torch.abs,
    "square": torch.square,
    "exp": torch.exp,
    "sqrt": lambda x: torch.sqrt(x.abs()),
    "reciprocal": torch.reciprocal,
    "identity": lambda x: x,
    "maximum": torch.maximum,
    "multiply": torch.mul,
    "divide": torch.div,
    "mul_inverse_sqrt": lambda a, b: a / b.abs().sqrt(),
}


def golden(name):
    with np.load(GOLDEN / f"signgd_{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def held(*values, steps):
    """Increments of operands that arrive at once and then stay."""
    sequences = tuple(F.pad(v[None], (0, 0) * v.dim() + (0, steps - 1)) for v in values)
    return sequences if len(sequences) > 1 else sequences[0]


# --- Published vectors ------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("function", ["relu", "gelu"])
def test_bits_and_states_equal_the_published_code(function, schedule, implementation):
    g = golden(f"{function}_{schedule}")
    name = "gelu_sigmoid" if function == "gelu" else function
    neuron = SignGDBits(g["bias"], g["offset"], name, SCHEDULES[schedule])
    spikes, _, y = spikeloom.run(neuron, g["current"], record="y", implementation=implementation)
    _, _, x = spikeloom.run(neuron, g["current"], record="x", implementation=implementation)
    # sigmoid is rounded differently by every library, which decides where y and f(x) all but meet
    near_tie = (g["margin"].abs() < 1e-5) & torch.tensor(function != "relu")
    before = near_tie.cumsum(0) == 0
    assert before.float().mean() > 0.9
    assert torch.equal(spikes[before], g["spikes"][before])
    assert torch.equal(y[before], g["v"][before])
    assert torch.equal(x, g["x"])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("function", ["relu", "gelu"])
def test_increments_tell_the_same_as_bits(function, schedule):
    g = golden(f"{function}_{schedule}")
    eta = g["eta"].float()[:, None]
    moves_in = -eta * (2 * g["current"] - g["offset"])
    moves_in[0] += g["bias"]
    neuron = SignGD("gelu_sigmoid" if function == "gelu" else function, SCHEDULES[schedule])
    moves, _ = spikeloom.run(neuron, moves_in)
    near_tie = g["margin"].abs() < 1e-5
    before = near_tie.cumsum(0) == 0
    assert torch.equal((moves < 0)[before].float(), g["spikes"][before])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "function",
    [
        "relu",
        "leaky_relu",
        "gelu_sigmoid",
        "abs",
        "square",
        "exp",
        "maximum",
        "mul_inverse_sqrt",
        "divide",
        "multiply",
    ],
)
def test_ties_fall_as_published(function, implementation):
    g = golden("ties")
    name = {"leaky_relu": "leakyrelu", "gelu_sigmoid": "gelu", "divide": "div"}.get(
        function, function
    )
    constants = {"negative_slope": 0.1} if function == "leaky_relu" else {}
    neuron = SignGD(function, Constant(0.25), **constants)
    operands = (g["x"], g[f"{name}_x2"]) if neuron.inputs == 2 else (g["x"],)
    moves, _, y = spikeloom.run(
        neuron, held(*operands, steps=16), record="y", implementation=implementation
    )
    assert torch.equal((moves < 0).float(), g[f"{name}_spikes"])
    if function != "exp":
        assert torch.equal(y, g[f"{name}_v"])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_input_codes_equal_the_published_code(schedule):
    g = golden("encoder")
    arriving = held(g["z"], steps=64)
    moves, _, f = spikeloom.run(SignGD("identity", SCHEDULES[schedule]), arriving, record="y")
    assert torch.equal((moves < 0).float(), g[f"spike_{schedule}_spikes"])
    assert torch.equal(f, g[f"spike_{schedule}_f"])
    _, _, f = spikeloom.run(AnalogEncoder(SCHEDULES[schedule]), arriving, record="f")
    assert torch.allclose(f, g[f"float_{schedule}_f"], atol=1e-6)


# --- The functions ------------------------------------------------------------------------------


def test_every_function_has_a_reference():
    assert set(TORCH) == set(FUNCTIONS)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_estimate_comes_within_the_last_step_of_the_function(function, implementation):
    x = torch.linspace(-1.9, 2.0, 41, dtype=torch.float64)
    operands = (x, x.flip(0) + 0.3)[: FUNCTIONS[function].operands]
    if function == "sqrt":
        operands = (x.abs(),)
    if function == "mul_inverse_sqrt":
        operands = (x, operands[1].abs())
    expected = TORCH[function](*operands)
    schedule = Exponential(1.0, 0.85)
    scale = 1.01 * float(expected.abs().max()) / schedule.reach(64)
    neuron = SignGD(function, schedule, scale)
    _, _, y = spikeloom.run(
        neuron, held(*operands, steps=64), record="y", implementation=implementation
    )
    assert (y[-1] - expected).abs().max() <= 1.001 * scale * schedule.at(64)


def test_a_function_of_your_own_is_traced():
    def shrink(x):
        return x - tanh(x)

    neuron = SignGD(shrink, Exponential(1.0, 0.8))
    assert neuron.program is not None and "shrink" in repr(neuron)
    x = torch.tensor([-1.5, 0.4, 2.0])
    _, (_, y, _) = spikeloom.run(neuron, held(x, steps=40))
    assert torch.allclose(y, x - torch.tanh(x), atol=1e-3)


@pytest.mark.parametrize("slope", [0.3, 0.0])
def test_leaky_relu_has_its_own_slope(slope):
    neuron = SignGD("leaky_relu", Exponential(1.0, 0.8), negative_slope=slope)
    _, (_, y, _) = spikeloom.run(neuron, held(torch.tensor([-2.0]), steps=40))
    assert abs(float(y) + 2.0 * slope) < 1e-3


# --- The neuron ----------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_equals_a_float64_loop(implementation):
    arriving = 0.2 * torch.randn(12, 3, 5, dtype=torch.float64)
    neuron = SignGD("gelu", Exponential(0.5, 0.75), scale=2.0)
    moves, (x, y, t) = spikeloom.run(neuron, arriving, implementation=implementation)
    etas = torch.tensor(Exponential(0.5, 0.75).steps(12)).double()
    for index in np.ndindex(3, 5):
        a = b = 0.0
        for step in range(12):
            a += float(arriving[step][index])
            f = 0.5 * a * (1 + math.erf(a * math.sqrt(0.5)))
            move = 2.0 * float(etas[step]) * (-1 if b > f else 1)
            b += move
            assert float(moves[step][index]) == pytest.approx(move, abs=1e-12)
        assert float(x[index]) == pytest.approx(a) and float(y[index]) == pytest.approx(b)
    assert torch.equal(t, torch.full((3, 5), 12.0, dtype=torch.float64))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_two_chunks_equal_one_run(implementation):
    arriving = torch.randn(16, 4, 3)
    neuron = SignGD("silu", Exponential(0.4, 0.9), torch.rand(3) + 0.5)
    whole, last = spikeloom.run(neuron, arriving, implementation=implementation)
    first, state = spikeloom.run(neuron, arriving[:5], implementation=implementation)
    second, after = spikeloom.run(neuron, arriving[5:], state, implementation=implementation)
    assert torch.equal(torch.cat((first, second)), whole)
    assert all(torch.equal(a, b) for a, b in zip(after, last, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_states_stay_wide_for_narrow_inputs(dtype):
    moves, (_, y, _) = spikeloom.run(SignGD("relu"), torch.randn(128, 7).to(dtype))
    assert moves.dtype == dtype
    assert y.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_kernel_equals_eager_on_transposed_input():
    arriving = torch.randn(6, 5, 20).transpose(1, 2)
    for neuron in (SignGD("relu"), SignGD("abs", Inverse()), SignTracker(Inverse(), 6, 0.7)):
        a, _ = spikeloom.run(neuron, arriving, implementation="llvm")
        b, _ = spikeloom.run(neuron, arriving, implementation="eager")
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (4, 0)])
def test_short_and_empty_sequences(shape):
    moves, (_, y, t) = spikeloom.run(SignGD("relu"), torch.randn(*shape))
    assert moves.shape == shape
    assert torch.equal(t, torch.full(shape[1:], float(shape[0])))
    assert torch.allclose(y, moves.sum(0))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_summed_output_differentiates_as_the_function(implementation):
    arriving = (0.3 * torch.randn(8, 6, dtype=torch.float64)).requires_grad_()
    moves, _ = spikeloom.run(SignGD("gelu"), arriving, implementation=implementation)
    (found,) = torch.autograd.grad(moves.sum(), arriving)
    total = arriving.detach().sum(0).requires_grad_()
    (expected,) = torch.autograd.grad(F.gelu(total).sum(), total)
    assert torch.allclose(found, expected.expand(8, 6), atol=1e-9)


def test_about_half_of_all_bits_are_ones_even_in_silence():
    moves, _ = spikeloom.run(SignGD("relu", Constant(0.1)), torch.zeros(100, 50))
    assert 0.45 < (moves < 0).float().mean() < 0.55


@pytest.mark.parametrize(
    "neuron",
    [
        SignGD("elu", Inverse(0.5), alpha=0.7),
        SignGD("maximum", [0.5, 0.25]),
        SignGDBits(torch.zeros(3), torch.ones(3), "relu"),
        SignTracker(Constant(0.1), 5, strict=False),
        AnalogEncoder(),
    ],
)
def test_neurons_survive_copying(neuron):
    for other in (pickle.loads(pickle.dumps(neuron)), copy.deepcopy(neuron)):
        assert repr(other) == repr(neuron)
    again = type(neuron)(**neuron.settings())
    assert again.program == neuron.program


# --- Schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_steps_equal_the_published_ones(schedule):
    eta = golden(f"relu_{schedule}")["eta"].tolist()
    assert SCHEDULES[schedule].steps(64) == pytest.approx(eta, rel=1e-14)
    assert SCHEDULES[schedule].reach(64) == pytest.approx(sum(eta))


def test_past_the_last_step_no_number_comes_out():
    neuron = SignGD("relu", schedule=[0.5, 0.25])
    with pytest.raises(ValueError, match="NaN after 3 steps"):
        spikeloom.run(neuron, torch.ones(3, 2))
    _, (_, y, _) = spikeloom.run(neuron, torch.ones(3, 2), implementation="eager")
    assert y.isnan().all()


# --- The subgradient view -------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [1.0, 0.6])
def test_integrate_and_fire_is_a_subgradient_method(threshold):
    current = torch.rand(50, 40, dtype=torch.float64) * 1.6 - 0.3
    neuron = spikeloom.neurons.IF(threshold, v_reset=None)
    spikes, _ = spikeloom.run(neuron, current)
    f = torch.zeros(40, dtype=torch.float64) + 1.0  # u(0) = 0
    for t in range(1, 51):
        mean = current[:t].mean(0)
        margin = mean / threshold - f
        s = (margin >= 0).double()
        assert torch.equal(s[margin.abs() > 1e-12], spikes[t - 1][margin.abs() > 1e-12])
        f = f - (f - s) / (t + 1)


# --- Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SignGD("swish"), "function: must be one of relu"),
        (lambda: SignGD("relu", scale=0.0), "SignGD: scale must be positive"),
        (
            lambda: SignGD("relu", scale=torch.tensor([1.0, -1.0])),
            "SignGD: scale must be positive and finite, got -1 to 1",
        ),
        (lambda: SignGD("softplus", beta=0.0), "beta: must be finite"),
        (lambda: Exponential(-0.1), "Exponential: rate"),
        (lambda: Exponential(0.1, 1.5), "decay must lie in"),
        (lambda: Inverse(math.inf), "Inverse: rate"),
        (lambda: SignGD("relu", schedule=[]), "at least one step size"),
        (lambda: SignGD("relu", schedule=[0.5, 0.0]), "Table: step 2"),
        (lambda: SignTracker([0.5], steps=2), "the schedule has 1 steps"),
        (lambda: SignTracker(Inverse(), steps=0), "steps: must be at least 1"),
        (lambda: SignGDBits(0.0, 0.0, "maximum"), r"bias: maximum has 2 operand"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SignGD(3), "function: must be a name"),
        (lambda: SignGD("relu", "exponential"), "schedule: must be"),
        (lambda: SignGD("relu", scale="big"), "SignGD: scale must be a number"),
        (lambda: SignGD("relu", alpha=1.0), "relu has no constant 'alpha'"),
        (lambda: Constant(True), "Constant: rate must be a number"),
        (lambda: SignTracker(Inverse(), steps=2.0), "steps: must be an int"),
    ],
)
def test_bad_types_are_refused(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_nan_input_gives_no_number():
    arriving = torch.zeros(4, 2)
    arriving[1, 0] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        spikeloom.run(SignGD("relu"), arriving)


@pytest.mark.parametrize("function", ["identity", "relu", "gelu"])
@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_tracker_makes_no_number_of_nan_and_infinity(function, odd):
    tracker, x = SignTracker([1.0, 0.5], 2, function=function), torch.zeros(2, 3)
    x[0, 1] = odd
    with pytest.raises(ValueError, match="NaN"):
        spikeloom.run(tracker, x)
    y, _ = spikeloom.run(tracker, x, implementation="eager")
    assert torch.isnan(y).tolist() == [[False, True, False]] * 2


def test_an_undefined_target_is_looked_for_above_where_it_may_be():
    tracker = SignTracker([1.0, 0.5, 0.25], 3, undefined=True)
    x = torch.tensor([[math.nan], [math.nan], [1.0]])
    assert spikeloom.run(tracker, x)[0].flatten().tolist() == [1.0, 1.5, 1.25]
    assert SignTracker(**tracker.settings()).undefined


def test_a_tracker_of_a_function_is_a_tracker_of_its_values():
    x = torch.randn(12, 3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    schedule = Exponential(0.5, 0.8)
    for name, constants in (("relu", {}), ("leaky_relu", {"negative_slope": 0.2}), ("abs", {})):
        own = SignTracker(schedule, 12, 0.7, False, name, **constants)
        values = SignTracker(schedule, 12, 0.7, False)
        y, _ = spikeloom.run(own, x)
        expected, _ = spikeloom.run(values, own.function.value(x))
        torch.testing.assert_close(y, expected)
        for estimate in (y, expected):
            (gradient,) = torch.autograd.grad(estimate[-1].sum(), x)
            assert gradient[-1].any()


def test_a_tracker_follows_functions_of_one_operand():
    with pytest.raises(ValueError, match="maximum has two operands, one is followed"):
        SignTracker([0.5], 1, function="maximum")
