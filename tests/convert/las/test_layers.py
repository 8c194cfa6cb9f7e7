"""Layers: the step-by-step form is the decoded form, near the original's value."""

import pytest
import torch
from torch import nn

from spikeloom.convert.las.layers import Activation, GatedMLP, Linear, activation_neuron
from spikeloom.convert.las.norms import LayerNorm, RMSNorm
from spikeloom.neurons.range_reduction import MANTISSAS
from spikeloom.neurons.tables import FUNCTIONS, REACH
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


def test_every_function_that_is_no_magnitude_has_a_table():
    for name in {*FUNCTIONS} - {*MANTISSAS}:
        activation_neuron(name, -32.0 if name in REACH else -9.0, 32.0, 8, 16, None)


@pytest.mark.parametrize(
    "function",
    [lambda x: torch.sin(30 * x), lambda x: x + 0.1 * torch.tanh(x), torch.exp, torch.sqrt],
)
def test_a_function_that_is_not_flat_far_out_has_no_table(function, monkeypatch):
    monkeypatch.setitem(FUNCTIONS, "of_my_own", function)
    layer = Activation("of_my_own")
    layer(torch.randn(4, 8))
    with pytest.raises(ValueError, match=r"'of_my_own' is not flat beyond.*COMPOSED"):
        layer.fit(8, 16, 1.0)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_s_spikes_add_up_to_its_decoded_value(name):
    x = torch.randn(4, 10, 16) * 2
    layer = LAYERS[name]()
    exact = layer(x)
    fitted(layer, x)
    decoded = layer(x)
    assert relative(decoded, exact) < 0.02
    assert relative(in_spikes(layer)(x), decoded) < 2e-6
