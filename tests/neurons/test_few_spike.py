"""Few-spike and outlier-aware neurons against recorded vectors, loops and their closed form."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import spikeloom
from spikeloom.neurons import OAT, FewSpike
from spikeloom.neurons.surrogate import Triangle
from tests.kernel import cuda_standin

GOLDEN = Path(__file__).parents[1] / "golden"
MTN = np.load(GOLDEN / "las_mtn.npz")
RECORDED = np.load(GOLDEN / "las_oat.npz")
PAIRS = ["n10_o500", "n2_o50", "n4_o10", "n1_o5", "n5_o100", "n0.001_o1"]


@pytest.fixture(params=["eager", "llvm", "cuda text"])
def runner(request, monkeypatch):
    """The name of an implementation; the CUDA text runs on the CPU in place of LLVM."""
    if request.param != "cuda text":
        return request.param
    cuda_standin.install(monkeypatch)
    return "llvm"


def golden(archive, key):
    return torch.from_numpy(archive[key])


def reach(name):
    return float(name[1:])


def halves(value, steps):
    return [value * 2.0**-k for k in range(1, steps + 1)]


def oat_loop(x, ranges, steps, tie="gt", rounding="truncate"):
    """Float64, one element at a time, with Python's own comparisons."""
    above = (lambda a, b: a > b) if tie == "gt" else (lambda a, b: a >= b)
    rows = []
    for value in x.double().flatten().tolist():
        a = abs(value)
        limit = next((r for r in ranges[:-1] if (a < r if tie == "gt" else a <= r)), ranges[-1])
        v = min(a, ranges[-1])
        v += limit * 2.0 ** -(steps + 1) if rounding == "nearest" else 0.0
        row = []
        for theta in halves(limit, steps):
            spike = above(v, theta) and value != 0
            v -= theta * spike
            row.append(np.sign(value) * theta * spike)
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64).T.reshape(steps, *x.shape)


# --- Recorded vectors -----------------------------------------------------------------------


@pytest.mark.parametrize("steps", [4, 8, 16])
@pytest.mark.parametrize("name", ["v1", "v2", "v10", "v500", "v0.001"])
def test_a_binary_few_spike_neuron_equals_the_recorded_sub_neuron(name, steps, runner):
    theta = torch.tensor(reach(name)) * 2.0 ** -torch.arange(1, steps + 1)
    neuron = FewSpike(theta, theta, theta)
    y, _ = spikeloom.run(neuron, golden(MTN, f"{name}_x")[None], implementation=runner)
    assert torch.equal((y != 0).to(torch.int8), golden(MTN, f"{name}_K{steps}_bits"))
    exact = {"rtol": 1e-6, "atol": 1e-9} if name == "v0.001" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(y, golden(MTN, f"{name}_K{steps}_weighted"), **exact)
    torch.testing.assert_close(y.sum(0), golden(MTN, f"{name}_K{steps}_decoded"), **exact)


@pytest.mark.parametrize("steps", [4, 8, 16])
@pytest.mark.parametrize("pair", PAIRS)
def test_oat_equals_the_recorded_spikes(pair, steps, runner):
    normal, outlier = map(reach, pair.split("_"))
    neuron = OAT(steps, normal, outlier)
    x = golden(RECORDED, f"{pair}_x")
    y, _ = spikeloom.run(neuron, x[None], implementation=runner)
    expected = golden(RECORDED, f"{pair}_K{steps}_weighted")
    assert torch.equal(torch.sign(y), torch.sign(expected))
    exact = {"rtol": 1e-6, "atol": 0} if normal == 0.001 else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(y, expected, **exact)
    total, _ = spikeloom.run(neuron, x[None], reduce="sum", implementation=runner)
    decoded = golden(RECORDED, f"{pair}_K{steps}_decoded")
    torch.testing.assert_close(total, decoded, rtol=exact["rtol"], atol=exact["atol"])


def test_the_published_default_is_ten_and_five_hundred():
    y, _ = spikeloom.run(OAT(16, 10.0, 500.0), golden(RECORDED, "default_x")[None])
    assert torch.equal(y, golden(RECORDED, "default_slow_weighted"))


def test_the_published_centring_code_is_a_neuron_for_each_sign():
    x = golden(RECORDED, "asym_x")
    above, _ = spikeloom.run(OAT(16, 700.0), x.clamp(min=0)[None])
    below, _ = spikeloom.run(OAT(16, 200.0), x.clamp(max=0)[None])
    assert torch.equal(above + below, golden(RECORDED, "asym_weighted"))


@pytest.mark.parametrize("steps", [4, 8, 16])
@pytest.mark.parametrize("pair", PAIRS[:-1])
def test_ties_decided_the_other_way_are_the_recorded_floor_form(pair, steps):
    normal, outlier = map(reach, pair.split("_"))
    x = golden(RECORDED, f"{pair}_x")
    y, _ = spikeloom.run(OAT(steps, normal, outlier, tie="ge"), x[None], reduce="sum")
    recorded = golden(RECORDED, f"{pair}_K{steps}_fast")
    unit = torch.where(x.abs() <= normal, normal, outlier) * 2.0**-steps
    assert ((y - recorded).abs() <= unit * (1 + 1e-6)).all()
    assert torch.isclose(y, recorded).float().mean() > 0.9


# --- Against a loop --------------------------------------------------------------------------

EDGE = [0.0, -0.0, 1.0, -1.0, 0.5, 0.25, 0.75, 4.0, -4.0, 5.0, 2.0, 1e-30, 0.03125, 100.0, -0.99]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("between", [(), (2.0,)])
@pytest.mark.parametrize("rounding", ["truncate", "nearest"])
@pytest.mark.parametrize("tie", ["gt", "ge"])
@pytest.mark.parametrize("steps", [1, 4, 9])
def test_oat_equals_a_loop_over_python_numbers(steps, tie, rounding, between, dtype, runner):
    torch.manual_seed(0)
    x = torch.cat([torch.tensor(EDGE), torch.randn(200) * 2]).to(dtype)
    neuron = OAT(steps, 1.0, 4.0, between, tie, rounding)
    y, _ = spikeloom.run(neuron, x[None], implementation=runner)
    expected = oat_loop(x, (1.0, *between, 4.0), steps, tie, rounding)
    if rounding == "nearest" and dtype == torch.float32:
        # Half an LSB is added in float32: only a value within a rounding of a tie may differ.
        different = (y.double() != expected).any(0)
        assert different.sum() <= 1
        return
    assert torch.equal(y.double(), expected)


@pytest.mark.parametrize("rounding", ["truncate", "nearest"])
@pytest.mark.parametrize("tie", ["gt", "ge"])
@pytest.mark.parametrize("steps", [1, 3, 8, 16])
def test_the_closed_form_is_the_sum_of_the_spikes(steps, tie, rounding, runner):
    torch.manual_seed(1)
    normal = torch.tensor([0.625, 1.0, 3.25])
    neuron = OAT(steps, normal, 23.5, (9.75,), tie, rounding)
    grid = (torch.arange(-60, 60) * 2.0**-5).repeat(3, 1).T
    x = torch.cat([grid, torch.randn(300, 3) * 8])
    total, _ = spikeloom.run(neuron, x[None], reduce="sum", implementation=runner)
    spikes, _ = spikeloom.run(neuron, x[None], implementation=runner)
    closed, _ = spikeloom.run(neuron.decoder(), x, implementation=runner)
    assert torch.equal(closed, total)
    assert torch.equal(closed, spikes.sum(0))


@pytest.mark.parametrize("rounding, bound", [("truncate", 1.0), ("nearest", 0.5)])
def test_the_error_stays_within_the_documented_bound(rounding, bound):
    neuron = OAT(6, 2.0, 64.0, rounding=rounding)
    x = torch.linspace(-64, 64, 100_001, dtype=torch.float64)
    y, _ = spikeloom.run(neuron.decoder(), x[None])
    unit = torch.where(x.abs() < 2.0, 2.0, 64.0) * 2.0**-6
    error = (y[0] - x).abs() / unit
    end = torch.where(x.abs() < 2.0, 2.0, 64.0) - x.abs() < unit / 2
    assert (error[~end] <= bound + 1e-9).all()
    assert (error <= 1 + 1e-9).all()
    assert error.max() > 0.9 * bound


def test_values_beyond_the_outer_range_saturate():
    y, _ = spikeloom.run(OAT(4, 1.0, 4.0), torch.tensor([[5.0, -1e30, 4.0]]), reduce="sum")
    assert y.tolist() == [3.75, -3.75, 3.75]


# --- What leaves -----------------------------------------------------------------------------


def test_bit_t_of_the_code_is_spike_t():
    torch.manual_seed(2)
    x = torch.randn(50) * 3
    settings = {"steps": 7, "normal": 1.0, "outlier": 8.0}
    code = OAT(**settings).code(x)
    units, _ = spikeloom.run(OAT(**settings, spikes="unit"), x[None])
    bits = torch.stack([(code.abs() >> (7 - k)) & 1 for k in range(1, 8)]) * x.sign()
    assert torch.equal(units, bits)
    assert set(units.unique().tolist()) == {-1.0, 0.0, 1.0}
    codes, _ = spikeloom.run(OAT(**settings, spikes="code").decoder(), x[None])
    assert torch.equal(codes[0].int(), code)


def test_codes_of_all_24_steps_are_whole():
    x = torch.tensor([0.1, 0.9999999], dtype=torch.float64)
    expected = torch.ceil(x * 2**24).int() - 1
    assert torch.equal(OAT(24, 1.0).code(x), expected)


def test_the_input_is_summed_over_time_first():
    x = torch.tensor([[0.25], [0.5], [-0.0625]])
    y, _ = spikeloom.run(OAT(4, 1.0), x)
    assert torch.equal(y, spikeloom.run(OAT(4, 1.0), x.sum(0, keepdim=True))[0])
    assert y.shape == (4, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_inputs_are_encoded_in_float32(dtype):
    x = torch.linspace(-6, 6, 101).to(dtype)
    y, _ = spikeloom.run(OAT(6, 1.0, 4.0), x[None])
    assert y.dtype == dtype
    assert torch.equal(y, spikeloom.run(OAT(6, 1.0, 4.0), x.float()[None])[0].to(dtype))


def test_thresholds_may_differ_between_channels():
    normal = torch.tensor([1.0, 2.0, 0.5])
    x = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0))
    together, _ = spikeloom.run(OAT(5, normal, 8.0), x)
    for channel in range(3):
        alone, _ = spikeloom.run(OAT(5, float(normal[channel]), 8.0), x[..., channel])
        assert torch.equal(together[..., channel], alone)


@pytest.mark.parametrize("shape", [(1, 0, 3), (1, 2, 0)])
def test_nothing_in_nothing_out(shape):
    y, _ = spikeloom.run(OAT(4), torch.zeros(shape))
    assert y.shape == (4, *shape[1:])


def test_inputs_need_not_be_contiguous():
    x = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))
    turned, _ = spikeloom.run(OAT(4, 1.0, 4.0), x.transpose(1, 2))
    assert torch.equal(turned.transpose(1, 2), spikeloom.run(OAT(4, 1.0, 4.0), x)[0])


def test_nan_is_refused_by_the_kernel_and_kept_by_eager():
    x = torch.tensor([[0.5, float("nan")]])
    with pytest.raises(ValueError, match="NaN"):
        spikeloom.run(OAT(4), x)
    y, _ = spikeloom.run(OAT(4), x, implementation="eager")
    assert y[:, 1].isnan().all() and not y[:, 0].isnan().any()
    closed, _ = spikeloom.run(OAT(4).decoder(), x)
    assert closed[0].isnan().tolist() == [False, True]


# --- Gradients -------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["eager", "llvm"])
def test_gradients_pass_straight_through_up_to_the_outer_range(implementation):
    x = torch.tensor([[0.3, -2.0, 9.0, -9.0]], requires_grad=True)
    y, _ = spikeloom.run(OAT(6, 1.0, 4.0), x, implementation=implementation)
    y.sum().backward()
    assert x.grad.tolist() == [[1.0, 1.0, 0.0, 0.0]]
    closed = x.detach().requires_grad_()
    decoder = OAT(6, 1.0, 4.0).decoder()
    spikeloom.run(decoder, closed, implementation=implementation)[0].sum().backward()
    assert closed.grad.tolist() == [[1.0, 1.0, 0.0, 0.0]]


def test_learned_ranges_have_the_gradient_of_the_closed_form():
    x = torch.tensor([[0.3, -0.81, 2.0, 9.0]], dtype=torch.float64)
    grads = []
    for form in ("spikes", "closed"):
        normal = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        outlier = torch.nn.Parameter(torch.tensor(4.0, dtype=torch.float64))
        neuron = OAT(6, normal, outlier)
        neuron = neuron if form == "spikes" else neuron.decoder()
        spikeloom.run(neuron, x)[0].sum().backward()
        grads.append(torch.stack([normal.grad, outlier.grad]))
    torch.testing.assert_close(*grads)
    assert grads[0].abs().min() > 0


def test_a_triangle_makes_a_softer_gradient():
    x = torch.linspace(-0.9, 0.9, 40)[None].requires_grad_()
    y, _ = spikeloom.run(OAT(6, 1.0, surrogate=Triangle()), x)
    y.sum().backward()
    assert (x.grad >= 0).all() and (x.grad <= 1).all() and x.grad.unique().numel() > 10


def test_a_few_spike_neuron_differentiates_like_its_loop():
    theta, h, d = torch.rand(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.linspace(0, 2, 9, dtype=torch.float64).requires_grad_()
    y, _ = spikeloom.run(FewSpike(theta, h, d), x[None])
    v, total = x, 0.0
    for k in range(5):
        u = v - theta[k]
        soft = torch.clamp(1 - u.detach().abs(), min=0) * u
        z = (u > 0).double() + soft - soft.detach()
        total, v = total + d[k] * z, v - h[k] * z
    torch.testing.assert_close(y.sum(0), total)
    (expected,) = torch.autograd.grad(total.sum(), x)
    (found,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(found, expected)


# --- Arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"steps": 0}, "steps must be in 1..24"),
        ({"steps": 25}, "steps must be in 1..24"),
        ({"normal": 0.0}, "normal must be larger than zero"),
        ({"normal": float("nan")}, "normal must be finite"),
        ({"normal": 2.0, "outlier": 2.0}, "outlier must be larger than normal"),
        ({"normal": 2.0, "outlier": 9.0, "between": (1.0,)}, "between_0"),
        ({"normal": torch.tensor([1.0, 5.0]), "outlier": 4.0}, "got 4 above 1 to 5"),
        ({"between": (2.0,)}, "give outlier"),
        ({"tie": "le"}, "tie must be one of 'gt' or 'ge'"),
        ({"rounding": "up"}, "rounding must be one of"),
        ({"spikes": "bits"}, "spikes must be one of"),
    ],
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        OAT(**settings)


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match="steps must be an int"):
        OAT(2.5)
    with pytest.raises(TypeError, match="normal must be a number"):
        OAT(4, "1.0")
    for between in (2.0, torch.tensor([2.0, 3.0]), "23"):
        with pytest.raises(TypeError, match="between must be a list or tuple of ranges, such as"):
            OAT(4, 1.0, 8.0, between)
    with pytest.raises(TypeError, match="theta must be a sequence"):
        FewSpike("abc", [1.0], [1.0])
    with pytest.raises(ValueError, match="same length"):
        FewSpike([1.0, 2.0], [1.0], [1.0])


def test_numbers_may_be_of_any_type():
    given = OAT(np.int64(4), np.float32(1.5), np.float64(8.0), [np.float32(2.5)])
    assert repr(given) == repr(OAT(4, 1.5, 8.0, (2.5,)))


@pytest.mark.parametrize(
    "neuron", [OAT(5, 1.0, 8.0, (2.0,), "ge", "nearest"), FewSpike([2.0, 1.0], [2, 1], [2, 1])]
)
def test_neurons_can_be_copied_pickled_and_made_again(neuron):
    x = torch.linspace(-9, 9, 64)[None]
    expected, _ = spikeloom.run(neuron, x)
    again = type(neuron)(**neuron.settings())
    for other in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron)), again):
        assert torch.equal(spikeloom.run(other, x)[0], expected)
    assert repr(neuron).startswith(neuron.name)
