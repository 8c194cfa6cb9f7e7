"""Ranges are short numbers, fit the channels, and lose least of what was seen."""

import itertools

import pytest
import torch

from spikeloom import neurons, run
from spikeloom.convert.las.ranges import BINS, Observation, choose_ranges, short
from spikeloom.convert.las.sites import Site


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def observed(*batches, bound=0.0):
    observation = Observation(bound)
    for rows in batches:
        observation.see("here", rows)
    return observation


def loss(sample, ranges, steps):
    """Mean squared error of a neuron with these ranges, by its spikes."""
    normal, *between, outlier = ranges
    neuron = neurons.OAT(steps, normal, outlier, between, rounding="nearest")
    return float((run(neuron, sample[None], reduce="sum")[0] - sample).square().mean())


def is_short(value):
    mantissa = torch.frexp(value).mantissa * 2**3
    return torch.equal(mantissa, mantissa.round())


def test_ranges_are_short_increase_and_fit_their_channels():
    sample = torch.randn(500, 3) * torch.tensor([0.1, 1.0, 5.0])
    sample[0, 2] = 80.0
    normal, middle, outlier = choose_ranges(observed(sample, bound=100.0), 8, 1)
    assert (normal < middle).all() and (middle < outlier).all() and outlier >= 100.0
    assert normal[0] < normal[1] < normal[2] and middle[0] < middle[1]
    assert all(map(is_short, (normal, middle, outlier)))


def test_short_rounds_up():
    x = torch.rand(1000) * 10
    assert (short(x) >= x).all() and (short(x) <= x * (1 + 2**-2)).all()


@pytest.mark.parametrize("steps", [4, 6, 10])
def test_hardly_any_other_ranges_lose_less(steps):
    sample = torch.randn(4000, 1) * torch.rand(4000, 1) ** 3
    sample[::500] *= 20
    found = choose_ranges(observed(sample), steps, 1)
    outlier = found[-1]
    tried = [float(outlier) * 2.0**-octave * part for octave in range(1, 12) for part in (1, 1.5)]
    tried = sorted(value for value in tried if value < float(outlier))
    least = min(
        loss(sample, [*map(torch.tensor, pair), outlier], steps)
        for pair in itertools.combinations(tried, 2)
    )
    assert loss(sample, [value.flatten()[0] for value in found], steps) < 1.1 * least


@pytest.mark.parametrize("between", [0, 1, 2, 4])
def test_more_ranges_lose_less_than_the_largest_value_alone(between):
    sample = torch.randn(2000, 4)
    sample[::500] *= 20
    site = Site()
    site(sample)
    site.fit(6, between, "nearest", 1.0)
    alone = neurons.OAT(6, float(sample.abs().max()), rounding="nearest")
    whole = run(alone, sample[None], reduce="sum")[0]
    error = [float((y - sample).square().mean()) for y in (site(sample), whole)]
    assert error[0] < 0.1 * 0.3**between * error[1] + 0.002 * error[1]


def test_a_channel_far_below_the_largest_keeps_its_precision_where_a_further_value_is_larger():
    sample = torch.randn(1000, 2)
    sample[:, 1] = 3000.0
    site = Site()
    site(sample)
    site.fit(8, 1, "nearest", 1.0)
    # 1.5 times what was seen would be lost in the range that holds 3000.
    unseen = torch.tensor([[1.5 * float(sample[:, 0].abs().max()), 3000.0]])
    assert torch.allclose(site(unseen), unseen, rtol=0.01)


@pytest.mark.parametrize("between", [0, 1, 6])
def test_ranges_near_the_outermost_are_short_too(between):
    ranges = choose_ranges(observed(torch.full((50, 2), 129.0)), 8, between)
    assert len(ranges) == between + 2 and all(map(is_short, ranges))
    assert all(bool((a < b).all()) for a, b in itertools.pairwise(ranges))


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e30])
def test_neither_order_nor_splitting_of_batches_changes_what_was_seen(scale):
    batches = [torch.randn(n, 3) * scale * 4.0**n for n in (5, 1, 9, 7)]
    batches.append(torch.zeros(2, 3))
    one, other, whole = (observed(*some) for some in (batches, batches[::-1], [torch.cat(batches)]))
    for found in (other, whole):
        assert torch.equal(found.counts, one.counts) and torch.equal(found.peaks, one.peaks)
        assert found.top == one.top
    assert one.counts.sum() == 3 * 24 and one.counts.shape == (BINS, 3)


def test_more_values_than_are_counted_at_once_are_all_counted():
    rows = torch.randn(5000, 300)
    observation = observed(rows)
    assert torch.equal(observation.counts.sum(0), torch.full((300,), 5000))
    assert torch.equal(observation.peaks.float(), rows.abs().amax(0))


def test_a_site_that_saw_zeros_or_nothing_has_ranges():
    for observation in (Observation(), observed(torch.zeros(4, 2))):
        normal, middle, outlier = choose_ranges(observation, 8, 1)
        assert (normal > 0).all() and (normal < middle).all() and outlier == 1.0


def test_values_that_no_float32_range_can_hold_are_named():
    with pytest.raises(
        ValueError, match=r"the input of here reaches 1e\+40, and ranges are float32"
    ):
        Observation().see("here", torch.full((2, 2), 1e40, dtype=torch.float64))
