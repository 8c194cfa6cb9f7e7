"""A decoder in plain torch, in the ways in which people write one."""

import math

import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY, WIDTH, HEADS, LONGEST = 61, 32, 4, 32


class HandWrittenRMSNorm(nn.Module):
    """Named so that no rule knows it: its operations alone tell what it computes."""

    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, width))

    def forward(self, x):
        return self.gain * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class SelfAttention(nn.Module):
    """Causal attention.

    Args:
        by_hand: With a softmax of its own instead of torch's function.
        rotary: Positions turn queries and keys.
    """

    def __init__(self, by_hand, rotary):
        super().__init__()
        self.by_hand, self.rotary = by_hand, rotary
        self.c_attn = nn.Linear(WIDTH, 3 * WIDTH)
        self.c_proj = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("seen", torch.ones(LONGEST, LONGEST).tril() > 0, persistent=False)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, HEADS, -1).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=2)
        )
        if self.rotary:
            q, k = turned(q), turned(k)
        if self.by_hand:
            scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
            scores = scores.masked_fill(~self.seen[:length, :length], float("-inf"))
            y = F.softmax(scores, dim=-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.0, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(batch, length, width))


def turned(x):
    """Rotary positions, by halves."""
    half = x.shape[-1] // 2
    rates = 100.0 ** (-torch.arange(half, dtype=x.dtype, device=x.device) / half)
    angles = torch.outer(torch.arange(x.shape[-2], dtype=x.dtype, device=x.device), rates)
    a, b = x[..., :half], x[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Block(nn.Module):
    def __init__(self, norm, by_hand, rotary):
        super().__init__()
        self.norm1, self.norm2 = norm(WIDTH), norm(WIDTH)
        self.attention = SelfAttention(by_hand, rotary)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PlainDecoder(nn.Module):
    """Tokens -> logits; the head is the embedding's weight.

    Args:
        norm: Makes a norm of a width.
        by_hand: As for the attention.
        rotary: Likewise; False adds learned positions.
    """

    def __init__(self, norm=nn.LayerNorm, by_hand=False, rotary=False):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = None if rotary else nn.Embedding(LONGEST, WIDTH)
        self.blocks = nn.ModuleList(Block(norm, by_hand, rotary) for _ in range(2))
        self.norm = norm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids):
        x = self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def ids(seed, rows=4, length=12):
    """Tokens for it."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (rows, length), generator=draw)
