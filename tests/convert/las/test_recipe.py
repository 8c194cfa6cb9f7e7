"""LAS on small transformers of every family it supports: fidelity, forms, interface, errors."""

import copy
import json
import os
import pickle
import warnings

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import convert, plugins
from spikeloom.convert import LAS, set_form
from spikeloom.convert.las import saturation
from spikeloom.convert.las.layers import Activation, Linear, Spiking

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

from tests.convert.las.families import (  # noqa: E402  # once transformers is known to be there
    FAMILIES,
    GENERATING,
    build,
    inputs,
    relative,
)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_keeps_its_output_in_both_forms(family, converted):
    model, network = converted(family)
    batch = inputs(family)
    exact, decoded = model(**batch)[0], network(**batch)[0]
    assert 0 < relative(decoded, exact) < 0.01
    set_form(network, "spikes")
    stepped = network(**batch)[0]
    set_form(network, "decoded")
    # A sum in another order may move a value across a threshold, no further than one code.
    assert relative(stepped, decoded) < 0.005


@pytest.mark.parametrize("family", FAMILIES)
def test_no_float_activation_softmax_or_norm_is_left(family, converted):
    _, network = converted(family)
    kept = (nn.Linear, nn.LayerNorm, nn.GELU, nn.SiLU, nn.ReLU, nn.Tanh, nn.Softmax)
    for name, module in network.named_modules():
        if "embeddings" not in name and not isinstance(module, Spiking):
            assert not isinstance(module, kept), name
            assert type(module).__name__ not in ("Conv1D", "GELUActivation", "NewGELUActivation")
            assert not type(module).__module__.endswith("activations"), name


@torch.no_grad()
def test_a_forward_pass_calls_no_float_nonlinearity(converted, monkeypatch):
    _, network = converted("bert")
    batch = inputs("bert")
    for name in ("gelu", "softmax", "scaled_dot_product_attention", "tanh"):
        monkeypatch.setattr(nn.functional, name, lambda *a, **k: pytest.fail("a float function"))
    norms = []
    original = nn.functional.layer_norm
    monkeypatch.setattr(
        nn.functional, "layer_norm", lambda *a, **k: norms.append(1) or original(*a, **k)
    )
    network(**batch)
    assert len(norms) == 1


@pytest.mark.parametrize("family", GENERATING)
def test_a_decoder_generates_the_same_tokens_with_its_cache(family, converted):
    model, network = converted(family)
    prompt = inputs(family, seed=4)["input_ids"][:2, :6]
    settings = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(prompt)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        before = model.generate(prompt, attention_mask=mask, **settings)
        after = network.generate(prompt, attention_mask=mask, **settings)
        without = network.generate(prompt, attention_mask=mask, use_cache=False, **settings)
    assert torch.equal(before, after)
    assert torch.equal(after, without)


def test_the_original_is_untouched():
    model = build("bert")
    before = copy.deepcopy(model.state_dict())
    expected = model(**inputs("bert"))[0]
    network = LAS(steps=6, progress=False).apply(model, [inputs("bert")])
    assert model.config._attn_implementation != network.config._attn_implementation
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(**inputs("bert"))[0], expected)
    assert isinstance(network, type(model)) and not network.training


def test_gradients_reach_the_weights_and_ranges_stay_buffers(converted):
    _, network = converted("bert")
    network = copy.deepcopy(network)
    network(**inputs("bert"))[0].square().sum().backward()
    for name, parameter in network.named_parameters():
        if name.startswith("encoder"):
            assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
    assert not any("site" in name for name, _ in network.named_parameters())


# --- Report and choices -----------------------------------------------------------------------


def test_the_report_shows_every_site_and_layer(converted, tmp_path):
    _, network = converted("bert")
    report = network.report
    sites = report.column("site")
    assert "encoder.layer.0.output.dense.site" in sites
    assert "encoder.layer.1.attention.self.las.p" in sites
    # Queries, keys and values share one encoded input.
    assert sum("layer.0.attention.self" in name and name.endswith("site") for name in sites) == 1
    assert report.layers.column("layer") == ["encoder.layer.0", "encoder.layer.1", "output"]
    assert all(0 < error < 0.01 for error in report.layers.column("relative L2"))
    assert 1 < report.spikes_per_value < 10
    assert report.energy == pytest.approx(report.spikes_per_value * 0.9 / 4.6)
    assert "break-even at 5.1 spikes" in str(report)
    report.save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["energy"] == report.energy and len(saved["layers"]["rows"]) == 3


def test_more_steps_lose_less_and_spike_more():
    model, batch = build("bert"), inputs("bert")
    errors, spikes = [], []
    for steps in (4, 6, 8, 11):
        network = LAS(steps=steps, progress=False).apply(model, [batch])
        errors.append(network.report.layers.column("relative L2")[-1])
        spikes.append(network.report.spikes_per_value)
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 30
    assert spikes == sorted(spikes)


def test_steps_may_differ_between_sites():
    recipe = LAS(steps=6, extra_steps=2, site_steps={r"las\.p$": 4}, progress=False)
    report = recipe.apply(build("bert"), [inputs("bert")]).report
    steps = dict(zip(report.column("site"), report.column("steps"), strict=True))
    assert steps["encoder.layer.0.attention.self.query.site"] == 6
    assert steps["encoder.layer.0.attention.self.las.p"] == 4
    assert steps["encoder.layer.0.intermediate.dense.site"] == 8
    assert steps["encoder.layer.0.output.LayerNorm.before"] == 8


def test_a_target_chooses_the_steps():
    recipe = LAS(target_sqnr=40.0, progress=False)
    report = recipe.apply(build("bert"), [inputs("bert")]).report
    assert min(report.column("SQNR dB")) >= 40.0
    assert set(report.column("steps")) <= set(range(3, 10))
    assert "not reached" not in str(report)
    fewer = LAS(target_sqnr=25.0, progress=False).apply(build("bert"), [inputs("bert")]).report
    assert sum(fewer.column("steps")) < sum(report.column("steps"))


def test_what_misses_the_target_is_reported():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), torch.randn(64, 4)
    recipe = LAS(target_sqnr=140.0, site_steps={r"^0\.": 5}, progress=False)
    report = recipe.apply(model, [x]).report
    steps, sqnr = report.column("steps"), report.column("SQNR dB")
    assert steps[0] == 5
    (note,) = [note for note in report.notes if "target_sqnr" in note]
    assert f"140 dB not reached, {sqnr[0]:.1f} at the least: '0.site'" in note


def test_what_has_no_noise_reaches_every_target():
    recipe = LAS(target_sqnr=100.0, progress=False)
    report = recipe.apply(nn.Linear(2, 2), [torch.zeros(4, 2)]).report
    assert report.column("SQNR dB") == [None] and report.column("steps") == [1]


def test_norms_get_the_extra_steps_whatever_their_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    network = LAS(steps=6, extra_steps=3, progress=False).apply(model, [torch.randn(16, 4)])
    assert network.report.column("steps") == [6, 9] and network[1].steps == 9


def test_two_ranges_and_truncation_are_choices():
    losses = {}
    for ranges, rounding in ((3, "nearest"), (2, "nearest"), (2, "truncate")):
        recipe = LAS(steps=6, ranges=ranges, rounding=rounding, progress=False)
        network = recipe.apply(build("bert"), [inputs("bert")])
        losses[ranges, rounding] = network.report.layers.column("relative L2")[-1]
    assert losses[3, "nearest"] < losses[2, "nearest"] < losses[2, "truncate"]


# --- Plain torch --------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_torch_s_own_encoder_is_converted(activation, batch_first, norm_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        32, 4, 64, 0.0, activation, batch_first=batch_first, norm_first=norm_first
    )
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.randn(5, 7, 32)
    network = LAS(steps=10, progress=False).apply(model, [x])
    masks = {"mask": nn.Transformer.generate_square_subsequent_mask(7 if batch_first else 5)}
    assert 0 < relative(network(x), model(x)) < 0.005
    assert relative(network(x, **masks), model(x, **masks)) < 0.005
    set_form(network, "spikes")
    assert relative(network(x), model(x)) < 0.005


@torch.no_grad()
@pytest.mark.parametrize("separate", [False, True])
def test_torch_s_own_attention_is_converted(separate):
    torch.manual_seed(0)
    sizes = {"kdim": 16, "vdim": 24} if separate else {}

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(32, 4, batch_first=True, **sizes)

        def forward(self, q, k, v, padding):
            return self.attention(q, k, v, key_padding_mask=padding)

    q, k, v = (
        torch.randn(2, 5, 32),
        torch.randn(2, 6, sizes.get("kdim", 32)),
        torch.randn(2, 6, sizes.get("vdim", 32)),
    )
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    model = Net().eval()
    network = LAS(steps=11, progress=False).apply(model, [(q, k, v, padding)])
    for found, expected in zip(network(q, k, v, padding), model(q, k, v, padding), strict=True):
        assert relative(found, expected) < 0.005


# --- Errors ---------------------------------------------------------------------------------------


def plain(*layers):
    return nn.Sequential(nn.Linear(4, 4), *layers)


def test_modules_without_a_rule_are_taken_by_their_operations_unless_excluded():
    model = plain(nn.Hardswish(), nn.Linear(4, 4), nn.PReLU())
    network = LAS(progress=False).apply(model, [torch.randn(8, 4)])
    assert {"1.las_calls.mul_0.factor_0", "3.las_calls.relu_0.table"} <= set(
        dict(network.named_modules())
    )
    network = LAS(progress=False, exclude=["1", "3"]).apply(model, [torch.randn(8, 4)])
    assert isinstance(network[1], nn.Hardswish) and isinstance(network[2], Linear)
    with pytest.raises(ValueError, match="exclude: the model has no module '7'"):
        LAS(progress=False, exclude=["7"]).apply(model, [torch.randn(8, 4)])


def test_an_excluded_layer_stays_float():
    network = LAS(progress=False, exclude=["encoder.layer.0", "pooler"]).apply(
        build("bert"), [inputs("bert")]
    )
    assert type(network.encoder.layer[0].intermediate.dense) is nn.Linear
    assert isinstance(network.encoder.layer[1].intermediate.dense, Linear)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_activations_name_the_layer(bad):
    model = plain(nn.GELU(), nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"calibration: the input of 0\.site holds NaN"):
        LAS(progress=False).apply(model, [torch.full((2, 4), bad)])
    network = LAS(progress=False).apply(model, [torch.randn(8, 4)])
    with pytest.raises(ValueError, match=r"0\.site: the input holds NaN or infinity"):
        network(torch.full((2, 4), bad))


def test_values_beyond_the_range_are_counted_and_warned_of_once():
    network = LAS(progress=False).apply(plain(), [torch.randn(8, 4)])
    with pytest.warns(UserWarning, match=r"0\.site: .* saturate"):
        network(torch.full((2, 4), 1e3))
    network(torch.full((2, 4), 1e3))
    rows = saturation(network).as_dict()["rows"]
    # The eight calibration rows passed once, for the report.
    assert rows == [{"site": "0.site", "values": 48, "saturated": 16, "rate": 1 / 3}]


@pytest.mark.parametrize(
    "calibration, message",
    [
        ([], "calibration: holds no batch"),
        ([torch.zeros(0, 4)], r"calibration: a batch holds no sample, its shape is \(0, 4\)"),
        ([torch.zeros(4)], r"calibration: .* axis for its samples in front, got shape \(4,\)"),
        (torch.zeros(4), r"calibration: .* axis for its samples in front, got shape \(4,\)"),
    ],
)
def test_a_calibration_without_samples_is_refused(calibration, message):
    with pytest.raises(ValueError, match=message):
        LAS(progress=False).apply(plain(), calibration)


@pytest.mark.parametrize("model", [torch.relu, nn.Linear, None])
def test_what_is_no_module_is_refused(model):
    with pytest.raises(TypeError, match=r"model: must be a torch\.nn\.Module, got \w+"):
        LAS(progress=False).apply(model, [torch.randn(2, 4)])


def test_a_make_that_makes_no_module_is_refused_before_the_work():
    def batches():
        pytest.fail("read the calibration")
        yield

    for make, found in ((lambda neuron: neuron, "OAT"), ("norse", "'norse'")):
        with pytest.raises(TypeError, match=f"make: must .*{found}"):
            LAS(progress=False, make=make).apply(plain(), batches())


def test_a_pattern_that_fits_no_site_is_refused():
    recipe = LAS(site_steps={"site": 4, "nope": 3}, progress=False)
    with pytest.raises(ValueError, match=r"site_steps: 'nope' fits no site's name; .* '0\.site'"):
        recipe.apply(plain(), [torch.randn(8, 4)])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"steps": 0}, "steps must be in 1..24"),
        ({"steps": 23, "extra_steps": 2}, "steps must be in 1..24"),
        ({"site_steps": {"p": 25}}, r"site_steps\['p'\]: steps must be in 1..24"),
        ({"site_steps": {"(": 8}}, r"pattern '\(', which is no regular expression: missing"),
        ({"ranges": 9}, "ranges must be 2 to 8, got 9"),
        ({"rounding": "up"}, "rounding must be one of"),
        ({"headroom": 0.5}, "headroom must be at least 1"),
        ({"headroom": float("inf")}, "headroom must be at least 1, got inf"),
        ({"segments": 0}, "segments must be at least 1, got 0"),
        ({"target_sqnr": -5}, "target_sqnr must be in dB, above 0 and at most 144, .* got -5"),
        ({"target_sqnr": 500}, "target_sqnr must be in dB, above 0 and at most 144, .* got 500"),
        ({"target_sqnr": float("nan")}, "target_sqnr must be in dB, .* got nan"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        LAS(**settings)


def test_a_name_alone_is_no_list_of_names():
    with pytest.raises(TypeError, match="exclude must be a list of names"):
        LAS(exclude="pooler")
    with pytest.raises(TypeError, match=r"segments must be an int, got 2\.5"):
        LAS(segments=2.5)
    with pytest.raises(TypeError, match="site_steps must be a dict, got 6"):
        LAS(site_steps=6)
    with pytest.raises(ValueError, match="form must be one of"):
        convert.set_form(plain(), "fast")


def test_an_activation_is_a_table_of_its_own_range():
    network = LAS(steps=9, progress=False).apply(plain(nn.GELU()), [torch.randn(8, 4)])
    (activation,) = [m for m in network.modules() if isinstance(m, Activation)]
    assert activation.neuron.steps == 9
    assert pickle.loads(pickle.dumps(activation.neuron)).edges == activation.neuron.edges


def training(network):
    return [name for name, module in network.named_modules() if module.training]


@pytest.mark.parametrize("make", [None, spikeloom.SpikingLayer, plugins.norse.make])
def test_every_part_of_a_converted_network_is_in_eval_mode(make, tmp_path):
    model = build("bert").train()
    network = LAS(steps=4, progress=False, make=make).apply(model, [inputs("bert")])
    assert training(network) == []
    set_form(network, "decoded")
    network.save_pretrained(tmp_path)
    assert training(convert.load_las(tmp_path)) == []
    # Modules that are put into it later take its mode.
    set_form(network.train(), "spikes", make)
    assert all(module.training for module in network.modules())


def test_a_plain_converted_network_is_in_eval_mode():
    model = nn.Sequential(
        nn.TransformerEncoderLayer(16, 2, batch_first=True), nn.Linear(16, 8), nn.GELU()
    )
    network = LAS(steps=4, progress=False).apply(model, [torch.randn(4, 5, 16)])
    assert training(network) == []
