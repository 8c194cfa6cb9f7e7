"""How many weights each row gives up, against dynamic programming."""

import pytest
import torch

from spikeloom import compress
from spikeloom.compress.selection import shared_counts
from tests.compress.cases import correlated, least_total, reference_removals


def zeros(rows):
    return torch.zeros(rows, dtype=torch.long)


def total(losses, counts):
    return sum(float(row[:count].sum()) for row, count in zip(losses, counts, strict=True))


def test_rows_share_the_count_nearly_as_well_as_dynamic_programming():
    ratios = []
    for seed in range(12):
        W, H = correlated(4, 12, seed)
        index, losses = reference_removals(W, H)
        for count in range(1, W.numel(), 3):
            _, mask = compress.prune_weight(W, H, count)
            found = float(losses[mask.gather(1, index)].sum())
            ratios.append(found / least_total(losses, count))
    assert min(ratios) > 1 - 1e-9
    assert max(ratios) < 1.01 and sum(ratios) / len(ratios) < 1.0001


def test_short_rows_whose_losses_rise_and_fall_share_nearly_every_count_at_the_least_cost():
    generator = torch.Generator().manual_seed(0)
    best = []
    for case in range(600):
        rows, width = 1 + case % 4, 1 + case // 4 % 4
        losses = torch.randint(0, 10, (rows, width), generator=generator).double()
        count = int(torch.randint(0, rows * width + 1, (), generator=generator))
        counts = shared_counts(losses, count, zeros(rows))
        assert int(counts.sum()) == count and (counts >= 0).all() and (counts <= width).all()
        best.append(total(losses, counts) <= least_total(losses, count))
    assert sum(best) >= 597


def test_counts_at_the_ends_of_edges_are_shared_at_the_least_cost():
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(6, 20, dtype=torch.float64, generator=generator)
    losses += torch.linspace(0, 2, 20)
    exact = 0
    for count in range(121):
        counts = shared_counts(losses, count, zeros(6))
        exact += total(losses, counts) < least_total(losses, count) * (1 + 1e-12)
    assert exact >= 118


def test_rising_losses_are_taken_from_the_smallest_on():
    losses = torch.rand(5, 30, generator=torch.Generator().manual_seed(0)).sort(dim=1).values
    for count in range(151):
        smallest = losses <= losses.flatten().sort().values[count - 1]
        expected = smallest.sum(1) if count else zeros(5)
        assert torch.equal(shared_counts(losses, count, zeros(5)), expected)


def test_rows_give_up_what_they_must_even_beyond_the_count():
    losses = torch.tensor([[0.0, 0.0, 5.0], [0.0, 1.0, 1.0]])
    least = torch.tensor([2, 1])
    assert shared_counts(losses, 2, least).tolist() == [2, 1]
    assert shared_counts(losses, 4, least).tolist() == [2, 2]


def test_a_dear_weight_goes_for_the_cheap_ones_behind_it():
    losses = torch.tensor([[9.0, 0.0, 0.0, 0.0], [4.0, 4.0, 4.0, 4.0]])
    assert shared_counts(losses, 4, zeros(2)).tolist() == [4, 0]
    assert shared_counts(losses, 2, zeros(2)).tolist() == [0, 2]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_layers_without_weights_give_up_none(shape):
    assert torch.equal(shared_counts(torch.empty(shape), 0, zeros(shape[0])), zeros(shape[0]))
