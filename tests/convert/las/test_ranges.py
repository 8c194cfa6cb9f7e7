"""Ranges are short numbers, and lose less than the largest value alone."""

import pytest
import torch

from spikeloom.convert.las.ranges import ROWS, Observation, choose_ranges, short
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


@pytest.mark.parametrize("between", [0, 1])
def test_ranges_near_the_outermost_are_short_too(between):
    for value in choose_ranges(torch.full((50, 2), 129.0), 129.0, 8, between):
        mantissa = torch.frexp(value).mantissa * 2**8
        assert torch.equal(mantissa, mantissa.round())


def test_the_sample_is_drawn_from_all_batches_and_does_not_grow():
    observation = Observation()
    for number in range(64):
        observation.see("here", torch.full((512, 3), float(number)))
        assert sum(map(len, observation.rows)) <= 3 * ROWS
    sample = observation.sample()
    assert sample.shape == (ROWS, 3) and torch.equal(sample, observation.sample())
    # Sixteen of each on average.
    counts = sample[:, 0].long().bincount(minlength=64)
    assert counts.min() >= 4 and counts.max() <= 36


def test_values_that_no_float32_range_can_hold_are_named():
    with pytest.raises(
        ValueError, match=r"the input of here reaches 1e\+40, and ranges are float32"
    ):
        Observation().see("here", torch.full((2, 2), 1e40, dtype=torch.float64))
