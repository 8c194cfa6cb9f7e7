"""How much a node's inputs are disturbed by the steps of the nodes before it."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from spikeloom.convert import SignGD
from spikeloom.convert.signgd.fit import settled_later
from spikeloom.convert.signgd.search import Setting


def holds(model, x, caution, monkeypatch, steps=64, extreme=0.0):
    """For how many steps each node keeps its first step."""
    setting = Setting(2.0, 0.8, caution, extreme)
    monkeypatch.setattr("spikeloom.convert.signgd.fit.Fit._setting", lambda fit: setting)
    snn = SignGD(steps).apply(model, x)
    return [schedule.hold for schedule in snn.schedules.values()]


def test_a_node_whose_inputs_settle_later_keeps_its_steps_as_long_as_a_float64_loop_says(
    monkeypatch,
):
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Linear(64, 64), nn.Tanh())]
    model, x = nn.Sequential(*layers), torch.randn(400, 64)
    for layer in layers[::2]:
        nn.init.normal_(layer.weight, std=0.25)
    found = holds(model, x, 3.0, monkeypatch)

    exact, disturbed, expected = x.double(), x.double(), []
    small, draw = 1e-6, torch.Generator().manual_seed(1)
    for layer in layers[::2]:
        weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
        exact, disturbed = (torch.tanh(value @ weight.T + bias) for value in (exact, disturbed))
        # Each feature reaches its largest magnitude, which 400 samples show well.
        reach = exact.abs().amax(0)
        apart = ((disturbed - exact) / reach).square().mean().sqrt().item() / small
        factor = max(1.0, 3.0 * apart)
        expected.append(math.log(factor) / -math.log(0.8))
        noise = 2.0 * torch.rand(exact.shape, generator=draw, dtype=torch.float64) - 1.0
        disturbed = disturbed + small * factor * reach * noise
    assert expected[-1] > 12.0
    assert all(abs(a - b) <= 1.0 for a, b in zip(found, expected, strict=True))


def test_a_node_that_hardly_feels_its_inputs_settles_no_earlier_than_they(monkeypatch):
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Linear(64, 64), nn.Tanh())]
    for layer in layers[::2]:
        nn.init.normal_(layer.weight, std=0.25)
    faint = nn.Linear(64, 64)
    nn.init.normal_(faint.weight, std=1e-4)
    nn.init.constant_(faint.bias, 1.0)
    model = nn.Sequential(*layers, faint, nn.Tanh())
    found = holds(model, torch.randn(200, 64), 3.0, monkeypatch)
    assert found[-2] > 8 and found[-1] >= found[-2]


def test_nodes_settle_at_once_without_caution(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU())
    assert holds(model, torch.randn(16, 8), 0.0, monkeypatch) == [0, 0]


class Roots(nn.Module):
    """Some of its operands are 0, and below it when disturbed."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        kept = torch.nn.functional.linear(torch.relu(self.layer(x)), torch.eye(8))
        return torch.relu(torch.nn.functional.linear(torch.sqrt(kept), torch.eye(8)) - 0.5)


def test_an_operand_that_is_disturbed_out_of_its_domain_counts_as_undisturbed(monkeypatch):
    torch.manual_seed(0)
    first, root, last = holds(Roots(), torch.randn(32, 8), 1.0, monkeypatch)
    assert first == 0 <= root and last < 64


@pytest.mark.parametrize(("factor", "hold"), [(1.0, 0), (2.0, 1), (8.0, 3), (1e30, 16)])
def test_a_factor_is_that_many_steps_of_decay_and_no_more_than_there_are(factor, hold):
    schedule = settled_later(factor, Setting(3.0, 0.5, 2.0), steps=16)
    assert schedule.hold == hold
    assert schedule.steps(1) == [1.5]


def test_factors_beyond_all_disturbances_that_fit_keep_growing_at_one_rate(monkeypatch):
    # Cut as this function is, large disturbances would not grow like small ones.
    torch.manual_seed(0)
    layers = [layer for _ in range(24) for layer in (nn.Linear(64, 64), nn.Hardtanh())]
    for layer in layers[::2]:
        nn.init.normal_(layer.weight, std=0.14)
    found = holds(nn.Sequential(*layers), torch.randn(64, 64), 3.0, monkeypatch, 200)
    growth = [after - before for before, after in pairwise(found[4:])]
    assert found[-1] > math.log(1e7) / -math.log(0.8)
    assert max(growth) <= min(growth) + 2


@torch.no_grad()
def test_a_node_waits_for_its_feature_that_feels_most_if_told_to(monkeypatch):
    torch.manual_seed(0)
    first, second, x = nn.Linear(64, 64), nn.Linear(64, 64, bias=False), torch.randn(400, 64)
    second.weight[5] *= 6.0
    model = nn.Sequential(first, nn.Tanh(), second, nn.Tanh())
    usual, extreme = (holds(model, x, 3.0, monkeypatch, 64, which)[1] for which in (0.0, 1.0))

    hidden, weight = model[:2](x).double(), second.weight.double()
    noise = 2.0 * torch.rand(hidden.shape, dtype=torch.float64) - 1.0
    exact = torch.tanh(hidden @ weight.T)
    moved = torch.tanh((hidden + 1e-6 * hidden.abs().amax(0) * noise) @ weight.T)
    felt = ((moved - exact) / exact.abs().amax(0) / 1e-6).square().mean(0)
    for found, share in ((usual, felt.mean()), (extreme, felt.max())):
        assert abs(found - math.log(3.0 * share.sqrt()) / -math.log(0.8)) <= 1.0
    assert extreme > usual + 2
