"""Some of the calibration samples stand for all of them, whatever order they come in."""

import pytest
import torch
from torch import nn

from spikeloom.convert import SignGD
from spikeloom.convert.signgd.sampling import halves, spread

ORDERS = {
    "sorted": torch.arange(96) // 24,
    "in turn": torch.arange(96) % 4,
    "in pairs": torch.arange(96) // 2 % 4,
}


@pytest.mark.parametrize("sizes", [[96], [24] * 4, [1, 5, 30, 60]], ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_a_few_samples_are_of_all_classes(order, sizes):
    calls = [[labels, "same"] for labels in ORDERS[order].split(sizes)]
    labels, word = spread(calls, 16)
    assert len(labels) == 16 and word == "same"
    assert labels.bincount(minlength=4).min() >= 1


@pytest.mark.parametrize("order", ORDERS)
def test_either_half_is_of_all_classes(order):
    (one,), (other,) = halves([ORDERS[order]])
    assert len(one) == len(other) == 48
    assert one.bincount(minlength=4).min() >= 6 and other.bincount(minlength=4).min() >= 6


@pytest.mark.parametrize("total", [2, 3, 7, 32])
def test_two_halves_are_the_whole(total):
    (one,), (other,) = halves([torch.arange(total)])
    assert sorted([*one.tolist(), *other.tolist()]) == list(range(total))
    assert abs(len(one) - len(other)) <= 1


def test_no_sample_is_taken_twice_and_all_are_if_there_are_no_more():
    calls = [[torch.arange(10)], [torch.arange(10, 30)]]
    assert len(spread(calls, 17)[0].unique()) == 17
    assert torch.equal(spread(calls, 99)[0], torch.arange(30))


def test_samples_are_of_calls_with_the_same_numbers_beside_them():
    calls = [[torch.arange(8), torch.tensor(1.0)], [torch.arange(8, 16), torch.tensor(2.0)]]
    samples, number = spread(calls, 16)
    assert torch.equal(samples, torch.arange(8)) and number == 1.0


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 4])
def test_it_does_not_matter_how_samples_are_put_into_batches(size):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))
    x = torch.randn(12, 6)
    whole, cut = (SignGD(16).apply(model, given) for given in (x, list(x.split(size))))
    assert torch.equal(cut(x), whole(x))
    assert cut.report.title == whole.report.title
