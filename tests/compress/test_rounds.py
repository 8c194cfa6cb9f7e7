"""All rows of a layer in rounds, beside one weight at a time and beside SparseGPT."""

import pytest
import torch

from spikeloom import compress, neurons
from spikeloom.compress.blocks import split_blocks
from spikeloom.compress.order import EFFORTS, Order, Pattern
from spikeloom.compress.pruning import prune_blocks
from tests.compress.cases import error, layer_case, solved, spikes

WIDE = 576
BALANCED = Order(*EFFORTS["balanced"])


def patch_case(rows=24, seed=0):
    """A convolution's layer: 64 channels of smooth pictures as spikes, 3 x 3 taps."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 12, 64, 10, 10, generator=generator)
    x = torch.nn.functional.avg_pool2d(x.flatten(0, 1), 3, 1, 1).unflatten(0, (4, 12))
    thresholds = torch.rand(64, 1, 1, generator=generator)
    conv = torch.nn.Conv2d(64, 1, 3, padding=1)
    H = compress.layer_hessian((3 * x > thresholds).float(), conv, neurons.Trace(0.5))
    return torch.randn(rows, WIDE, dtype=torch.float64, generator=generator), H


def twin_case(rows=24, seed=0):
    """Each input has a twin that differs from it in 5 % of the steps."""
    generator = torch.Generator().manual_seed(seed)
    one = torch.rand(3000, WIDE // 2, generator=generator) < 0.2
    other = one ^ (torch.rand(one.shape, generator=generator) < 0.05)
    y = torch.cat([one, other], 1).double()
    W = torch.randn(rows, WIDE, dtype=torch.float64, generator=generator)
    return W, 2 * y.T @ y / len(y)


CASES = {"patches": patch_case, "twins": twin_case, "neighbours": lambda: layer_case(24, WIDE)}


def sparsegpt(W, H, share, columns=128):
    """SparseGPT (arXiv 2301.00774): blocks of columns from left to right, the mask in each."""
    H = H + 0.01 * H.diagonal().mean() * torch.eye(len(H), dtype=H.dtype)
    U = torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
    W = W.clone()
    for start in range(0, W.shape[1], columns):
        block, part = W[:, start : start + columns], U[start : start + columns]
        own = part[:, start : start + columns]
        costs = (block / own.diagonal()).square()
        leave = costs <= costs.flatten().kthvalue(int(share * costs.numel())).values
        errors = torch.zeros_like(block)
        for j in range(block.shape[1]):
            errors[:, j] = block[:, j].masked_fill(~leave[:, j], 0.0) / own[j, j]
            block[:, j:] -= errors[:, j, None] * own[j, j:]
        W[:, start + columns :] -= errors @ part[:, start + columns :]
    return W


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("case", CASES)
def test_balanced_is_within_two_percent_of_one_by_one(case, share):
    W, H = CASES[case]()
    exact, balanced = (
        compress.prune_weight(W, H, int(share * W.numel()), effort=effort)[0]
        for effort in ("exact", "balanced")
    )
    assert error(W, balanced, H) < 1.02 * error(W, exact, H)


@pytest.mark.parametrize("share", [0.5, 0.75, 0.9, 0.97])
@pytest.mark.parametrize("case", CASES)
def test_fast_is_better_than_sparsegpt(case, share):
    W, H = CASES[case]()
    fast, mask = compress.prune_weight(W, H, int(share * W.numel()), effort="fast")
    assert int(mask.sum()) == int(share * W.numel()) and not fast[mask].any()
    assert error(W, fast, H) < error(W, sparsegpt(W, H, share), H)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_what_stays_after_balanced_rounds_is_solved_for(share):
    W, H = patch_case()
    pruned, mask = compress.prune_weight(W, H, int(share * W.numel()))
    best = error(W, solved(W, H, mask), H)
    assert error(W, pruned, H) == pytest.approx(best, rel=1e-4)


def test_narrow_layers_are_exact_and_wide_ones_take_rounds_unless_told():
    plans = {
        (effort, width): Order.plan((8, width), int(7.5 * width), effort, None).rounds
        for effort in EFFORTS
        for width in (512, 513)
    }
    assert plans == {
        ("exact", 512): 0,
        ("exact", 513): 0,
        ("balanced", 512): 0,
        ("balanced", 513): 24,
        ("fast", 512): 2,
        ("fast", 513): 2,
    }


def test_fewer_rounds_remove_fewer_weights():
    rounds = [
        Order.plan((1, 1000), count, "balanced", None).rounds for count in range(0, 1001, 100)
    ]
    assert rounds == [1, 8, 12, 14, 16, 18, 20, 22, 23, 24, 24]
    assert [Order.plan((1, 9), count, "fast", None).rounds for count in (0, 4, 9)] == [1, 2, 2]
    assert Order.plan((1, 1000), 500, "exact", None).rounds == 0


def test_the_schedule_falls_to_the_count_and_early_rounds_take_more():
    kept = BALANCED.schedule(10_000, 1_000)
    steps = [a - b for a, b in zip([10_000, *kept], kept, strict=False)]
    assert len(kept) == 24 and kept[-1] == 1_000
    assert steps == sorted(steps, reverse=True) and steps[-1] > 0
    assert BALANCED.schedule(10_000, 0)[-1] == 0 and BALANCED.schedule(5, 5) == []


@pytest.mark.parametrize("effort", ["balanced", "fast"])
def test_narrow_layers_in_rounds_remove_the_count_too(effort):
    for width in (1, 2, 7, 9, 40):
        W, H = layer_case(4, width)
        order = Order(*EFFORTS[effort])
        for count in range(0, W.numel() + 1, max(1, width // 3)):
            pruned, mask = prune_blocks(W, split_blocks(W, H), count, None, order)
            assert int(mask.sum()) == count and not pruned[mask].any()
            assert pruned.isfinite().all()
            if effort == "balanced":
                torch.testing.assert_close(pruned, solved(W, H, mask), rtol=1e-2, atol=1e-2)


def test_what_is_gone_stays_gone_and_counts():
    W, H = layer_case(4, 80)
    gone = torch.rand(W.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    W = W.masked_fill(gone, 0.0)
    for count in (10, 200):
        pruned, mask = prune_blocks(W, split_blocks(W, H), count, None, BALANCED, gone)
        assert mask[gone].all() and int(mask.sum()) == max(count, int(gone.sum()))
        assert torch.equal(pruned, W) == (count == 10)


def test_a_pattern_is_kept_in_rounds_and_a_group_that_has_lost_more_loses_no_other():
    W, H = layer_case(4, 80)
    gone = torch.zeros_like(W, dtype=torch.bool)
    gone[0, :3] = True
    W = W.masked_fill(gone, 0.0)
    for effort in ("balanced", "fast"):
        order = Order(*EFFORTS[effort], Pattern(2, 4).groups(W.shape), 2)
        pruned, mask = prune_blocks(W, split_blocks(W, H), 160, None, order, gone)
        lost = mask.unflatten(1, (-1, 4)).sum(2)
        assert lost[0, 0] == 3 and int(lost.sum()) == 161 and lost.flatten()[1:].eq(2).all()
        assert error(W, pruned, H) < error(W, W.masked_fill(mask, 0.0), H)


def test_scaling_a_row_equals_scaling_its_losses_by_the_square_in_rounds():
    W, H = layer_case(4, 300)
    scale = torch.tensor([0.5, 1.0, 3.0, 0.0], dtype=torch.float64)
    _, mask = compress.prune_weight(W, H, 600, row_scale=scale, effort="fast")
    _, folded = compress.prune_weight(W * scale[:, None], H, 600, effort="fast")
    assert torch.equal(mask, folded) and mask[3].all()


def test_groups_with_and_without_spikes_compete_in_rounds():
    x = spikes(3, 2, 8, 5, 5)
    x[:, :, :4] = 0.0
    conv = torch.nn.Conv2d(8, 6, 3, groups=2)
    H = compress.layer_hessian(x, conv, neurons.Trace(0.5))
    W = conv.weight.detach().double()
    with pytest.warns(UserWarning, match="never fired"):
        pruned, mask = compress.prune_weight(W, H, 130, effort="fast")
    assert mask[:3].all() and int(mask[3:].sum()) == 130 - 108
    assert torch.equal(pruned[:3], torch.zeros_like(W[:3]))
    with pytest.warns(UserWarning, match="never fired"):
        _, mask = compress.prune_weight(W, H, 50, effort="fast")
    silent = W[:3]
    assert not mask[3:].any() and silent[mask[:3]].abs().max() <= silent[~mask[:3]].abs().min()
