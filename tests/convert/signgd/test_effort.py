"""What a search may take, against what it takes."""

import pytest
import torch
from torch import nn

from spikeloom.convert import SignGD
from spikeloom.convert.signgd.effort import affordable, operations

AFFORDED = "spikeloom.convert.signgd.effort.AFFORDED"


def cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(144, 4),
    ).eval()  # fmt: skip


# Of one 8x8 picture, by hand.
OWN = 2 * (8 * 64 * 2 * 9 + 4 * 36 * 8 * 9 + 144 * 4)


@torch.no_grad()
def test_operations_are_those_of_every_layer():
    model = cnn()
    assert operations(lambda: model(torch.randn(1, 2, 8, 8))) == OWN


def test_the_larger_the_network_the_fewer_samples_are_affordable(monkeypatch):
    monkeypatch.setattr(AFFORDED, 24e6)
    assert [affordable(1000, 10), affordable(1000, 100), affordable(10**6, 10)] == [100, 10, 0]
    assert affordable(0, 1) == 10**6


@pytest.mark.parametrize("steps", [6, 16])
@pytest.mark.filterwarnings("ignore:signGD")
def test_a_search_keeps_to_what_it_may_take(monkeypatch, steps):
    model, shown = cnn(), torch.randn(48, 2, 8, 8)

    def taken(search):
        method = SignGD(steps, search=search, progress=False)
        return operations(lambda: method.apply(model, shown))

    without = taken(False)
    for samples in (40, 20):
        afforded = 24 * samples * steps * OWN
        monkeypatch.setattr(AFFORDED, afforded)
        assert 0.1 * afforded < taken(True) - without < 1.5 * afforded


@pytest.mark.filterwarnings("ignore:signGD")
def test_a_network_that_is_too_large_to_search_gets_what_is_expected_to_be_best(monkeypatch):
    monkeypatch.setattr(AFFORDED, 0.0)
    model, shown = cnn(), torch.randn(32, 2, 8, 8)
    searched, expected = (SignGD(16, search=search).apply(model, shown) for search in (True, False))
    assert searched.schedules == expected.schedules
