import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom import compress, neurons
from spikeloom.compress.order import EFFORTS
from spikeloom.compress.pruning import compensate
from tests.compress.cases import (
    correlated,
    error,
    golden,
    is_prefix,
    layer_case,
    least_total,
    reference_removals,
    solved,
    spikes,
)

LAYER = golden("osbc_linear_tau2")
METHODS = {"osbc": "H", "obs": "Hc"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("percent", [25, 50, 75, 90])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-8), (torch.float32, 1e-6)])
def test_the_authors_masks_give_the_authors_weights(method, percent, dtype, tolerance):
    W, H = LAYER["W"].to(dtype).double(), LAYER[METHODS[method]].to(dtype)
    mask, expected = LAYER[f"{method}_mask_{percent}"], LAYER[f"{method}_W_{percent}"]
    torch.testing.assert_close(compensate(W, H, mask), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("percent", [25, 50, 75, 90])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_error_is_below_the_authors_and_the_least_for_these_orders(method, percent, dtype):
    # The authors sort single losses; see "Which weights of which rows" in docs/tutorials/osbc.md.
    W, H = LAYER["W"], LAYER[METHODS[method]]
    count = W.numel() * percent // 100
    pruned, mask = compress.prune_weight(W.to(dtype), H.to(dtype), count)
    assert pruned.dtype == dtype and int(mask.sum()) == count
    assert error(W, pruned, H) < error(W, LAYER[f"{method}_W_{percent}"], H)
    index, losses = LAYER[f"{method}_pick"], LAYER[f"{method}_loss"]
    losses = losses.gather(1, index)
    found = float(losses[mask.gather(1, index)].sum())
    assert is_prefix(mask, index) and found == pytest.approx(least_total(losses, count))


def test_a_weight_that_is_cheap_once_others_are_gone_does_not_go_before_them():
    # Either of the first two costs 1 alone, and the other next to nothing after it.
    W = torch.tensor([[1.0, -1.0, 0.1]], dtype=torch.float64)
    H = torch.tensor([[1, 0.98, 0], [0.98, 1, 0], [0, 0, 1]], dtype=torch.float64)
    pruned, mask = compress.prune_weight(W, H, count=1)
    assert mask.tolist() == [[False, False, True]]
    assert error(W, pruned, H) == pytest.approx(0.005)


@given(rows=st.integers(1, 5), width=st.integers(2, 12), part=st.floats(0, 1), seed=st.integers(0))
@settings(deadline=None, max_examples=60)
def test_every_row_loses_the_first_weights_of_its_own_order(rows, width, part, seed):
    W, H = correlated(rows, width, seed % 2**32)
    _, mask = compress.prune_weight(W, H, int(part * W.numel()))
    assert is_prefix(mask, reference_removals(W, H)[0])


def test_wide_layers_are_ordered_in_float32_with_the_same_mask():
    W, H = layer_case(2, 300)
    index, losses = reference_removals(W, H)
    _, mask = compress.prune_weight(W, H, 450)
    assert is_prefix(mask, index)
    assert float(losses[mask.gather(1, index)].sum()) < 1.0001 * least_total(losses, 450)


@given(
    rows=st.integers(1, 5),
    width=st.integers(1, 24),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=40)
def test_kept_weights_are_the_best_for_their_mask(rows, width, share, seed):
    W, H = layer_case(rows, width, seed)
    pruned, mask = compress.prune_weight(W, H, int(share * W.numel()))
    assert int(mask.sum()) == int(share * W.numel())
    assert not pruned[mask].any()
    torch.testing.assert_close(pruned, solved(W, H, mask), rtol=1e-8, atol=1e-8)


@given(gain=st.floats(1e-9, 1e9), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_a_gain_in_the_filter_changes_nothing(gain, seed):
    W, H = layer_case(4, 12, seed)
    first, second = (compress.prune_weight(W, h, 24) for h in (H, gain * H))
    assert torch.equal(first[1], second[1])
    torch.testing.assert_close(first[0], second[0])


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_scaling_a_row_equals_scaling_its_losses_by_the_square(seed):
    W, H = layer_case(4, 12, seed)
    scale = torch.tensor([0.5, 1.0, 3.0, -2.0], dtype=torch.float64)
    _, mask = compress.prune_weight(W, H, 24, row_scale=scale)
    # A row whose weights are a times as large has a^2 times the losses, and the same order.
    _, folded = compress.prune_weight(W * scale[:, None], H, 24)
    assert torch.equal(mask, folded)


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_permuted_inputs_permute_the_mask(seed):
    W, H = layer_case(4, 12, seed)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    pruned, mask = compress.prune_weight(W, H, 30)
    permuted, permuted_mask = compress.prune_weight(W[:, order], H[order][:, order], 30)
    assert torch.equal(mask[:, order], permuted_mask)
    torch.testing.assert_close(pruned[:, order], permuted)


# At 25 % of a layer as small as this, one greedy order or the other may win.
@pytest.mark.parametrize("percent", [50, 75, 90])
def test_the_filtered_objective_is_lower_than_with_unfiltered_inputs(percent):
    count = 96 * percent // 100
    W, H = LAYER["W"], LAYER["H"]
    osbc, _ = compress.prune_weight(W, H, count)
    obs, _ = compress.prune_weight(W, LAYER["Hc"], count)
    assert error(W, osbc, H) <= error(W, obs, H)


@pytest.mark.parametrize("effort", EFFORTS)
def test_dead_inputs_go_first_and_give_nothing_to_others(effort):
    W, H = layer_case(3, 8)
    H[2], H[:, 2] = 0, 0
    W[:, 2] = 0.3
    pruned, mask = compress.prune_weight(W, H, 3, effort=effort)
    assert mask[:, 2].all() and int(mask.sum()) == 3
    torch.testing.assert_close(pruned, W.masked_fill(mask, 0.0))


def test_a_row_that_normalisation_silences_goes_first():
    file = golden("osbc_alloc")
    pruned, mask = compress.prune_weight(
        file["dead_W"], file["dead_H"], 6, row_scale=file["dead_aff"]
    )
    assert torch.equal(mask, file["dead_mask_6"])
    torch.testing.assert_close(pruned, file["dead_W_6"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_layer_without_spikes_loses_its_smallest_weights(effort):
    W, _ = layer_case(3, 8)
    with pytest.warns(UserWarning, match="never fired"):
        pruned, mask = compress.prune_weight(W, torch.zeros(8, 8), 12, effort=effort)
    assert W[mask].abs().max() <= W[~mask].abs().min()
    assert torch.equal(pruned, W.masked_fill(mask, 0.0))


@pytest.mark.parametrize("effort", EFFORTS)
def test_ties_go_to_the_earlier_weight(effort):
    _, mask = compress.prune_weight(torch.ones(2, 4), torch.eye(4), 3, effort=effort)
    assert mask.tolist() == [[True, True, True, False], [False] * 4]


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("count", [0, 24])
def test_nothing_and_everything_can_be_removed(count, effort):
    W, H = layer_case(3, 8)
    pruned, mask = compress.prune_weight(W, H, count, effort=effort)
    assert bool(mask.all()) == bool(mask.any()) == (count == 24)
    torch.testing.assert_close(pruned, W if count == 0 else torch.zeros_like(W))


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_layer_without_rows_stays_empty(effort):
    pruned, mask = compress.prune_weight(torch.ones(0, 4), torch.eye(4), 0, effort=effort)
    assert pruned.shape == mask.shape == (0, 4)


def test_groups_of_a_convolution_are_pruned_with_their_own_hessians():
    x = spikes(3, 2, 4, 5, 5)
    conv = torch.nn.Conv2d(4, 6, 3, groups=2)
    H = compress.layer_hessian(x, conv, neurons.Trace(0.5))
    W = conv.weight.detach().double()
    pruned, mask = compress.prune_weight(W, H, 60)
    assert pruned.shape == mask.shape == W.shape
    for group in range(2):
        part = slice(3 * group, 3 * group + 3)
        expected = solved(W[part].flatten(1), H[group], mask[part].flatten(1))
        torch.testing.assert_close(pruned[part].flatten(1), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_solved_in_double(dtype):
    W, H = layer_case(3, 8)
    pruned, mask = compress.prune_weight(W.to(dtype), H, 12)
    expected, expected_mask = compress.prune_weight(W.to(dtype).double(), H, 12)
    assert torch.equal(mask, expected_mask)
    assert torch.equal(pruned, expected.to(dtype))


def test_non_contiguous_weights_are_read_right():
    W, H = layer_case(4, 12)
    expected, _ = compress.prune_weight(W, H, 24)
    pruned, _ = compress.prune_weight(W.T.contiguous().T, H, 24)
    assert torch.equal(pruned, expected)


# --- Patterns ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern, left", [("2:4", 2), ("1:4", 1), ("3:4", 3)])
def test_a_pattern_leaves_so_many_in_each_group(pattern, left):
    W, H = layer_case(5, 80)
    pruned, mask = compress.prune_weight(W, H, pattern=pattern)
    assert ((~mask).unflatten(1, (-1, 4)).sum(2) == left).all()
    torch.testing.assert_close(pruned, solved(W, H, mask), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_pattern_follows_the_order_of_losses(effort):
    # With independent inputs, the smallest weights of each group go.
    W = torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.1, 0.2, 0.3, 0.4]])
    _, mask = compress.prune_weight(W, torch.eye(8), pattern="2:4", effort=effort)
    assert mask.tolist() == [[False, False, True, True, True, True, False, False]]


def test_neighbours_in_a_convolution_are_channels():
    W = torch.randn(3, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    _, mask = compress.prune_weight(W, torch.eye(32), pattern="2:4")
    assert (mask.unflatten(1, (2, 4)).sum(2) == 2).all()


# --- Bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, error_type, message",
    [
        ({"count": 25}, ValueError, "from 0 to 24, got 25"),
        ({"count": -1}, ValueError, "from 0 to 24"),
        ({"count": 0.5}, TypeError, "must be an integer"),
        ({"count": None}, TypeError, "a pattern given"),
        ({"H": torch.eye(7)}, ValueError, r"\[8, 8\]"),
        ({"H": torch.full((8, 8), float("nan"))}, ValueError, "H: must be finite"),
        ({"W": torch.full((3, 8), float("nan"))}, ValueError, "W: must be finite"),
        ({"W": torch.ones(3, 8, dtype=torch.int64)}, TypeError, "floating-point"),
        ({"W": torch.ones(8)}, ValueError, "shape"),
        ({"row_scale": torch.ones(4)}, ValueError, "3 finite numbers"),
        ({"row_scale": torch.full((3,), float("inf"))}, ValueError, "finite"),
        ({"effort": "slow"}, ValueError, "effort: must be one of 'exact', 'balanced', 'fast'"),
        ({"effort": 16}, ValueError, "effort"),
        ({"pattern": "2:4", "count": 11}, ValueError, "removes 12 weights, got 11"),
        ({"pattern": "2:3", "count": None}, ValueError, "does not divide 8 inputs"),
        ({"pattern": "4:4", "count": None}, ValueError, "0 < N < M"),
        ({"pattern": "half", "count": None}, ValueError, "'2:4'"),
    ],
)
def test_bad_input_is_named(change, error_type, message):
    arguments = {"W": torch.ones(3, 8), "H": torch.eye(8), "count": 12, **change}
    with pytest.raises(error_type, match=message):
        compress.prune_weight(**arguments)


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("weights, hessian", [(1e-25, 1.0), (1e25, 1.0), (1.0, 1e-40), (1.0, 1e40)])
def test_units_do_not_matter_to_wide_layers_either(weights, hessian, effort):
    W, H = layer_case(4, 300)
    _, expected = compress.prune_weight(W, H, 600, effort=effort)
    _, mask = compress.prune_weight(weights * W, hessian * H, 600, effort=effort)
    assert torch.equal(mask, expected)


@pytest.mark.parametrize(
    "H, message",
    [
        (torch.tensor([[1.0, 5.0], [0.0, 1.0]]), "H: must be symmetric"),
        (-torch.eye(2), "H: must be symmetric with no negative diagonal"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "H: must be positive semidefinite"),
    ],
)
def test_what_is_no_second_moment_is_refused(H, message):
    with pytest.raises(ValueError, match=message):
        compress.prune_weight(torch.ones(1, 2), H, 1)
    with pytest.raises(ValueError, match=message):
        compress.quantize_weight(torch.ones(1, 2), H, 3)
