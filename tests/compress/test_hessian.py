import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spikeloom import compress, neurons
from tests.compress.cases import dense_filter, golden, spikes

LAYER = golden("osbc_linear_tau2")
TRACE = neurons.Trace(0.5)


def test_the_hessian_of_a_linear_layer_equals_the_golden_one():
    H = compress.layer_hessian(LAYER["S"], nn.Linear(12, 8), TRACE)
    torch.testing.assert_close(H, LAYER["H"], rtol=1e-10, atol=0)
    assert H.dtype == torch.float64


def test_without_filter_it_is_the_hessian_of_the_currents():
    H = compress.layer_hessian(LAYER["S"], nn.Linear(12, 8), neurons.Trace(0))
    torch.testing.assert_close(H, LAYER["Hc"], rtol=1e-10, atol=0)


def test_float32_spikes_are_accumulated_in_float64():
    H = compress.layer_hessian(LAYER["S"].float(), nn.Linear(12, 8), TRACE)
    assert H.dtype == torch.float64
    assert (H - LAYER["H"]).abs().max() <= 1e-5 * LAYER["H"].max()


def test_the_matrix_of_the_filter_gives_the_same():
    # H = 2/m sum_n (K S_n)^T (K S_n) with K[i, j] = decay^(i - j)
    S, K = LAYER["S"], LAYER["K"]
    y = torch.einsum("ij,jbd->ibd", K, S)
    torch.testing.assert_close(2 / 6 * torch.einsum("tbi,tbj->ij", y, y), LAYER["H"])


CONVOLUTIONS = {
    "plain": nn.Conv2d(3, 4, 3),
    "padded, strided": nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2)),
    "dilated": nn.Conv2d(3, 4, 3, dilation=2, padding=2),
    "same": nn.Conv2d(3, 4, (5, 3), padding="same", dilation=(1, 2)),
    "valid": nn.Conv2d(3, 4, 2, padding="valid"),
    "circular": nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
    "one by one": nn.Conv2d(3, 4, 1),
    "1d": nn.Conv1d(3, 4, 3, stride=2, padding=1),
    "1d dilated": nn.Conv1d(3, 4, 3, dilation=2),
    "1d same": nn.Conv1d(3, 4, 4, padding="same"),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("conv", CONVOLUTIONS.values(), ids=list(CONVOLUTIONS))
def test_the_quadratic_form_is_the_energy_of_the_outputs(conv):
    """w H w^T = 2/m sum of squares of what the convolution makes of the filtered input."""
    shape = (7, 8) if isinstance(conv, nn.Conv2d) else (9,)
    x = spikes(5, 2, 3, *shape).double()
    H = compress.layer_hessian(x, conv, TRACE)
    y = dense_filter(x, 0.5).flatten(0, 1)
    probe = torch.randn(conv.weight.shape, dtype=torch.float64)
    conv = type(conv)(
        3,
        4,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        bias=False,
        padding_mode=conv.padding_mode,
        dtype=torch.float64,
    )
    conv.weight.data = probe
    out = conv(y)
    positions = 2 * out[0, 0].numel()
    w = probe.flatten(1)
    energy = 2 / positions * out.square().transpose(0, 1).flatten(1).sum(1)
    torch.testing.assert_close(((w @ H) * w).sum(1), energy)


def test_each_group_of_a_convolution_has_its_own_hessian():
    x = spikes(4, 3, 4, 6, 6)
    H = compress.layer_hessian(x, nn.Conv2d(4, 6, 3, groups=2), TRACE)
    assert H.shape == (2, 18, 18)
    for group in range(2):
        part = x[:, :, 2 * group : 2 * group + 2]
        torch.testing.assert_close(
            H[group], compress.layer_hessian(part, nn.Conv2d(2, 3, 3), TRACE)
        )


def test_tokens_are_further_positions():
    x = spikes(4, 3, 5, 6)
    H = compress.layer_hessian(x, nn.Linear(6, 2), TRACE)
    torch.testing.assert_close(H, compress.layer_hessian(x.flatten(1, 2), nn.Linear(6, 2), TRACE))


def test_pieces_add_up_to_the_whole(monkeypatch):
    x, conv, linear = spikes(4, 3, 2, 6, 6), nn.Conv2d(2, 3, 3), nn.Linear(6, 3)
    whole = [compress.layer_hessian(x, layer, TRACE) for layer in (conv, linear)]
    monkeypatch.setattr("spikeloom.compress.hessian.CHUNK", 20)
    monkeypatch.setattr("spikeloom.compress.hessian.STRIP", 5)
    for layer, expected in zip((conv, linear), whole, strict=True):
        torch.testing.assert_close(compress.layer_hessian(x, layer, TRACE), expected)


def test_two_stages_filter_twice():
    x = spikes(8, 3, 5).double()
    H = compress.layer_hessian(x, nn.Linear(5, 2), neurons.Trace(0.9, 0.8))
    twice = dense_filter(dense_filter(x, 0.8), 0.9).flatten(0, 1)
    torch.testing.assert_close(H, 2 / 3 * twice.T @ twice)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16, torch.bfloat16])
def test_any_dtype_of_spikes_will_do(dtype):
    x = spikes(4, 3, 5)
    H = compress.layer_hessian(x.to(dtype), nn.Linear(5, 2), TRACE)
    assert torch.equal(H, compress.layer_hessian(x, nn.Linear(5, 2), TRACE))


def test_non_contiguous_spikes_are_read_right():
    x = spikes(5, 3, 4)
    H = compress.layer_hessian(x.permute(2, 1, 0), nn.Linear(5, 2), TRACE)
    expected = compress.layer_hessian(x.permute(2, 1, 0).contiguous(), nn.Linear(5, 2), TRACE)
    assert torch.equal(H, expected)


def test_one_step_is_not_filtered():
    x = spikes(1, 3, 5)
    H = compress.layer_hessian(x, nn.Linear(5, 2), TRACE)
    assert torch.equal(H, compress.layer_hessian(x, nn.Linear(5, 2), neurons.Trace(0)))


@pytest.mark.parametrize(
    "x, layer, trace, error, message",
    [
        (spikes(4, 3, 5), nn.Linear(6, 2), TRACE, ValueError, "6 inputs"),
        (spikes(4, 3, 5), nn.Conv2d(3, 2, 1), TRACE, ValueError, "4 axes"),
        (spikes(4, 5), nn.Linear(5, 2), TRACE, ValueError, r"\[T, batch"),
        (spikes(4, 3, 5), nn.ReLU(), TRACE, TypeError, "a Linear, Conv1d/2d/3d, .*got ReLU"),
        (spikes(4, 3, 5), nn.Linear(5, 2), 0.5, TypeError, "neurons.Trace"),
        (spikes(4, 3, 5) * torch.nan, nn.Linear(5, 2), TRACE, ValueError, "NaN or infinite"),
        (spikes(4, 3, 5)[:, :0], nn.Linear(5, 2), TRACE, ValueError, "not one sample"),
        (spikes(4, 3, 5)[:0], nn.Linear(5, 2), TRACE, ValueError, "not one sample"),
        (
            spikes(4, 3, 5),
            nn.Linear(5, 2),
            neurons.Trace(torch.full((5,), 0.5)),
            ValueError,
            "same for all",
        ),
        ([1.0], nn.Linear(5, 2), TRACE, TypeError, "must be a tensor"),
    ],
)
def test_bad_input_is_named(x, layer, trace, error, message):
    with pytest.raises(error, match=message):
        compress.layer_hessian(x, layer, trace)


def test_patches_come_in_the_order_of_the_weight():
    conv = nn.Conv2d(2, 1, 2, bias=False)
    image = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    H = compress.layer_hessian(image, conv, neurons.Trace(0))
    patch = F.unfold(image[0], 2).flatten().double()
    assert torch.equal(H, 2 * torch.outer(patch, patch))
