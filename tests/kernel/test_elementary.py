"""exp, log and erf of the CPU kernel against float64, and their special values."""

import math

import pytest
import torch

import spikeloom
from spikeloom.kernel import vocabulary

INFINITY, NAN = math.inf, math.nan


def apply(name, x):
    """The word on a CPU kernel: a neuron without states."""
    word = getattr(vocabulary, name)
    neuron = spikeloom.Neuron(lambda x, state, p: (word(x), ()), state=(), name=name)
    y, _ = spikeloom.run(neuron, x[None], implementation="llvm")
    return y[0]


def units(found, expected):
    """The error in units in the last place of float32."""
    exact = expected.abs().clamp_min(2.0**-126)
    return ((found.double() - expected).abs() / (2.0 ** (exact.log2().floor() - 23))).max()


@pytest.mark.parametrize(
    "name, low, high, limit",
    [("exp", -80.0, 80.0, 1.0), ("log", 1e-30, 1e6, 1.5), ("erf", -5.0, 5.0, 5.0)],
)
def test_float32_errors_stay_within_the_documented_limits(name, low, high, limit):
    x = (torch.rand(200_003, dtype=torch.float64) * (high - low) + low).float()
    around_one = (torch.rand(100_000, dtype=torch.float64) + 0.5).float()
    for values in (x, around_one):
        expected = getattr(torch, name)(values.double())
        assert units(apply(name, values), expected) <= limit


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("exp", 0.0, 1.0),
        ("exp", -INFINITY, 0.0),
        ("exp", INFINITY, INFINITY),
        ("exp", 89.0, INFINITY),
        ("exp", -200.0, 0.0),
        ("exp", NAN, NAN),
        ("log", 1.0, 0.0),
        ("log", 0.0, -INFINITY),
        ("log", -1.0, NAN),
        ("log", INFINITY, INFINITY),
        ("log", NAN, NAN),
        ("log", 1e-40, math.log(1e-40)),
        ("erf", 0.0, 0.0),
        ("erf", 10.0, 1.0),
        ("erf", -INFINITY, -1.0),
        ("erf", NAN, NAN),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_special_values(name, value, expected, dtype):
    if name == "exp" and value in (89.0, -200.0) and dtype == torch.float64:
        expected = math.exp(value)
    # Seventeen values: a full vector and one beyond it.
    found = apply(name, torch.full((17,), value, dtype=dtype))
    wanted = torch.full((17,), expected, dtype=dtype)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0.0, equal_nan=True)


@pytest.mark.parametrize("name", ["exp", "log", "erf"])
def test_float64_is_the_c_library(name):
    x = torch.rand(1001, dtype=torch.float64) * 3 + 0.1
    torch.testing.assert_close(apply(name, x), getattr(torch, name)(x), rtol=1e-15, atol=0)
