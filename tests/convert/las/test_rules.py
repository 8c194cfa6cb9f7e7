"""Rules apply wherever a module stands: as the model itself, within it, or in several places."""

import pytest
import torch
from torch import nn

from spikeloom.convert import LAS, set_form
from spikeloom.convert.las.layers import Activation, GatedMLP, Linear
from spikeloom.convert.las.norms import LayerNorm, RMSNorm
from spikeloom.convert.las.torch_layers import EncoderLayer, MultiheadAttention
from tests.convert.las.fitting import relative


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def converted(model, *batches, **settings):
    return LAS(steps=11, progress=False, **settings).apply(model.eval(), list(batches))


# --- The model itself -----------------------------------------------------------------------------

ROOTS = {
    "linear": (lambda: nn.Linear(8, 8), Linear, ["site"]),
    "layer norm": (lambda: nn.LayerNorm(8), LayerNorm, ["before", "after"]),
    "rms norm": (lambda: nn.RMSNorm(8), RMSNorm, ["before", "after"]),
    "gelu": (nn.GELU, Activation, []),
}


@torch.no_grad()
@pytest.mark.parametrize("name", ROOTS)
def test_a_model_that_is_one_layer_becomes_its_spiking_layer(name):
    build, kind, sites = ROOTS[name]
    model, x = build(), torch.randn(32, 8)
    network = converted(model, x)
    assert isinstance(network, kind) and not isinstance(model, kind)
    assert network.report.column("site") == sites
    for form in ("decoded", "spikes"):
        set_form(network, form)
        assert 0 < relative(network(x), model(x)) < 0.005


@torch.no_grad()
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "relu", nn.SiLU(), torch.tanh])
def test_torch_s_encoder_layer_alone_is_converted(activation, batch_first):
    model = nn.TransformerEncoderLayer(16, 2, 32, 0.0, activation, batch_first=batch_first)
    x = torch.randn(4, 6, 16)
    network = converted(model, x)
    assert isinstance(network, EncoderLayer)
    assert "self_attn.las.p" in network.report.column("site")
    mask = nn.Transformer.generate_square_subsequent_mask(6 if batch_first else 4)
    for form in ("decoded", "spikes"):
        set_form(network, form)
        assert 0 < relative(network(x), model(x)) < 0.005
        assert 0 < relative(network(x, src_mask=mask), model(x, src_mask=mask)) < 0.005


@torch.no_grad()
def test_torch_s_attention_alone_is_converted():
    model, x = nn.MultiheadAttention(16, 2, batch_first=True), torch.randn(4, 6, 16)
    network = converted(model, (x, x, x))
    assert isinstance(network, MultiheadAttention)
    for found, expected in zip(network(x, x, x), model(x, x, x), strict=True):
        assert 0 < relative(found, expected) < 0.005


@torch.no_grad()
def test_a_gated_block_alone_is_converted():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = pytest.importorskip("transformers").LlamaConfig(hidden_size=32, intermediate_size=64)
    model, x = llama.LlamaMLP(config), torch.randn(64, 32)
    network = converted(model, x)
    assert isinstance(network, GatedMLP)
    assert 0 < relative(network(x), model(x)) < 0.005


def test_a_model_that_is_a_layer_without_a_rule_is_refused():
    for model, x in (
        (nn.Conv2d(1, 2, 3), torch.randn(2, 1, 5, 5)),
        (nn.PReLU(), torch.randn(2, 5)),
    ):
        kind = type(model).__name__
        with pytest.raises(TypeError, match=rf"converts '', the model itself \({kind}\); leave"):
            converted(model, x)


# --- Within a model -------------------------------------------------------------------------------


@torch.no_grad()
def test_one_module_in_several_places_stays_one():
    act, layer = nn.GELU(), nn.Linear(8, 8)
    model, x = nn.Sequential(layer, act, layer, act), torch.randn(32, 8)
    network = converted(model, x)
    assert isinstance(network[1], Activation) and network[3] is network[1]
    assert isinstance(network[0], Linear) and network[2] is network[0]
    assert 0 < relative(network(x), model(x)) < 0.005
    assert isinstance(converted(model, x, exclude=["1", "3"])[3], nn.GELU)


def test_an_encoder_layer_with_a_function_without_a_rule_is_named():
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=nn.functional.leaky_relu)
    with pytest.raises(TypeError, match=r"0 \(TransformerEncoderLayer with leaky_relu\)"):
        converted(nn.Sequential(layer), torch.randn(3, 2, 8))


@torch.no_grad()
def test_an_attention_that_calibration_does_not_reach_is_reported():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.attends = nn.Linear(8, 8), False
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            x = self.first(x)
            return self.attention(x, x, x)[0] if self.attends else x

    network = converted(Gated(), torch.randn(4, 5, 8))
    assert "no value in calibration, so any range: 'attention.q_proj.site'" in str(network.report)
    network.attends = True
    with pytest.warns(UserWarning, match="saturate"):
        assert network(torch.rand(4, 5, 8) * 9).shape == (4, 5, 8)


# --- Torch's own attention, as it is called -------------------------------------------------------


def test_attention_refuses_what_it_would_compute_otherwise():
    x = torch.randn(4, 6, 16)
    network = converted(nn.MultiheadAttention(16, 2, batch_first=True), (x, x, x))
    with pytest.raises(ValueError, match=r"query: must be \[batch, length, features\]"):
        network(x[0], x[0], x[0])
    with pytest.raises(ValueError, match="is_causal: give attn_mask"):
        network(x, x, x, is_causal=True)
    layer = converted(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), x)
    with pytest.raises(ValueError, match="is_causal: give attn_mask"):
        layer(x, is_causal=True)
