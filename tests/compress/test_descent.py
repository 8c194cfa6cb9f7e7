"""Steps towards the best weights, against a dense solution."""

import pytest
import torch

from spikeloom.compress.blocks import damped
from spikeloom.compress.descent import Descent
from tests.compress.cases import error, layer_case, solved


def started(rows=5, width=96, seed=0):
    """Weights of which some are removed, and nothing has made up for them."""
    W, H = layer_case(rows, width, seed)
    H = H / H.diagonal().mean()
    removed = torch.rand(W.shape, generator=torch.Generator().manual_seed(seed)) < 0.6
    now = W.masked_fill(removed, 0.0)
    return W, H, removed, now, (W - now) @ damped(H)


def test_enough_steps_give_the_dense_solution():
    W, H, removed, now, residual = started()
    Descent(damped(H)).descend(now, residual, removed, steps=60)
    torch.testing.assert_close(now, solved(W, H, removed), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(residual, (W - now) @ damped(H), rtol=0, atol=1e-9)


def test_each_step_lowers_the_error_and_removed_weights_stay_zero():
    W, H, removed, now, residual = started()
    errors = [error(W, now, damped(H))]
    for steps in range(1, 6):
        _, _, _, now, residual = started()
        Descent(damped(H)).descend(now, residual, removed, steps)
        errors.append(error(W, now, damped(H)))
        assert not now[removed].any()
    assert errors == sorted(errors, reverse=True)


def test_two_steps_do_nearly_all_where_the_inputs_share_a_few_causes():
    generator = torch.Generator().manual_seed(0)
    causes = torch.randn(8, 128, dtype=torch.float64, generator=generator)
    H = causes.mT @ causes + torch.eye(128, dtype=torch.float64)
    W = torch.randn(6, 128, dtype=torch.float64, generator=generator)
    removed = torch.rand(W.shape, generator=generator) < 0.5
    now = W.masked_fill(removed, 0.0)
    before = error(W, now, H)
    Descent(H).descend(now, (W - now) @ H, removed, steps=2)
    best = torch.zeros_like(W)
    for row, kept in enumerate(~removed):
        best[row, kept] = torch.linalg.solve(H[kept][:, kept], H[kept] @ W[row])
    least = error(W, best, H)
    assert error(W, now, H) - least < 0.01 * (before - least)


def test_steps_end_once_the_limit_is_reached():
    W, H, removed, now, residual = started()
    limit = torch.full((len(W), 1), torch.inf, dtype=W.dtype)
    Descent(damped(H)).descend(now, residual, removed, 5, limit)
    assert torch.equal(now, W.masked_fill(removed, 0.0))


@pytest.mark.parametrize("width", [1, 2, 7, 8, 9, 17])
def test_narrow_layers_need_no_more_than_a_step_for_each_input(width):
    W, H, removed, now, residual = started(4, width)
    Descent(damped(H)).descend(now, residual, removed, steps=2 * width + 2)
    torch.testing.assert_close(now, solved(W, H, removed), rtol=1e-6, atol=1e-8)
