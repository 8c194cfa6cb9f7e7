"""Operators on spike trains add up to the operators on their sums."""

import pytest
import torch
from torch import nn

from spikeloom.convert.las import trains


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random_trains(steps, *shape):
    return torch.randn(steps, *shape) * (torch.rand(steps, *shape) < 0.4)


def test_a_matrix_product_of_trains_adds_up_to_the_product_of_sums():
    a, b = random_trains(6, 2, 3, 5), random_trains(6, 2, 5, 4)
    y = trains.matrix_product(a, b)
    assert y.shape == (6, 2, 3, 4)
    torch.testing.assert_close(y.sum(0), a.sum(0) @ b.sum(0))


def test_each_step_of_a_product_is_a_difference_of_prefixes():
    a, b = random_trains(5, 7), random_trains(5, 7)
    y = trains.product(a, b)
    for t in range(5):
        torch.testing.assert_close(y[: t + 1].sum(0), a[: t + 1].sum(0) * b[: t + 1].sum(0))


def test_trains_of_different_length_are_refused_and_can_be_lengthened():
    with pytest.raises(ValueError, match="same number of steps: 3, 4"):
        trains.product(random_trains(3, 2), random_trains(4, 2))
    a, b = trains.same_steps(random_trains(3, 2), random_trains(4, 2))
    assert len(a) == len(b) == 4 and not a[3].any()


def test_the_bias_of_a_linear_layer_enters_once():
    layer = nn.Linear(5, 3)
    x = random_trains(4, 2, 5)
    y = trains.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(y.sum(0), layer(x.sum(0)))
    torch.testing.assert_close(y[1], nn.functional.linear(x[1], layer.weight))
