"""Rules apply wherever a module stands: as the model itself, within it, or in several places."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from spikeloom.calibrate import Batch
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
    "layer norm": (lambda: nn.LayerNorm(8), LayerNorm, ["before"]),
    "rms norm": (lambda: nn.RMSNorm(8), RMSNorm, ["before"]),
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


@torch.no_grad()
@pytest.mark.parametrize("model, x", [(nn.Conv2d(1, 2, 3), (2, 1, 5, 5)), (nn.PReLU(), (2, 5))])
def test_a_model_that_is_a_layer_without_a_rule_is_taken_by_its_operations(model, x):
    x = torch.randn(x)
    assert 0 < relative(converted(model, x)(x), model(x)) < 0.005


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


@torch.no_grad()
@pytest.mark.parametrize("batch_first", [False, True])
def test_an_encoder_layer_with_another_function_or_norm_is_taken_apart(batch_first):
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, activation=nn.functional.leaky_relu, batch_first=batch_first
    ).eval()
    layer.norm1 = nn.RMSNorm(8)
    x = torch.randn(3, 2, 8)
    network = converted(nn.Sequential(layer), x)
    assert isinstance(network[0].self_attn, MultiheadAttention)
    assert 0 < relative(network(x), layer(x)) < 0.01


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


@torch.no_grad()
@pytest.mark.parametrize("form", ["decoded", "spikes"])
def test_a_query_that_sees_nothing_gets_zero_as_in_torch(form):
    model, x = nn.MultiheadAttention(16, 2, batch_first=True).eval(), torch.randn(4, 6, 16)
    hidden = torch.zeros(6, 6).masked_fill(torch.arange(6)[:, None] < 2, -torch.inf)
    masked = Batch((x, x, x), {"attn_mask": hidden, "need_weights": False})
    network = converted(model, masked)
    set_form(network, form)
    expected = model(*masked.args, **masked.kwargs)[0]
    y, p = network(x, x, x, attn_mask=hidden)
    assert torch.equal(y[:, 0], model.out_proj.bias.expand(4, 16)) and not p[:, 0].any()
    assert relative(y, expected) < 0.005


@torch.no_grad()
@pytest.mark.parametrize("form", ["decoded", "spikes"])
def test_an_empty_sequence_is_empty(form):
    network = converted(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), torch.randn(4, 6, 16)
    )
    set_form(network, form)
    assert network(torch.zeros(2, 0, 16)).shape == (2, 0, 16)


def test_attention_is_saved_by_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    x = torch.randn(4, 6, 16)
    network, other = (converted(nn.MultiheadAttention(16, 2), (y, y, y)) for y in (x, 2 * x))
    safetensors.save_model(network, tmp_path / "network.safetensors")
    safetensors.load_model(other, tmp_path / "network.safetensors")
    assert torch.equal(other(x, x, x)[0], network(x, x, x)[0])


# --- Parts, names and copies ----------------------------------------------------------------------


def test_a_part_of_what_is_converted_as_a_whole_cannot_be_excluded():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x):
            return self.attend(x, x, x)[0]

    x = torch.randn(4, 6, 16)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    for model, part, whole in (
        (Attending(), "attend.out_proj", r"attend \(MultiheadAttention\)"),
        (nn.Sequential(layer), "0.self_attn", r"0 \(TransformerEncoderLayer\)"),
        (layer, "norm1", r"'', the model itself \(TransformerEncoderLayer\)"),
    ):
        with pytest.raises(ValueError, match=f"exclude: '{part}' is a part of {whole}, which is"):
            converted(model, x, exclude=[part])


def test_a_block_in_two_places_is_excluded_by_its_first_name():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Sequential(nn.Linear(8, 8))
            self.b = self.a

        def forward(self, x):
            return self.b(self.a(x))

    model = Twice()
    for name, own in (("b", "a"), (r"b.0", r"a.0")):
        with pytest.raises(
            ValueError, match=f"exclude: '{name}' is '{own}' as well; exclude it by"
        ):
            converted(model, torch.randn(16, 8), exclude=[name])
    network = converted(model, torch.randn(16, 8), exclude=["a", "b"])
    assert type(network.b[0]) is nn.Linear


def test_a_converted_network_is_not_converted_again():
    x = torch.randn(16, 8)
    for model in (nn.Sequential(nn.Linear(8, 8), nn.GELU()), nn.RMSNorm(8)):
        with pytest.raises(ValueError, match="model: is converted by LAS already"):
            converted(converted(model, x), x)


class UnusualRMSNorm(nn.Module):
    """Its eps has a name that no rule knows."""

    def __init__(self):
        super().__init__()
        self.weight, self.small = nn.Parameter(torch.ones(8)), 1e-3

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.small)


@torch.no_grad()
@pytest.mark.parametrize("norm", [UnusualRMSNorm(), nn.LayerNorm((4, 8)), nn.GroupNorm(2, 4)])
def test_a_norm_that_no_rule_knows_is_taken_by_its_operations(norm):
    x = torch.randn(3, 4, 8)
    assert 0 < relative(converted(nn.Sequential(norm), x)(x), norm(x)) < 0.005


@torch.no_grad()
def test_a_norm_of_one_s_own_that_says_its_size_is_taken_by_its_operations():
    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.normalized_shape = 8

        def forward(self, x):
            return x / x.norm(dim=-1, keepdim=True)

    x = torch.randn(3, 4, 8)
    assert 0 < relative(converted(nn.Sequential(Norm()), x)(x), Norm()(x)) < 0.005


@torch.no_grad()
def test_a_computed_weight_becomes_the_layer_s_own():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), nn.GELU())
    network, x = converted(model, torch.randn(32, 8)), torch.randn(32, 8)
    assert set(network[0].state_dict()) >= {"weight", "bias"}
    assert network.double()[0].weight.dtype == torch.float64
    assert 0 < relative(network(x.double()), model(x)) < 0.005


def test_a_model_whose_weights_a_hook_computes_is_refused_with_the_remedy():
    layer = nn.Linear(8, 8)
    prune.l1_unstructured(layer, "weight", 0.5)
    with pytest.raises(ValueError, match=r"model: cannot be copied; .*prune\.remove"):
        converted(nn.Sequential(layer), torch.randn(8, 8))


@torch.no_grad()
def test_torch_s_decoder_layer_keeps_an_activation_that_is_a_module():
    # torch itself makes relu of it in a copy.
    model = nn.TransformerDecoderLayer(16, 2, 32, 0.0, nn.GELU(), batch_first=True).eval()
    target, memory = torch.randn(4, 5, 16), torch.randn(4, 6, 16)
    network = converted(model, (target, memory))
    assert 0 < relative(network(target, memory), model(target, memory)) < 0.005


def test_the_report_says_what_stays_in_float():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch_embeddings = nn.Sequential(nn.Linear(8, 8), nn.GELU())
            self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.layer(self.patch_embeddings(x)))

    report = converted(Embedded(), torch.randn(16, 8), exclude=["head"]).report
    assert "left in float: 'patch_embeddings.0', 'patch_embeddings.1', 'head'" in report.notes
    alone = converted(nn.Linear(8, 8), torch.randn(16, 8)).report
    assert not any("float" in note for note in alone.notes)
