import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom import compress
from spikeloom.compress.blocks import damped_inverse, split_blocks
from spikeloom.compress.quantization import grid, quantize_blocks, round_to_grid
from tests.compress.cases import error, golden, layer_case

LAYER = golden("osbc_linear_tau2")


def one_by_one(W, H, bits):
    """The definition: round a column, update the rest, eliminate the column from the inverse."""
    inverse, W, scale = damped_inverse(H), W.clone(), grid(W, bits)
    codes = torch.empty_like(W)
    for j in damped_inverse(H).diagonal().argsort(stable=True).tolist():
        codes[:, j] = round_to_grid(W[:, j, None], scale, bits)[:, 0]
        change = scale * codes[:, j] - W[:, j]
        W += change[:, None] * inverse[j] / inverse[j, j]
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        # What is eliminated takes part no more.
        inverse[j] = inverse[:, j] = 0.0
        inverse[j, j] = 1.0
    return codes


@pytest.mark.parametrize("bits", [4, 3, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_codes_and_scales_equal_the_golden_layer(bits, dtype):
    W, codes, scale = compress.quantize_weight(LAYER["W"].to(dtype), LAYER["H"].to(dtype), bits)
    differs = codes + 2 ** (bits - 1) != LAYER[f"q{bits}_code"]
    assert not (differs & ~LAYER[f"rtn{bits}_tie"]).any()
    torch.testing.assert_close(scale.double(), LAYER[f"q{bits}_scale"], rtol=1e-7, atol=0)
    torch.testing.assert_close(
        W.double()[~differs], LAYER[f"q{bits}_W"][~differs], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_rounding_to_nearest_equals_the_golden_layer(bits):
    W, scale = LAYER["W"], grid(LAYER["W"], bits)
    nearest = scale[:, None] * round_to_grid(W, scale, bits)
    checked = ~LAYER[f"rtn{bits}_tie"]
    torch.testing.assert_close(nearest[checked], LAYER[f"rtn{bits}_W"][checked])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("width", [40, 150, 300])
def test_blocked_codes_equal_columns_taken_one_by_one(bits, width):
    W, H = layer_case(5, width)
    _, codes, _ = compress.quantize_weight(W, H, bits)
    assert torch.equal(codes.double(), one_by_one(W, H, bits))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", range(2, 9))
def test_scale_times_code_is_the_weight_to_the_last_bit(bits, dtype):
    W, H = layer_case(4, 20)
    quantised, codes, scale = compress.quantize_weight(W.to(dtype), H, bits)
    assert quantised.dtype == scale.dtype == dtype and codes.dtype == torch.int8
    assert torch.equal(quantised, scale[:, None] * codes.to(dtype))
    assert codes.min() >= -(2 ** (bits - 1)) and codes.max() <= 2 ** (bits - 1) - 1


@given(gain=st.floats(1e-9, 1e9), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_a_gain_in_the_filter_changes_nothing(gain, seed):
    W, H = layer_case(3, 10, seed)
    # Away from ties, which any rounding error may decide.
    W[:, 0] *= 1.0001
    first, second = (compress.quantize_weight(W, h, 4)[1] for h in (H, gain * H))
    assert (first != second).sum() <= 1


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_compensation_lowers_the_objective_below_rounding_to_nearest(bits):
    W, H = layer_case(8, 60)
    scale = grid(W, bits)
    nearest = scale[:, None] * round_to_grid(W, scale, bits)
    quantised, _, _ = compress.quantize_weight(W, H, bits)
    assert error(W, quantised, H) < 0.9 * error(W, nearest, H)


def test_the_grid_of_a_positive_row_reaches_its_largest_weight():
    file = golden("osbc_alloc")
    W, codes, scale = compress.quantize_weight(file["quirk_W"], torch.eye(8), 4)
    # The published quantiser halves the step of row 0 and clips it at 7/15 of its range.
    assert scale[0] == 2 * file["quirk_W"][0].max() / 15
    assert (W[0] - file["quirk_W"][0]).abs().max() <= scale[0]
    torch.testing.assert_close(scale[1:], file["quirk_scale"][1:])
    assert torch.equal(codes[1:] + 8, file["quirk_code"][1:])


def test_a_row_of_zeros_stays_zero():
    W, codes, scale = compress.quantize_weight(torch.zeros(2, 4), torch.eye(4), 4)
    assert not W.any() and not codes.any() and (scale == 2 / 15).all()


def test_a_layer_without_spikes_is_rounded_to_nearest():
    W, _ = layer_case(3, 8)
    _, codes, scale = compress.quantize_weight(W, torch.zeros(8, 8), 3)
    assert torch.equal(codes.double(), round_to_grid(W, scale, 3))


def test_removed_weights_stay_zero_and_are_made_up_for():
    W, H = layer_case(4, 24)
    pruned, mask = compress.prune_weight(W, H, 60)
    scale = grid(pruned, 3)
    codes = quantize_blocks(pruned, split_blocks(pruned, H), scale, 3, mask)
    assert not codes[mask].any()
    nearest = scale[:, None] * round_to_grid(pruned, scale, 3)
    assert error(W, scale[:, None] * codes, H) < error(W, nearest, H)


def test_convolutions_keep_their_shape():
    W = torch.randn(4, 3, 2, 2)
    quantised, codes, scale = compress.quantize_weight(W, torch.eye(12), 4)
    assert quantised.shape == codes.shape == W.shape and scale.shape == (4,)


@pytest.mark.parametrize(
    "bits, error_type", [(1, ValueError), (9, ValueError), (4.0, TypeError), (True, TypeError)]
)
def test_bits_outside_two_to_eight_are_refused(bits, error_type):
    with pytest.raises(error_type, match="bits"):
        compress.quantize_weight(torch.ones(2, 2), torch.eye(2), bits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_row_too_small_for_a_step_of_its_own_is_rounded_to_the_smallest_step(dtype):
    limits = torch.finfo(dtype)
    smallest = torch.tensor(limits.smallest_normal * limits.eps, dtype=torch.float64)
    counts = torch.tensor([[1.0, -2.0, 3.0, 0.0], [1.0, 0.0, 0.0, -1.0]], dtype=torch.float64)
    W, codes, scale = compress.quantize_weight((smallest * counts).to(dtype), torch.eye(4), 4)
    assert torch.equal(scale.double(), smallest.expand(2))
    assert torch.equal(codes.double(), counts)
    assert torch.equal(W, scale[:, None] * codes.to(dtype)) and W.any()
