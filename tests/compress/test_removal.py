"""The order in which each row gives up its weights, against inverses taken anew."""

import pytest
import torch

from spikeloom.compress.order import Order, Pattern
from spikeloom.compress.removal import by_least_loss, by_magnitude
from tests.compress.cases import correlated, golden, layer_case, reference_removals, solved

LAYER = golden("osbc_linear_tau2")


def taken_apart(W, H, order=Order(), gone=None):
    gone = torch.zeros_like(W, dtype=torch.bool) if gone is None else gone
    return by_least_loss(W, H, order, gone)


@pytest.mark.parametrize("method, hessian", [("osbc", "H"), ("obs", "Hc")])
def test_orders_and_losses_equal_the_golden_layer(method, hessian):
    found = taken_apart(LAYER["W"], LAYER[hessian])
    assert torch.equal(found.index, LAYER[f"{method}_pick"])
    by_input = torch.empty_like(found.losses).scatter(1, found.index, found.losses)
    torch.testing.assert_close(by_input, LAYER[f"{method}_loss"], rtol=1e-8, atol=0)


def test_orders_and_losses_equal_an_independent_reference():
    W, H = layer_case(3, 70)  # wider than a panel
    found, (index, losses) = taken_apart(W, H), reference_removals(W, H)
    assert torch.equal(found.index, index)
    torch.testing.assert_close(found.losses, losses)


def test_losses_add_up_to_the_error_of_the_weights_that_are_gone():
    W, H = correlated(3, 12, 0)
    found = taken_apart(W, H)
    damped = H + 0.01 * H.diagonal().mean() * torch.eye(12, dtype=H.dtype)
    for count in range(13):
        mask = torch.zeros(3, 12, dtype=torch.bool).scatter(1, found.index[:, :count], True)
        change = solved(W, H, mask) - W
        expected = ((change @ damped) * change).sum(1)
        torch.testing.assert_close(found.losses[:, :count].sum(1), expected)


def test_rows_in_several_chunks_equal_rows_at_once(monkeypatch):
    W, H = layer_case(7, 20)
    whole = taken_apart(W, H)
    monkeypatch.setattr("spikeloom.compress.removal.MEMORY", 3 * 8 * 400)
    parts = taken_apart(W, H)
    assert torch.equal(parts.index, whole.index) and torch.equal(parts.losses, whole.losses)


# --- What is gone already, and patterns -------------------------------------------------------

HOW = {
    "exact": Order(),
    "pattern": Order.plan((4, 80), 160, "exact", Pattern(2, 4)),
}


def with_gaps(seed=0):
    """Weights of which some have been removed, and others happen to be zero."""
    W, H = layer_case(4, 80, seed)
    generator = torch.Generator().manual_seed(seed)
    gone = torch.rand(W.shape, generator=generator) < torch.tensor([0.0, 0.2, 0.5, 0.8])[:, None]
    zero = torch.rand(W.shape, generator=generator) < 0.3
    return W.masked_fill(gone | zero, 0.0), H, gone


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("method", ["least loss", "magnitude"])
def test_what_is_gone_leads_every_order_at_no_cost(how, method):
    W, H, gone = with_gaps()
    if method == "magnitude":
        found = by_magnitude(W, HOW[how], gone)
    else:
        found = taken_apart(W, H, HOW[how], gone)
    for row, count in enumerate(gone.sum(1).tolist()):
        assert gone[row, found.index[row, :count]].all()
        assert not found.losses[row, :count].any()


@pytest.mark.parametrize("method", ["least loss", "magnitude"])
def test_a_group_that_has_lost_more_than_its_pattern_asks_for_loses_no_other(method):
    W, H, gone = with_gaps()
    order = HOW["pattern"]
    found = (
        by_magnitude(W, order, gone) if method == "magnitude" else taken_apart(W, H, order, gone)
    )
    counts = order.fixed_counts(gone)
    for row, count in enumerate(counts.tolist()):
        lost = torch.zeros(80, dtype=torch.bool).index_fill(0, found.index[row, :count], True)
        assert int(lost.sum()) == count
        before, after = (mask.unflatten(0, (-1, 4)).sum(1) for mask in (gone[row], lost))
        assert torch.equal(after, before.clamp(min=2))


def test_under_a_pattern_each_weight_is_the_cheapest_of_those_that_may_go():
    W, H = correlated(3, 12, 1)
    found = taken_apart(W, H, Order.plan((3, 12), 18, "exact", Pattern(2, 4)))
    damped = H + 0.01 * H.diagonal().mean() * torch.eye(12, dtype=H.dtype)
    for row, dense in enumerate(W):
        left, room = list(range(12)), [2, 2, 2]
        for step in range(6):
            inverse = torch.linalg.inv(damped[left][:, left])
            w = torch.linalg.solve(damped[left][:, left], damped[left] @ dense)
            cost = w.square() / inverse.diagonal()
            may_go = [k for k, weight in enumerate(left) if room[weight // 4]]
            cheapest = min(may_go, key=lambda k: float(cost[k]))
            torch.testing.assert_close(found.losses[row, step], cost[cheapest])
            gone = left.pop(cheapest)
            assert gone == int(found.index[row, step])
            room[gone // 4] -= 1
