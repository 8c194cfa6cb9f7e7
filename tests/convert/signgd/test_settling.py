"""How many steps a network is said to need, against the errors that it has."""

import math
import warnings
from itertools import pairwise

import pytest
import torch
from torch import nn

from spikeloom.convert import SignGD
from spikeloom.convert.signgd.fit import Fit
from spikeloom.convert.signgd.search import GRID
from spikeloom.convert.signgd.settling import expected_error, settling_times, usual_settings
from spikeloom.neurons import Exponential

WIDTH = 48


@torch.no_grad()
def chain(depth, seed=0):
    """Blocks whose signals neither vanish nor grow, and samples to calibrate and to try."""
    torch.manual_seed(seed)
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH, momentum=None), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
    for _ in range(20):
        model(torch.randn(256, WIDTH))
    return model.eval(), torch.randn(16, WIDTH), torch.randn(64, WIDTH)


def converted(model, shown, steps, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what has not settled
        return SignGD(steps, **settings).apply(model, shown)


@torch.no_grad()
def error(model, snn, unseen):
    exact = model(unseen)
    return float((snn(unseen) - exact).norm() / (exact - exact.mean(0)).norm())


@pytest.mark.parametrize("depth", [1, 4, 8, 12])
def test_as_many_steps_as_are_said_to_be_needed_suffice_and_three_quarters_do_not(depth):
    model, shown, unseen = chain(depth)
    needed = converted(model, shown, 32, search=False).steps_needed
    at_needed, before = (
        error(model, converted(model, shown, steps, search=False), unseen)
        for steps in (needed, needed * 3 // 4)
    )
    assert at_needed < 0.02 < before


def test_each_layer_takes_two_or_three_steps_more():
    needed = [converted(*chain(depth)[:2], 16, search=False).steps_needed for depth in (4, 8, 12)]
    growth = [(after - before) / 4 for before, after in pairwise(needed)]
    assert all(2.0 <= steps <= 4.0 for steps in growth)


def test_the_steps_needed_do_not_depend_on_those_that_were_taken():
    model, shown, _ = chain(6)
    assert (
        len({converted(model, shown, steps, search=False).steps_needed for steps in (8, 64)}) == 1
    )


@pytest.mark.parametrize("search", [False, True])
def test_a_network_that_has_not_settled_says_how_many_steps_it_needs(search):
    model, shown, _ = chain(12)
    with pytest.warns(
        UserWarning, match=r"signGD: after 12 steps .* each of 12 nodes in a chain"
    ) as seen:
        snn = SignGD(12, search=search).apply(model, shown)
    assert len(seen) == 1
    assert f"about {snn.steps_needed} steps" in str(seen[0].message)
    assert f"about {snn.steps_needed} steps" in str(snn.report)


class Gated(nn.Module):
    """Blocks with a gate for each channel, which is certain for most inputs."""

    def __init__(self, depth):
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(depth):
            body = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH, momentum=None))
            gate = nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, WIDTH))
            gate[0].weight.data *= 4.0
            gate[2].weight.data *= 8.0
            self.layers.append(nn.ModuleList((body, gate)))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x):
        for body, gate in self.layers:
            y = nn.functional.hardswish(body(x))
            x = x + y * nn.functional.hardsigmoid(gate(y))
        return self.head(x)


@torch.no_grad()
def gated(depth):
    torch.manual_seed(0)
    model = Gated(depth)
    for _ in range(20):
        model(torch.randn(256, WIDTH))
    return model.eval(), torch.randn(16, WIDTH), torch.randn(64, WIDTH)


@pytest.mark.parametrize("depth", [2, 4])
def test_as_many_steps_as_are_said_to_be_needed_suffice_for_gates_too(depth):
    model, shown, unseen = gated(depth)
    needed = converted(model, shown, 32, search=False).steps_needed
    assert error(model, converted(model, shown, needed, search=False), unseen) < 0.03


@pytest.mark.filterwarnings("ignore:signGD")
def test_a_network_that_no_steps_are_found_for_says_so(monkeypatch):
    model, shown, _ = chain(12)
    monkeypatch.setattr("spikeloom.convert.signgd.fit.settling_times", lambda moved: [])
    with pytest.warns(UserWarning, match="after 8 steps .* no number of steps was found"):
        assert SignGD(8, search=False).apply(model, shown).steps_needed is None


@pytest.mark.parametrize(("others", "place"), [(0.3, 0), (0.1, 1), (math.inf, 0)])
@pytest.mark.filterwarnings("ignore:signGD")
def test_the_expected_best_is_given_up_only_for_what_does_far_better(monkeypatch, others, place):
    tried = []

    def off(self, setting, steps):
        tried.append(setting)
        return 0.5 if setting == tried[0] else others

    monkeypatch.setattr(Fit, "_off", off)
    model, shown, _ = chain(2)
    first, *_ = SignGD(24, search=False).apply(model, shown).schedules.values()
    assert (first.rate, first.decay) == (
        pytest.approx(tried[place].margin * (1.0 - tried[place].decay)),
        tried[place].decay,
    )


def test_a_network_that_has_settled_says_nothing():
    model, shown, _ = chain(12)
    needed = converted(model, shown, 12, search=False).steps_needed
    SignGD(needed, search=False).apply(model, shown)  # a warning is an error


def test_a_given_schedule_needs_what_its_owner_says():
    model, shown, _ = chain(3)
    assert SignGD(16, Exponential(1.0, 0.8)).apply(model, shown).steps_needed is None


@pytest.mark.parametrize("steps", [8, 16, 24, 32])
@pytest.mark.filterwarnings("ignore:signGD")  # of nodes that walk beyond their reach
def test_usual_settings_are_no_worse_than_silence_when_the_steps_do_not_suffice(steps):
    model, shown, unseen = chain(16)
    snn = converted(model, shown, steps, search=False)
    with torch.no_grad():
        silent = model[-1].bias.expand(len(unseen), -1)
        exact = model(unseen)
        assert (snn(unseen) - exact).norm() < 1.2 * (silent - exact).norm()


def test_the_expected_error_is_that_of_the_last_step_and_of_what_is_left():
    for setting in usual_settings(lambda caution, extreme: 1.0 + caution + extreme, 32):
        last = setting.margin * (1.0 - setting.decay) * setting.decay**31
        left = expected_error(setting, lambda caution, extreme: 1.0 + caution + extreme, 1000)
        expected = (1.0 + setting.caution) * last + left
        assert math.isclose(
            expected_error(setting, lambda caution, extreme: 1.0 + caution + extreme, 32), expected
        )


def test_settings_that_disturb_beyond_all_numbers_are_the_last_choice():
    def moved(caution, extreme):
        return 1.0 + caution if caution < 4.0 else math.inf

    first, *_, last = usual_settings(moved, 32)
    assert first.caution < 4.0 <= last.caution
    assert settling_times(moved)[0][0] < 40
    assert settling_times(lambda caution, extreme: math.inf) == []


def test_usual_settings_are_on_the_grid_of_the_search():
    for setting in usual_settings(lambda caution, extreme: 1.0, 32):
        assert all(getattr(setting, name) in values for name, values in GRID.items())
