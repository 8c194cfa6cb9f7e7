"""Compression of converted transformers: what each projection feeds, and what is left."""

import contextlib

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import compress, convert, neurons
from spikeloom.rows import is_weight_layer
from spikeloom.verify import count_energy

transformers = pytest.importorskip("transformers")

# A residual connection reaches many membranes, whose amplitudes differ as the data do.
pytestmark = pytest.mark.filterwarnings("ignore:calibrate. .* feeds neurons of different decay")

T, B, LENGTH = 4, 3, 7
SIZES = {
    "bert": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    | {"intermediate_size": 24, "vocab_size": 50, "max_position_embeddings": 16},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 16},
    "bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 50}
    | {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24}
    | {"decoder_ffn_dim": 24, "max_position_embeddings": 16},
}


def spiking(kind, **settings):
    """A small converted model that has seen a batch, and the batch."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **SIZES[kind], attn_implementation="eager")
    model = transformers.AutoModel.from_config(config).eval()
    batch = {"input_ids": torch.randint(3, 50, (B, LENGTH))}
    batch["attention_mask"] = torch.ones(B, LENGTH, dtype=torch.long)
    snn = convert.SpikeLM(steps=T, **settings).apply(model, [batch])
    return snn.eval(), batch


def inputs_of(model, name, batch):
    """What a layer reads, ``[T, rows, inputs]``."""
    read = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, args: read.append(args[0]))
    model(**batch)
    hook.remove()
    return read[0].detach().double().unflatten(0, (T, -1)).flatten(1, -2)


def second_moment(x):
    """The Hessian by its definition, without a constant factor."""
    moment = torch.einsum("tni,tnj->ij", x, x)
    return moment / moment.trace()


@pytest.mark.parametrize("projection", ["query", "key", "value"])
def test_projections_of_attention_are_calibrated_on_the_spikes_that_enter_them(projection):
    model, batch = spiking("bert")
    name = f"encoder.layer.0.attention.self.{projection}"
    found = compress.calibrate(model, [batch])[name]
    hessian = found.spiking[0].hessian
    x = inputs_of(model, name, batch)
    torch.testing.assert_close(hessian / hessian.trace(), second_moment(x))
    neuron = None if projection == "query" else f"{name}.quantise.node"
    assert found.facts.neuron == neuron


@pytest.mark.parametrize("reset", ["released", "symmetric"])
def test_a_layer_in_front_of_a_membrane_is_filtered_as_the_silent_membrane_filters(reset):
    model, batch = spiking("bert", reset=reset)
    name = "encoder.layer.0.intermediate.dense"
    found = compress.calibrate(model, [batch])
    # A function lies between this layer and the next membrane.
    assert found[name].facts.neuron is None
    name = "encoder.layer.0.attention.output.dense"
    assert found[name].facts.neuron == "encoder.layer.0.intermediate.dense.spikes.node"
    site = model.get_submodule("encoder.layer.0.intermediate.dense.spikes")
    amplitude = torch.as_tensor(site.amplitude).mean() if reset == "released" else 1.0
    decay = 0.25 * amplitude
    y, kept = [], 0.0
    for step in inputs_of(model, name, batch):
        kept = decay * kept + step
        y.append(kept)
    hessian = found[name].spiking[0].hessian
    expected = second_moment(torch.stack(y).double())
    torch.testing.assert_close(hessian / hessian.trace(), expected, rtol=1e-4, atol=1e-6)
    assert found[name].facts.steps == T


# An encoder's last block ends in a mean over time, of which a decoder's membranes read every step.
AVERAGED = {"bart": ("encoder.layers.0.self_attn.out_proj", "encoder.layers.0.fc2")}


def test_a_layer_whose_steps_are_averaged_is_refused_with_what_to_state():
    model, batch = spiking("bart")
    with pytest.raises(ValueError, match=r"'encoder.layers.0.fc2': .* traces=.*Trace\(0\)"):
        compress.calibrate(model, [batch])


@pytest.mark.parametrize("kind", SIZES)
def test_every_weight_of_a_converted_model_is_pruned_quantised_and_counted(kind):
    model, batch = spiking(kind)
    before = count_energy(model, batch)
    traces = dict.fromkeys(AVERAGED.get(kind, ()), neurons.Trace(0.0))
    stats = compress.calibrate(model, [batch], traces=traces)
    names = [n for n, m in model.named_modules() if is_weight_layer(m)]
    called = [name for name in names if name not in ("pooler.dense",)]
    assert set(called) <= set(stats)
    compress.prune(model, stats, 0.5)
    compress.quantize(model, stats, 4)
    finished = compress.finish(model)
    for name in called:
        layer = finished.get_submodule(name)
        assert layer.weight_mask.any() and not layer.weight[layer.weight_mask].any()
    expected = model(**batch)[0]
    assert expected.isfinite().all()
    assert torch.equal(finished(**batch)[0], expected)
    after = count_energy(finished, batch)
    assert (after.steps, before.steps) == (T, T)
    assert after.macs + after.accumulates < before.macs + before.accumulates


@pytest.mark.parametrize("reset", ["released", "symmetric"])
def test_a_silent_membrane_is_the_filter_that_it_says_it_is(reset):
    alpha = torch.tensor([[0.5, 1.0, 2.0, 3.5]], dtype=torch.float64)
    neuron = neurons.ElasticBiSpike(alpha, decay=0.25, reset=reset)
    x = 0.05 * torch.rand(9, 2, 4, generator=torch.Generator().manual_seed(0)).double()
    spikes, (v,) = spikeloom.run(neuron, x)
    assert not spikes.any()
    filtered, _ = spikeloom.run(compress.linear_response(neuron).trace(), x)
    decay = 0.25 * (alpha if reset == "released" else torch.ones_like(alpha))
    torch.testing.assert_close(v, decay * filtered[-1])


def test_a_hook_that_only_scales_is_still_refused():
    net = nn.Sequential(nn.Linear(4, 3), spikeloom.SpikingLayer(neurons.LIF())).eval()
    net[0].register_forward_hook(lambda layer, args, y: 2 * y)
    with pytest.raises(ValueError, match="'0': puts out something else than its weight times"):
        compress.calibrate(net, [torch.ones(5, 2, 4)])


@pytest.mark.parametrize("alpha", [0.7, torch.tensor([[0.5, 1.5, 2.0, 0.3]])], ids=["one", "each"])
def test_amplitudes_merge_into_the_steps_of_a_grid_or_take_it_away(alpha):
    torch.manual_seed(0)
    layers = spikeloom.SpikingLayer(neurons.ElasticBiSpike(alpha)), nn.Linear(4, 3, bias=False)
    net, x = nn.Sequential(*layers).eval(), torch.randn(5, 2, 4)
    stats = compress.calibrate(net, [x])
    compress.prune(net, stats, 0.25)
    compress.quantize(net, stats, 4)
    is_one = isinstance(alpha, float)
    told = contextlib.nullcontext() if is_one else pytest.warns(UserWarning, match="'1' takes a")
    with told:
        merged = convert.merge_amplitude(net)
    torch.testing.assert_close(merged(x), net(x))
    layer = merged[1]
    assert not layer.weight[net[1].weight_mask].any()
    if is_one:
        assert torch.equal(layer.weight_codes, net[1].weight_codes)
        assert torch.equal(layer.weight, layer.weight_scale[:, None] * layer.weight_codes)
    else:
        assert not hasattr(layer, "weight_codes") and not hasattr(layer, "weight_scale")
