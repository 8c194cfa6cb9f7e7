"""Spiking softmax and attention against torch's own."""

import math

import pytest
import torch
from torch import nn

from spikeloom.convert.las.attention import Attention, Softmax
from tests.convert.las.fitting import relative


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("length", [1, 8, 300])
def test_softmax_sums_to_one_for_any_length_and_scale(length, scale):
    x = torch.randn(3, length) * scale
    softmax = Softmax()
    p = softmax.decoded(x)
    assert ((p.sum(-1) - 1).abs() < 5e-4).all()
    assert (p - x.softmax(-1)).abs().max() < 5e-4
    torch.testing.assert_close(softmax.spikes(x).sum(0), p, rtol=1e-5, atol=1e-6)


def test_softmax_gives_nothing_to_what_is_masked():
    x = torch.tensor([[1.0, -math.inf, 2.0], [torch.finfo(torch.float32).min, 0.0, 0.0]])
    p = Softmax().decoded(x)
    assert p[0, 1] == 0 and p[1, 0] == 0
    assert torch.allclose(p.sum(-1), torch.ones(2), atol=1e-3)


@pytest.mark.parametrize("groups", [4, 2])
def test_attention_is_the_exact_one_in_both_forms(groups):
    q, k, v = torch.randn(2, 4, 6, 8), *torch.randn(2, 2, groups, 6, 8)
    mask = torch.full((6, 6), -1e9).triu(1)
    attention = Attention()
    exact, _ = attention(q, k, v, mask, 0.35)
    wide = [x.repeat_interleave(4 // groups, 1) for x in (k, v)]
    reference = nn.functional.scaled_dot_product_attention(q, *wide, attn_mask=mask, scale=0.35)
    torch.testing.assert_close(exact, reference)
    for site in (attention.q, attention.k, attention.v, attention.p):
        site.fit(10, 1, "nearest", 1.25)
    attention.observing = False
    decoded, _ = attention(q, k, v, mask, 0.35)
    assert relative(decoded, exact) < 0.005
    attention.form = "spikes"
    stepped, _ = attention(q, k, v, mask, 0.35)
    assert relative(stepped, decoded) < 1e-3


@pytest.mark.parametrize("form", ["decoded", "spikes"])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(
    ("dtype", "of_mask"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float64),
        (torch.float32, torch.bfloat16),
    ],
)
def test_a_mask_has_any_float_dtype(dtype, of_mask, gradients, form):
    q, k, v = torch.randn(3, 2, 4, 6, 8).to(dtype)
    mask = torch.zeros(6, 6, dtype=of_mask)
    mask[torch.ones(6, 6).triu(1).bool()] = torch.finfo(of_mask).min
    mask[3] = torch.finfo(of_mask).min  # all keys alike
    attention = Attention()
    attention(q, k, v, mask, 0.35)
    for site in (attention.q, attention.k, attention.v, attention.p):
        site.fit(10, 1, "nearest", 1.25)
    attention.observing, attention.form = False, form
    y, p = attention(q.requires_grad_(gradients), k, v, mask, 0.35)
    scores = q.double() @ k.double().transpose(-2, -1) * 0.35
    exact = (scores + mask.double()).softmax(-1) @ v.double()
    exact[:, :, 3] = v.double().mean(-2)
    assert y.dtype == p.dtype == dtype
    assert relative(y.detach().double(), exact.detach()) < 0.01
