"""Attention by blocks of queries equals attention as a whole."""

import math

import pytest
import torch

from spikeloom.convert.las import blocks
from spikeloom.convert.las.attention import Attention
from tests.convert.las.fitting import relative

LEAST = torch.finfo(torch.float32).min


def whole_numbers(*shape):
    """Values whose products add up exactly, in whatever order."""
    return torch.randint(-2, 3, shape).float()


def fitted(groups=4, heads=4):
    attention = Attention()
    q, k, v = whole_numbers(2, heads, 40, 8), *whole_numbers(2, 2, groups, 40, 8)
    attention(q, k, v, None, 0.25)
    for site in (attention.q, attention.k, attention.v, attention.p):
        site.fit(8, 1, "nearest", 1.25)
    attention.observing = False
    return attention, q, k, v


def causal(queries, keys):
    return torch.full((queries, keys), LEAST).triu(1 + keys - queries)


def windowed():
    near = torch.ones(40, 40).tril().triu(-20)
    return torch.where(near > 0, 0.0, LEAST)


def padded():
    """Causal, and the first keys of a sequence are padding that sees nothing at all."""
    mask = causal(40, 40).repeat(2, 1, 1, 1)
    mask[0, :, :, :25] = LEAST
    return mask


MASKS = {
    "none": lambda: None,
    "causal": lambda: causal(40, 40),
    "boolean": lambda: causal(40, 40) == 0,
    "of each sequence": padded,
    "of each head": lambda: causal(40, 40) + torch.randn(1, 4, 1, 40).round(),
    "a window": windowed,
    "of keys": lambda: torch.where(torch.arange(40) % 3 > 0, 0.0, LEAST).view(1, 1, 1, 40),
    "wider than the keys": lambda: torch.cat([causal(40, 40), torch.zeros(40, 16)], 1),
    "all hidden": lambda: torch.full((40, 40), LEAST),
}


@pytest.mark.parametrize("limit", [1, 700, 1600, 1 << 20])
@pytest.mark.parametrize("mask", MASKS)
@torch.no_grad()
def test_blocks_of_any_size_have_the_probabilities_of_the_whole(mask, limit, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(blocks, "BLOCK", limit)
    attention, q, k, v = fitted()
    mask = MASKS[mask]()
    context, p = attention(q, k, v, mask, 0.25)
    encoded = [site.decoded(x) for site, x in zip(attention.children(), (q, k, v), strict=False)]
    expected, all_p = attention._whole(*encoded, mask, 0.25)
    assert torch.equal(p, all_p)
    torch.testing.assert_close(context, expected)


@pytest.mark.parametrize("limit", [1, 1 << 20])
@pytest.mark.parametrize("queries", [1, 7])
@torch.no_grad()
def test_groups_of_heads_share_keys_without_copies_of_them(queries, limit, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(blocks, "BLOCK", limit)
    attention, q, k, v = fitted(groups=2)
    q, mask = q[:, :, :queries], causal(queries, 40)
    context, p = attention(q, k, v, mask, 0.25)
    exact = torch.nn.functional.scaled_dot_product_attention(
        q, *(x.repeat_interleave(2, 1) for x in (k, v)), attn_mask=mask, scale=0.25
    )
    assert context.shape == exact.shape and p.shape == (2, 4, queries, 40)
    assert relative(context, exact) < 0.02


@torch.no_grad()
def test_keys_that_no_query_of_a_block_sees_are_left_out(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(blocks, "BLOCK", 40 * 8)
    q, k, v = torch.randn(3, 1, 1, 40, 8)
    widths = []

    def softmax(scores):
        widths.append(scores.shape[-1])
        return scores.softmax(-1)

    context, p = blocks.attend(q, k, v, causal(40, 40), 0.3, softmax, False)
    assert widths == [16, 16, 32, 32, 40]
    assert p is None
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
    torch.testing.assert_close(context, exact)


@torch.no_grad()
def test_nothing_to_attend_from_is_nothing():
    attention, q, k, v = fitted()
    context, p = attention(q[:, :, :0], k, v, None, 0.25)
    assert context.shape == (2, 4, 0, 8) and p.shape == (2, 4, 0, 40)


@torch.no_grad()
def test_nan_is_named(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 1)
    attention, q, k, v = fitted()
    with pytest.raises(ValueError, match="NaN"):
        attention(q, k.index_fill(2, torch.tensor([3]), math.nan), v, None, 0.25)


def test_gradients_are_those_of_attention_as_a_whole():
    torch.manual_seed(0)
    attention, q, k, v = fitted()
    q = q.requires_grad_()
    context, _ = attention(q, k, v, causal(40, 40), 0.25)
    with torch.no_grad():
        by_blocks, _ = attention(q, k, v, causal(40, 40), 0.25)
    torch.testing.assert_close(context, by_blocks)
    (found,) = torch.autograd.grad(context.sum(), q)
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.25)
    (expected,) = torch.autograd.grad(exact.sum(), q)
    assert relative(found, expected) < 0.05
