"""Generated tables keep their declared error, in every form and on every runner."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

import spikeloom
from spikeloom.neurons import HG, FewSpike, LinearHG, draw_hg, fit_hg
from spikeloom.neurons.tables import FUNCTIONS
from tests.kernel import cuda_standin

RANGES = {
    "exp": (-12.0, 0.0),
    "exp2": (0.0, 1.0),
    "gelu": (-6.0, 12.0),
    "gelu_tanh": (-6.0, 6.0),
    "quick_gelu": (-8.0, 8.0),
    "reciprocal": (1.0, 2.0),
    "relu": (-1.0, 3.3),
    "rsqrt": (1.0, 4.0),
    "sigmoid": (-8.0, 8.0),
    "silu": (-20.0, 20.0),
    "sqrt": (1.0, 4.0),
    "square": (1.0, 2.0),
    "tanh": (-4.1, 4.1),
}


def dense(neuron, count=100_001):
    """A grid of the range and both sides of every code of every piece."""
    edges = torch.tensor(neuron.edges, dtype=torch.float64)
    codes = torch.arange(2**neuron.steps + 1, dtype=torch.float64) / 2**neuron.steps
    ties = (edges[:-1, None] + edges.diff()[:, None] * codes).flatten()
    nudge = 1e-9
    grid = torch.linspace(float(edges[0]), float(edges[-1]), count, dtype=torch.float64)
    return torch.cat([grid, ties, ties - nudge, ties + nudge]).clamp(edges[0], edges[-1])


def decoded(neuron, x, **options):
    return spikeloom.run(neuron, x[None], reduce="sum", **options)[0]


def worst(neuron, function, dtype=torch.float64):
    x = dense(neuron).to(dtype).clamp(*(torch.tensor(e, dtype=dtype) for e in ends(neuron)))
    return float((decoded(neuron, x).double() - function(x.double())).abs().max())


def ends(neuron):
    return neuron.edges[0], neuron.edges[-1]


@pytest.mark.parametrize("name", RANGES)
def test_the_declared_error_is_never_exceeded(name):
    for steps, error in ((4, 3e-2), (8, 3e-3), (11, 1e-3)):
        neuron = fit_hg(name, *RANGES[name], steps, error)
        assert neuron.max_error <= error
        assert worst(neuron, FUNCTIONS[name]) <= neuron.max_error
        assert worst(neuron, FUNCTIONS[name], torch.float32) <= neuron.max_error


@pytest.mark.parametrize(
    "name, bar", [("gelu", 2e-3), ("exp2", 1.5e-4), ("reciprocal", 1e-4), ("rsqrt", 1.5e-4)]
)
def test_32_pieces_of_8_steps_keep_the_error(name, bar):
    neuron = fit_hg(name, *RANGES[name], steps=8, segments=32)
    assert len(neuron.tables) <= 32
    assert worst(neuron, FUNCTIONS[name]) <= neuron.max_error <= bar
    asked = fit_hg(name, *RANGES[name], steps=8, max_error=bar)
    assert len(asked.tables) <= 32


def test_the_declared_error_is_not_an_exaggeration():
    neuron = fit_hg("gelu", -6, 6, 8, 2e-3)
    assert worst(neuron, FUNCTIONS["gelu"]) >= 0.95 * neuron.max_error


def test_each_piece_keeps_an_error_of_its_own():
    neuron = fit_hg("gelu", -6, 48, 8, segments=32, identity_above=6.0)
    x = dense(neuron)
    error = (decoded(neuron, x) - FUNCTIONS["gelu"](x)).abs()
    piece = torch.bucketize(x, torch.tensor(neuron.boundaries, dtype=torch.float64), right=True)
    bound = torch.tensor(neuron.errors, dtype=torch.float64)
    # A value on a boundary may be encoded from either side.
    near = torch.minimum(error - bound[piece], error - bound[(piece - 1).clamp(min=0)])
    assert (near <= 0).all()
    assert len(neuron.tables) <= 32
    assert (error / x.abs())[x > 6.01].max() < 2.0**-9


def test_a_function_of_ones_own_is_fitted():
    neuron = fit_hg(lambda x: torch.sin(3 * x), -1.0, 2.0, 7, 1e-2)
    x = torch.linspace(-1, 2, 5001, dtype=torch.float64)
    assert (decoded(neuron, x) - torch.sin(3 * x)).abs().max() <= neuron.max_error


@pytest.mark.parametrize("runner", ["eager", "llvm", "cuda text"])
@pytest.mark.parametrize("tie", ["gt", "ge"])
def test_closed_form_spikes_and_written_tables_agree(tie, runner, monkeypatch):
    if runner == "cuda text":
        cuda_standin.install(monkeypatch)
        runner = "llvm"
    neuron = fit_hg("gelu", -6, 6, 6, segments=12, tie=tie)
    x = torch.cat([torch.linspace(-6, 6, 3001), torch.tensor(neuron.edges)]).clamp(-6, 6)
    total = decoded(neuron, x, implementation=runner)
    spikes, _ = spikeloom.run(neuron, x[None], implementation=runner)
    closed, _ = spikeloom.run(neuron.decoder(), x[None], implementation=runner)
    table, _ = spikeloom.run(neuron.as_table(), x[None], implementation=runner)
    assert torch.equal(spikes, table)
    torch.testing.assert_close(closed[0], total, rtol=0, atol=1e-6)
    torch.testing.assert_close(spikes.sum(0), total, rtol=0, atol=1e-6)


def test_the_kernel_equals_the_eager_step():
    neuron = fit_hg("silu", -20, 20, 8, segments=24)
    x = dense(neuron, 5001).float()
    x = x[(x >= neuron.edges[0]) & (x <= neuron.edges[-1])][None]
    for form in (neuron, neuron.as_table(), neuron.decoder()):
        eager, _ = spikeloom.run(form, x, implementation="eager")
        assert torch.equal(spikeloom.run(form, x, implementation="llvm")[0], eager)


def test_the_constant_leaves_with_the_first_spike():
    neuron = LinearHG([0.0, 4.0], [8.0], [100.0], steps=2)
    y, _ = spikeloom.run(neuron, torch.tensor([[3.5]]))
    assert y.flatten().tolist() == [104.0, 2.0]


def test_a_value_on_a_boundary_goes_where_the_tie_says():
    table = FewSpike([1.0], [1.0], [0.0])
    for tie, expected in (("gt", 20.0), ("ge", 10.0)):
        neuron = HG([2.0], [table, table], constants=[10.0, 20.0], tie=tie)
        assert decoded(neuron, torch.tensor([2.0])).tolist() == [expected]


# --- Outside the range -----------------------------------------------------------------------


def test_outside_its_range_a_strict_neuron_refuses():
    neuron = fit_hg("gelu", -6, 6, 6, 1e-2)
    for x in (torch.tensor([6.1]), torch.tensor([-7.0]), torch.tensor([math.nan])):
        with pytest.raises(ValueError, match="NaN"):
            decoded(neuron, x)
        assert spikeloom.run(neuron.decoder(), x[None])[0].isnan().all()
        with pytest.raises(ValueError, match="fitted on \\[-6, 6\\]"):
            neuron.check(x)
    neuron.check(torch.tensor([-6.0, 6.0]))


def test_a_lenient_neuron_holds_the_value_at_the_end():
    neuron = fit_hg("gelu", -6, 6, 6, 1e-2, strict=False)
    outside, ends = torch.tensor([-60.0, 60.0]), torch.tensor([-6.0, 6.0])
    assert torch.equal(decoded(neuron, outside), decoded(neuron, ends))
    with pytest.raises(ValueError, match="NaN"):
        decoded(neuron, torch.tensor([math.nan]))


def test_ends_that_float32_does_not_hold_are_still_inside():
    neuron = fit_hg("tanh", -0.1, 0.1, 4, 1e-2)
    neuron.check(torch.tensor([-0.1, 0.1], dtype=torch.float64))
    assert not decoded(neuron, torch.tensor([-0.1, 0.1], dtype=torch.float64)).isnan().any()


# --- Gradients, pictures, arguments ----------------------------------------------------------


@pytest.mark.parametrize("form", ["spikes", "closed"])
def test_the_gradient_is_the_slope_of_the_piece(form):
    neuron = fit_hg("gelu", -6, 6, 8, segments=32)
    x = torch.linspace(-3, 3, 101).requires_grad_()
    run = neuron if form == "spikes" else neuron.decoder()
    spikeloom.run(run, x[None])[0].sum().backward()
    exact = x.detach().requires_grad_()
    torch.nn.functional.gelu(exact).sum().backward()
    assert (x.grad - exact.grad).abs().max() < 0.15
    assert (x.grad - exact.grad).abs().mean() < 0.05


def test_the_picture_shows_function_and_error(tmp_path):
    neuron = fit_hg("gelu", -6, 6, 6, 1e-2)
    figure = draw_hg(neuron, "gelu", tmp_path / "gelu.png")
    assert (tmp_path / "gelu.png").stat().st_size > 5000
    above, below = figure.axes
    assert len(above.lines) == 2
    error = torch.as_tensor(below.lines[0].get_ydata())
    assert 0 < error.abs().max() <= neuron.max_error


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("gello", -1, 1), "'gello' is not one of"),
        (("gelu", 1, 1), "low <= zero_below < identity_above"),
        (("gelu", -math.inf, 1), "low must be finite, got -inf"),
        (("gelu", -6, 6, 8, math.nan), "max_error must be positive, got nan"),
        (("gelu", -6, 6, 8, 1e-3, 0), "segments must be at least 1, got 0"),
        (("reciprocal", 0.0, 1.0), "not finite at 0"),
        (("sqrt", -1.0, 1.0), "not finite at -1"),
        (("gelu", -6, 6, 8, 0.0), "max_error must be positive"),
        (("gelu", -6, 6, 8, 1e-9), "cannot be reached"),
        (("gelu", -6, 6, 0), "steps must be in 1..24"),
        (("gelu", -6, 4000, 8, 1e-3, 8, None, 6.0), "segments leave"),
    ],
)
def test_bad_requests_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_hg(*arguments)


def test_wrong_types_are_refused():
    with pytest.raises(TypeError, match="must be a name or a function"):
        fit_hg(3.0, 0, 1)
    with pytest.raises(TypeError, match="low must be a number"):
        fit_hg("gelu", "0", 1)
    with pytest.raises(TypeError, match="same shape"):
        fit_hg(lambda x: x.sum(), 0, 1)
    # A count that is no whole number would never be reached, and the pieces not be limited.
    for segments in (1.5, "8", True):
        with pytest.raises(TypeError, match=f"segments must be an int, got {segments!r}"):
            fit_hg("gelu", -6, 6, 8, segments=segments)


def test_numbers_of_numpy_are_numbers():
    edges = np.float32(-6), np.float64(6)
    assert (
        fit_hg("gelu", *edges, np.int64(8), np.float32(2**-7)).edges
        == fit_hg("gelu", -6.0, 6.0, 8, 2**-7).edges
    )


def test_gates_that_do_not_fit_are_refused():
    table = FewSpike([1.0], [1.0], [1.0])
    for arguments, message in (
        (([], []), "at least one"),
        (([0.0, 1.0], [table, table]), "2 ranges need 1 boundaries"),
        (([1.0, 0.0], [table] * 3), "must increase"),
        (([0.0], [table, FewSpike([1.0, 2.0], [1, 1], [1, 1])]), "same number of steps"),
    ):
        with pytest.raises(ValueError, match=message):
            HG(*arguments)
    for arguments, message in (
        (([], [object]), "without theta"),
        (([], table), "tables must be a list or tuple of few-spike tables"),
        ((0.0, [table, table]), "boundaries must be a list of numbers, got 0.0"),
        ((["a"], [table, table]), "boundaries must be a list of numbers"),
    ):
        with pytest.raises(TypeError, match=message):
            HG(*arguments)
    with pytest.raises(TypeError, match="edges must be a list of numbers, got 2"):
        LinearHG(2, [1.0], [0.0])
    with pytest.raises(ValueError, match="errors"):
        LinearHG([0.0, 1.0], [1.0], [0.0], errors=[])


@pytest.mark.parametrize("written", [False, True])
def test_an_hg_can_be_copied_pickled_and_made_again(written):
    neuron = fit_hg("tanh", -4, 4, 5, 3e-2)
    neuron = neuron.as_table() if written else neuron
    x = torch.linspace(-4, 4, 99)[None]
    expected, _ = spikeloom.run(neuron, x)
    again = type(neuron)(**neuron.settings())
    for other in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron)), again):
        assert torch.equal(spikeloom.run(other, x)[0], expected)
