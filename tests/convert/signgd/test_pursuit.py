"""Steps that follow a target which still moves: the promise of the recursion, by brute force."""

import itertools
import math

import pytest
import torch

from spikeloom.convert.signgd.pursuit import pursuit_steps, unrest


def followed(targets, steps):
    """The estimate after the last step, in plain Python."""
    y = 0.0
    for target, step in zip(targets, steps, strict=True):
        y += -step if y > target else step
    return y


@pytest.mark.parametrize("decay", [0.5, 0.6, 0.8])
@pytest.mark.parametrize(
    "nu", [[0.0] * 8, [2.0, 1.0, 0.5, 0.2, 0.1, 0.0, 0.0, 0.0], [0.6, 0.1, 0.4, 0.3, 0, 0, 0, 0]]
)
def test_no_course_of_the_target_within_its_unrest_leaves_more_than_the_rest_of_the_path(nu, decay):
    margin = 1.5
    steps = pursuit_steps(nu, margin, decay)
    left = margin - sum(steps)
    worst = 0.0
    for end in torch.linspace(-1.0, 1.0, 9).tolist():
        for signs in itertools.product((-1.0, 0.0, 1.0), repeat=5):
            course = [end + sign * n for sign, n in zip(signs, nu, strict=False)]
            worst = max(worst, abs(followed(course + [end] * 3, steps) - end))
    assert worst <= left + 1e-9


def test_a_constant_target_is_found_digit_by_digit():
    assert pursuit_steps([0.0] * 4, margin=1.0, decay=0.5) == [0.5, 0.25, 0.125, 0.0625]


def test_steps_wait_for_a_target_that_is_wrong_at_first():
    calm, restless = (
        pursuit_steps([first] * 4 + [0.0] * 4, margin=2.0, decay=0.5) for first in (0.0, 1.5)
    )
    assert sum(restless[4:]) > 1.4 > 0.2 > sum(calm[4:])


def test_an_infinite_unrest_moves_a_node_as_little_as_it_can():
    steps = pursuit_steps([math.inf, math.inf, 0.0, 0.0], margin=1.0, decay=0.5)
    assert 0 < max(steps[:2]) < 1e-9 and steps[2:] == pytest.approx([0.5, 0.25])


def test_unrest_is_what_all_but_a_share_stay_within():
    target = torch.tensor([[1.0, -4.0, 3.0, torch.nan], [0.0, 1.0, 0.0, 2.0]])
    exact, reach = torch.zeros(4), torch.full((1,), 2.0)
    assert unrest(target, exact, reach, 0.5) == [1.5, 0.0]
    assert unrest(target, exact, reach, 0.75) == [2.0, 0.5]
    assert unrest(target, exact, reach, 1.0) == [math.inf, 1.0]
    assert unrest(target, exact, reach, 2.0) == [math.inf, 2.0]
    assert unrest(target, exact, reach, 0.0) == [0.0, 0.0]


def test_many_neurons_are_sampled_and_the_sample_is_always_the_same():
    torch.manual_seed(0)
    target, exact = torch.randn(3, 40, 1000), torch.zeros(40, 1000)
    found = unrest(target, exact, torch.ones(1), 0.9)
    assert found == unrest(target, exact, torch.ones(1), 0.9)
    assert found == pytest.approx([1.645] * 3, abs=0.05)  # of the normal distribution
