"""Small networks beyond ReLU, for pictures of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["ConvNeXt", "Mixer", "ResMLP", "cnn"]


def cnn(
    activation: Callable[[], nn.Module], size: int = 8, widths: Sequence[int] = (16, 32)
) -> nn.Module:
    """Convolution, batch norm, activation and max-pool in turn, and a perceptron of one layer."""
    layers: list[nn.Module] = []
    for inner, outer in zip((1, *widths), widths, strict=False):
        convolution = nn.Conv2d(inner, outer, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(outer), activation(), nn.MaxPool2d(2)]
    flat = widths[-1] * (size >> len(widths)) ** 2
    head = [nn.Flatten(), nn.Linear(flat, 64), activation(), nn.Linear(64, 10)]
    return nn.Sequential(*layers, *head)


def mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class MixerBlock(nn.Module):
    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.over_tokens, self.over_channels = mlp(tokens), mlp(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.over_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.over_channels(self.norm2(x))


class Mixer(nn.Module):
    """MLP-Mixer (Tolstikhin et al., 2021) of two blocks."""

    def __init__(self, size: int = 8, patch: int = 2, channels: int = 32) -> None:
        super().__init__()
        tokens = (size // patch) ** 2
        self.patches = nn.Conv2d(1, channels, patch, stride=patch)
        self.blocks = nn.Sequential(MixerBlock(tokens, channels), MixerBlock(tokens, channels))
        self.norm, self.head = nn.LayerNorm(channels), nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(tokens)).mean(1))


class ResMLPBlock(nn.Module):
    """One linear layer across tokens and a perceptron, each scaled by feature on both sides."""

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.ones(2, channels))
        self.shifts = nn.Parameter(torch.zeros(2, channels))
        self.gammas = nn.Parameter(torch.full((2, channels), 0.1))
        self.over_tokens, self.over_channels = nn.Linear(tokens, tokens), mlp(channels)

    def forward(self, x: Tensor) -> Tensor:
        normal = torch.addcmul(self.shifts[0], self.scales[0], x)
        x = x + self.gammas[0] * self.over_tokens(normal.transpose(1, 2)).transpose(1, 2)
        normal = torch.addcmul(self.shifts[1], self.scales[1], x)
        return x + self.gammas[1] * self.over_channels(normal)


class ResMLP(nn.Module):
    """ResMLP (Touvron et al., 2021) of three blocks, without any norm."""

    def __init__(self, size: int, patch: int, channels: int = 32) -> None:
        super().__init__()
        tokens = (size // patch) ** 2
        self.patches = nn.Conv2d(1, channels, patch, stride=patch)
        self.blocks = nn.Sequential(*(ResMLPBlock(tokens, channels) for _ in range(3)))
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.blocks(tokens).mean(1))


class ConvNeXtBlock(nn.Module):
    """A wide depthwise convolution, LayerNorm over channels, and a perceptron, scaled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm, self.inner = nn.LayerNorm(channels), mlp(channels)
        self.gamma = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.inner(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + (self.gamma * inner).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """ConvNeXt (Liu et al., 2022) of two stages of one block."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(1, channels, 4, stride=4), ConvNeXtBlock(channels)
        self.down, self.second = (
            nn.Conv2d(channels, 2 * channels, 2, stride=2),
            ConvNeXtBlock(2 * channels),
        )
        self.norm, self.head = nn.LayerNorm(2 * channels), nn.Linear(2 * channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = self.second(self.down(self.first(self.stem(x))))
        return self.head(self.norm(features.mean((2, 3))))
