"""Layers: the step-by-step form is the decoded form, near the original's value."""

import pytest
import torch
from torch import nn

from spikeloom.convert.las.layers import Activation, GatedMLP, Linear
from spikeloom.convert.las.norms import LayerNorm, RMSNorm
from tests.convert.las.fitting import fitted, in_spikes, relative


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


LAYERS = {
    "linear": lambda: Linear(*nn.Linear(16, 12).parameters()),
    "layer norm": lambda: LayerNorm(nn.LayerNorm(16)),
    "rms norm": lambda: RMSNorm(nn.Parameter(torch.rand(16) + 0.5), None, 1e-6),
    "gelu": lambda: Activation("gelu"),
    "gelu_tanh": lambda: Activation("gelu_tanh"),
    "silu": lambda: Activation("silu"),
    "tanh": lambda: Activation("tanh"),
    "sigmoid": lambda: Activation("sigmoid"),
    "relu": lambda: Activation("relu"),
    "gated mlp": lambda: GatedMLP(
        *(Linear(nn.Linear(16, 16).weight, None) for _ in range(3)),
        Activation("silu"),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_s_spikes_add_up_to_its_decoded_value(name):
    x = torch.randn(4, 10, 16) * 2
    layer = LAYERS[name]()
    exact = layer(x)
    fitted(layer, x)
    decoded = layer(x)
    assert relative(decoded, exact) < 0.02
    assert relative(in_spikes(layer)(x), decoded) < 2e-6
