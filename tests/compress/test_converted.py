"""Converted networks, compressed: what really enters their weights is what is calibrated on."""

import copy

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import compress, convert, neurons
from spikeloom.verify import count_energy


class Net(nn.Module):
    """A residual network with norms, a gate, a softmax that is a call, and two readers of x."""

    def __init__(self):
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(8, 12)
        self.act, self.out = nn.GELU(), nn.Linear(12, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        y = self.norm(x)
        x = x + self.out(self.act(self.one(y)) * self.two(y))
        return self.head(torch.softmax(x @ x.transpose(-2, -1), -1) @ x)


LAYERS = ("one", "two", "out", "head")


def analog():
    """A network and its inputs ``[batch, places, features]``."""
    torch.manual_seed(0)
    x = torch.randn(40, 5, 4) @ torch.randn(4, 8) + 0.3 * torch.randn(40, 5, 8)
    return Net().eval(), x / 2


def las(**settings):
    net, x = analog()
    return convert.LAS(progress=False, **settings).apply(net, [x]), x


def second_moment(rows):
    """Twice the mean square of rows, in float64."""
    rows = rows.double().flatten(0, -2)
    return 2 * rows.T @ rows / len(rows)


def test_layers_of_las_are_calibrated_on_the_spikes_that_enter_them():
    snn, x = las(steps=4)  # few, so that spikes differ from values
    stats = compress.calibrate(snn, [x])
    assert set(stats) == set(LAYERS)
    read = {}
    for name in LAYERS:
        layer = snn.get_submodule(name)
        layer.register_forward_pre_hook(lambda _, args, name=name: read.update({name: args[0]}))
    snn(x)
    for name in LAYERS:
        entered = snn.get_submodule(name).site.spikes(read[name].detach()).double().sum(0)
        found, expected = stats[name].spiking[0].hessian, second_moment(entered)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert (expected - second_moment(read[name])).abs().max() > 1e-3
        assert stats[name].facts.decays == "0"


def test_calibration_leaves_no_trace_in_a_converted_network():
    snn, x = las(steps=4)
    expected = snn(x)
    seen = {n: m.watch.values for n, m in snn.named_modules() if hasattr(m, "watch")}
    passes = 4  # two to see where data go, one to confirm where steps are, one to collect
    compress.calibrate(snn, [x])
    assert torch.equal(snn(x), expected)
    once = {n: v // 2 for n, v in seen.items()}  # of the conversion's comparison and the call above
    for name, module in snn.named_modules():
        if hasattr(module, "watch"):
            assert (module.watch.values - seen[name]) % once[name] == 0
            assert module.watch.values - seen[name] <= (passes + 1) * once[name]


@pytest.mark.parametrize("method", ["osbc", "magnitude"])
def test_layers_of_las_are_pruned_and_quantised_in_both_of_their_forms(method):
    snn, x = las()
    stats = compress.calibrate(snn, [x])
    dense = {name: snn.get_submodule(name).weight.detach().clone() for name in LAYERS}
    compress.prune(snn, stats, 0.5, method)
    if method == "osbc":
        compress.quantize(snn, stats, 8)
    done = compress.finish(snn)
    assert torch.equal(done(x), snn(x))
    removed = sum(int((done.get_submodule(name).weight == 0).sum()) for name in LAYERS)
    assert removed >= sum(W.numel() for W in dense.values()) // 2
    convert.set_form(done, "spikes")
    torch.testing.assert_close(done(x), snn(x), rtol=1e-3, atol=1e-3)


def test_compensation_keeps_a_converted_network_nearer_than_removal_alone():
    snn, x = las()
    stats = compress.calibrate(snn, [x])
    expected, away = snn(x).detach(), {}
    for method in ("osbc", "magnitude"):
        small = copy.deepcopy(snn)
        compress.prune(small, stats, 0.5, method)
        away[method] = float((small(x).detach() - expected).norm())
    assert away["osbc"] < 0.8 * away["magnitude"]


def test_attention_and_mlp_of_a_language_model_are_compressed_after_las():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=16, n_layer=1, n_head=2, vocab_size=50, n_positions=16, attn_implementation="eager"
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    batch = {"input_ids": torch.randint(50, (4, 9))}
    snn = convert.LAS(progress=False).apply(model, [batch])
    names = [f"transformer.h.0.{end}" for end in ("attn.c_attn", "attn.c_proj", "mlp.c_fc")]
    stats = compress.calibrate(snn, [batch], layers=names)
    compress.prune(snn, stats, 0.5)
    assert snn(**batch).logits.isfinite().all()
    for name in names:
        assert snn.get_submodule(name).weight_mask.any()


def signgd(steps=24):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 8), nn.LayerNorm(8))
    net = net.append(nn.Linear(8, 3)).eval()
    x = torch.randn(32, 6)
    return convert.SignGD(steps, progress=False).apply(net, x), x


def test_layers_of_signgd_are_calibrated_on_the_estimates_that_enter_them():
    snn, x = signgd()
    layers, over_time = snn.as_layers(), snn.over_time(x)
    stats = compress.calibrate(layers, [over_time])
    assert set(stats) == {"0", "2", "4"}
    read = {}
    for name in stats:
        layer = layers.get_submodule(name)
        layer.register_forward_pre_hook(lambda _, args, name=name: read.update({name: args[0]}))
    layers(over_time)
    for name, layer in stats.items():
        hessian, expected = layer.spiking[0].hessian, second_moment(read[name])
        torch.testing.assert_close(
            hessian / hessian.trace(), expected / expected.trace(), rtol=1e-5, atol=1e-7
        )
        assert layer.facts.decays == "0"


def test_what_is_pruned_in_the_layers_is_pruned_in_the_network():
    snn, x = signgd()
    layers, over_time = snn.as_layers(), snn.over_time(x)
    stats = compress.calibrate(layers, [over_time])
    compress.prune(layers, stats, 0.5)
    compress.quantize(layers, stats, 8)
    assert torch.equal(layers(over_time)[-1], snn(x))
    zeros = sum(int((p == 0).sum()) for p in snn.parameters() if p.dim() == 2)
    assert zeros >= (6 * 16 + 16 * 8 + 8 * 3) // 2
    done = compress.finish(layers)
    assert torch.equal(done(over_time)[-1], snn(x))
    report = count_energy(done, over_time)
    assert set(filter(None, report.column("bits"))) == {8}


def test_a_sign_tracker_follows_its_input_without_memory_of_it():
    tracker = neurons.SignTracker([1.0, 0.5, 0.25], steps=3)
    response = compress.linear_response(tracker)
    assert (response.decay, response.synaptic_decay, response.gain) == (0.0, None, 1.0)
    filtered, _ = spikeloom.run(response.trace(), torch.ones(3, 1))
    assert torch.equal(filtered, torch.ones(3, 1))


def test_layers_of_signgd_have_the_mode_of_their_network():
    snn, _ = signgd(8)
    assert not any(module.training for module in snn.as_layers().modules())


def test_a_network_of_operators_is_refused_with_both_orders_that_work():
    snn, x = signgd(8)
    with pytest.raises(ValueError, match=r"before its conversion, or .*as_layers\(\)"):
        compress.calibrate(snn, [x])
