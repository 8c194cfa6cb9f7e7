"""Ranges are short numbers, and lose less than the largest value alone."""

import pytest
import torch

from spikeloom.convert.las.ranges import choose_ranges, short
from spikeloom.convert.las.sites import Site


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_ranges_are_short_and_increase():
    sample = torch.randn(500, 3) * torch.tensor([0.1, 1.0, 5.0])
    sample[0, 2] = 80.0
    normal, middle, outlier = choose_ranges(sample, 100.0, 8, 1)
    assert (normal < middle).all() and middle < outlier >= 100.0
    assert normal[0] < normal[1] < normal[2]
    for value in (normal, middle, outlier):
        mantissa = torch.frexp(value).mantissa * 2**8
        assert torch.equal(mantissa, mantissa.round())


def test_short_rounds_up():
    x = torch.rand(1000) * 10
    assert (short(x) >= x).all() and (short(x) <= x * (1 + 2**-7)).all()


@pytest.mark.parametrize("between", [0, 1])
def test_chosen_ranges_beat_the_largest_value_alone(between):
    sample = torch.randn(2000, 4)
    sample[::500] *= 20
    site = Site()
    site(sample)
    site.fit(6, between, "nearest", 1.0)
    alone = Site()
    alone(sample)
    alone.observation.rows = [torch.full_like(sample, float(sample.abs().max()))]
    alone.fit(6, between, "nearest", 1.0)
    error = [float((s(sample) - sample).square().mean()) for s in (site, alone)]
    assert error[0] < 0.1 * error[1]
