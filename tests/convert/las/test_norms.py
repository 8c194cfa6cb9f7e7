"""Spiking norms come nearer with more steps, at any scale and eps."""

import pytest
import torch
from torch import nn

from spikeloom.convert.las.norms import LayerNorm
from tests.convert.las.fitting import fitted, relative


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("steps, bound", [(4, 0.15), (8, 0.01), (12, 1e-3)])
def test_more_steps_bring_a_layer_nearer(steps, bound):
    x = torch.randn(64, 16)
    layer = LayerNorm(*nn.LayerNorm(16).parameters(), 1e-12)
    exact = layer(x)
    layer.install(steps, 64)
    assert relative(fitted(layer, x, steps=steps)(x), exact) < bound


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 1.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_norms_honour_their_eps_at_any_scale(scale, eps):
    x = torch.randn(64, 32) * scale
    layer = fitted(LayerNorm(None, None, eps), x, steps=10)
    assert relative(layer(x), nn.functional.layer_norm(x, (32,), eps=eps)) < 0.01
