"""Spiking networks that differ in where their steps and samples are."""

from __future__ import annotations

import torch
from torch import nn

from tests.matrix.model import B, T, currents, lif, spiking
from tests.matrix.models.forwards import TWO, Two


@spiking(
    "As many steps as samples.", lambda: 2 * torch.rand(T, T, 4), decays=TWO, real=("a",), batch=T
)
class AsManyStepsAsSamples(Two):
    pass


@spiking("One sample.", lambda: 2 * torch.rand(T, 1, 4), decays=TWO, real=("a",), batch=1)
class OneSample(Two):
    pass


@spiking(
    "Samples first, and both folded into one axis for its layers.",
    lambda: currents().transpose(0, 1).contiguous(),
    decays=TWO,
    real=("a",),
    time={"": "folded behind samples"},
    refused={"to_nir": "spike (SpikingLayer)"},
)
class SamplesThenStepsFolded(Two):
    def forward(self, x):
        y = self.a(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        y = self.spike(y.transpose(0, 1)).transpose(0, 1)
        return self.b(y.flatten(0, 1)).unflatten(0, x.shape[:2])


@spiking(
    "Spikes reach the next layer a step later.",
    currents,
    decays=TWO,
    real=("a",),
    refused={"to_nir": "Delayed (Delayed)"},
)
class Delayed(Two):
    def forward(self, x):
        spikes = self.spike(self.a(x))
        return self.b(torch.cat([torch.zeros_like(spikes[:1]), spikes[:-1]]))


@spiking(
    "Each current is shown for two steps.",
    currents,
    real=("a",),
    refused={"calibrate, prune": "layer 'a'", "to_nir": "spike (SpikingLayer)"},
)
class ShownTwice(Two):
    def forward(self, x):
        return self.b(self.spike(self.a(x).repeat_interleave(2, 0)))


@spiking(
    "Runs backwards in time.",
    currents,
    real=("a",),
    refused={"calibrate, prune": "layer 'a'", "to_nir": "spike (SpikingLayer)"},
)
class Backwards(Two):
    def forward(self, x):
        return self.b(self.spike(self.a(x).flip(0)))


@spiking(
    "Mixes tokens, and then features.",
    lambda: 2 * torch.rand(T, B, 3, 4),
    decays=TWO,
    real=("a",),
    refused={"to_nir": "a (Linear)"},
)
class TokenMixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.spike, self.b = nn.Linear(3, 5), lif(), nn.Linear(4, 3)

    def forward(self, x):
        return self.b(self.spike(self.a(x.mT)).mT)
