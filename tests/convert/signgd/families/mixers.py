"""Perceptrons over patches: MLP-Mixer and ResMLP (both 2021) and gMLP (Liu et al., 2021)."""

import torch
from torch import nn

TOKENS, WIDTH, DEPTH = 64, 32, 4


def perceptron(width, factor):
    inside = int(factor * width)
    return nn.Sequential(nn.Linear(width, inside), nn.GELU(), nn.Linear(inside, width))


class OverTokens(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.transpose(1, 2)).transpose(1, 2)


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Affine(nn.Module):
    """Scale and shift by feature, ResMLP's place of a norm; written as its authors have it."""

    def __init__(self):
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x):
        return torch.addcmul(self.beta, self.alpha, x)


class Scaled(nn.Module):
    """A residual branch with a scale for each feature."""

    def __init__(self, *inner):
        super().__init__()
        self.inner, self.gamma = nn.Sequential(*inner), nn.Parameter(torch.full((WIDTH,), 1e-4))

    def forward(self, x):
        return x + self.gamma * self.inner(x)


class Gating(nn.Module):
    """One half of the features, gated by the other half seen across tokens."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(width), nn.Linear(TOKENS, TOKENS)

    def forward(self, x):
        kept, gate = x.chunk(2, -1)
        return kept * self.mix(self.norm(gate).transpose(1, 2)).transpose(1, 2)


class OverPatches(nn.Module):
    def __init__(self, blocks, norm):
        super().__init__()
        self.stem, self.blocks, self.norm = nn.Conv2d(3, WIDTH, 4, 4), nn.Sequential(*blocks), norm
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x):
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(tokens)).mean(1))


def mixer():
    def block():
        across = Residual(nn.LayerNorm(WIDTH), OverTokens(perceptron(TOKENS, 0.5)))
        return across, Residual(nn.LayerNorm(WIDTH), perceptron(WIDTH, 4))

    return OverPatches([layer for _ in range(DEPTH) for layer in block()], nn.LayerNorm(WIDTH))


def resmlp():
    def block():
        across = Scaled(Affine(), OverTokens(nn.Linear(TOKENS, TOKENS)))
        return across, Scaled(Affine(), perceptron(WIDTH, 4))

    return OverPatches([layer for _ in range(DEPTH) for layer in block()], Affine())


def gmlp():
    def block():
        first, last = nn.Linear(WIDTH, 6 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)
        return Residual(nn.LayerNorm(WIDTH), first, nn.GELU(), Gating(3 * WIDTH), last)

    return OverPatches([block() for _ in range(DEPTH)], nn.LayerNorm(WIDTH))
