"""Functions by range reduction: no clamp, and the right values at the ends of the number line."""

import math

import pytest
import torch

from spikeloom.neurons import fit_reduced
from spikeloom.neurons.tables import FUNCTIONS


@pytest.mark.parametrize("name", ["exp", "exp2", "reciprocal", "rsqrt", "sqrt", "square"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_range_reduction_never_clamps(name, dtype):
    function = fit_reduced(name, 8, segments=32)
    exponential = name.startswith("exp")
    x = torch.linspace(-60, 60, 999) if exponential else torch.logspace(-18, 18, 999)
    x = x.to(dtype)
    exact = FUNCTIONS[name](x)
    assert ((function(x) - exact) / exact).abs().max() < 3.2e-4
    torch.testing.assert_close(function.spikes(x).sum(0), function(x), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_logarithm_is_within_a_bound_at_every_magnitude(dtype):
    x = torch.cat([torch.logspace(-18, 18, 999), torch.linspace(0.9, 1.1, 99)]).to(dtype)
    log = fit_reduced("log", 8, segments=32)
    assert (log(x) - x.log()).abs().max() < 3e-4
    torch.testing.assert_close(log.spikes(x).sum(0), log(x), rtol=1e-6, atol=1e-6)
    ends = log(torch.tensor([0.0, math.inf, -1.0, math.nan]))
    assert ends[:2].tolist() == [-math.inf, math.inf] and ends[2:].isnan().all()


def test_range_reduction_at_the_ends_of_the_number_line():
    ends = torch.tensor([0.0, math.inf, math.nan])
    assert fit_reduced("reciprocal")(ends).tolist()[:2] == [math.inf, 0.0]
    assert fit_reduced("rsqrt")(ends)[0] == math.inf
    assert fit_reduced("sqrt")(ends)[0] == 0
    assert fit_reduced("square")(ends)[0] == 0
    assert fit_reduced("exp")(torch.tensor([-1e9, 1e9, math.nan])).tolist()[:2] == [0.0, math.inf]
    for name in ("exp", "reciprocal", "rsqrt", "sqrt", "square"):
        assert fit_reduced(name)(ends)[2].isnan()
    assert fit_reduced("reciprocal")(torch.tensor(-4.0)) == pytest.approx(-0.25, rel=1e-3)
    assert fit_reduced("rsqrt")(torch.tensor(-4.0)).isnan()
    with pytest.raises(ValueError, match="must be one of exp"):
        fit_reduced("cosine")


@pytest.mark.parametrize("name", ["exp", "exp2", "log", "reciprocal", "rsqrt", "sqrt", "square"])
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4)])
def test_nothing_gives_no_spikes_in_any_shape(name, shape):
    function = fit_reduced(name, 8, segments=32)
    assert function(torch.zeros(shape)).shape == shape
    assert function.spikes(torch.zeros(shape)).shape == (8, *shape)


@pytest.mark.parametrize("name", ["exp", "exp2", "log", "reciprocal", "rsqrt", "sqrt", "square"])
def test_the_gradient_is_the_function_s_own_slope(name):
    function = fit_reduced(name, 12, segments=64)
    x = torch.linspace(0.3, 40.0, 99, dtype=torch.float64)
    exact, found, spiking = (x.clone().requires_grad_() for _ in range(3))
    FUNCTIONS[name](exact).sum().backward()
    function(found).sum().backward()
    function.spikes(spiking).sum().backward()
    torch.testing.assert_close(found.grad, exact.grad, rtol=1e-3, atol=0.0)
    torch.testing.assert_close(spiking.grad, found.grad)


def test_whole_numbers_are_the_same_numbers_in_floating_point():
    reciprocal = fit_reduced("reciprocal", steps=8, segments=32)
    x = torch.arange(1, 9)
    assert torch.equal(reciprocal(x), reciprocal(x.float()))
    assert torch.equal(reciprocal.spikes(x), reciprocal.spikes(x.float()))
