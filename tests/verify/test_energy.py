"""Operation counts against counts by hand, SpikingJelly's counters and the gathering run."""

import copy
import json
import math
from collections import UserDict

import pytest
import torch
from spikingjelly.activation_based.neuron import LIFNode
from torch import nn
from torch.nn.utils import prune

import spikeloom
from spikeloom import compress, convert, neurons
from spikeloom.calibrate import Batch
from spikeloom.plugins.snntorch import Leaky
from spikeloom.verify import EnergyCosts, check_mfi, count_energy, fold_norms
from tests.models.spiking_mlp.cases import image, small, wake

# A synapse of this weight exists, and makes no neuron fire.
TINY = 2.0**-20


def lif(**settings) -> spikeloom.SpikingLayer:
    return spikeloom.SpikingLayer(neurons.LIF(**settings))


def two_layers() -> nn.Module:
    """Threshold 1, no leak: an input of 1 fires at once, an input of 0 never."""
    integrate = spikeloom.SpikingLayer(neurons.IF())
    model = nn.Sequential(nn.Linear(3, 3), integrate, nn.Linear(3, 5)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3) + TINY)
        model[0].bias.zero_()
    return model


def test_counts_by_hand():
    x = torch.tensor([[[1.0, 0, 1]], [[0, 0, 1]]])  # T=2, one sample, three spikes
    report = count_energy(two_layers(), x)
    assert (report.steps, report.spikes, report.rate) == (2, 3.0, 0.5)
    assert report.accumulates == 3 * 5
    assert report.dense == 2 * 3 * 5
    assert report.macs == 2 * 3 * 3
    assert report.twin_macs == 3 * 3 + 3 * 5
    assert report.additions == 2 * 3  # v + x
    assert report.rescales == 0
    assert report.active == 0.5
    assert report.proxy == pytest.approx(4.6 * 18 + 0.9 * (15 + 6))
    assert report.twin_proxy == pytest.approx(4.6 * 24)
    assert report.proxy_break_even == pytest.approx((4.6 * 24 - 4.6 * 18 - 0.9 * 6) / (0.9 * 30))
    event = 0.9 + 12 * 24.96
    memory = (4.6 + 8 * 24.96) * 18 + 0.9 * 6 + 8 * 24.96 * 6 + event * 15
    assert report.memory == pytest.approx(memory)
    assert report.memory_break_even == pytest.approx(
        ((4.6 + 8 * 24.96) * 24 - memory + event * 15) / (event * 30)
    )


def test_at_the_break_even_rate_both_networks_cost_the_same():
    report = count_energy(two_layers(), torch.ones(4, 2, 3))
    spent = report.proxy - 0.9 * report.accumulates + 0.9 * report.proxy_break_even * report.dense
    assert spent == pytest.approx(report.twin_proxy)


def test_zeros_of_the_padding_are_no_spikes():
    model = nn.Sequential(nn.Flatten(0, 1), nn.Conv2d(1, 2, 3, padding=1)).eval()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spike, self.tail = lif(decay_input=False), model

        def forward(self, x):
            return self.tail(self.spike(x)).unflatten(0, x.shape[:2])

    report = count_energy(Net().eval(), 2 * torch.ones(1, 1, 1, 3, 3))
    # Every position spikes; corners are used 4 times, edges 6 times, the centre 9 times.
    assert report.accumulates == 2 * (4 * 4 + 4 * 6 + 9)
    assert report.dense == report.accumulates


def test_accumulates_equal_spikingjellys_counter_and_the_gathering_run():
    from spikingjelly.activation_based import op_counter

    model, x = fold_norms(wake(small()).eval()), image(3, 1, 8, 8, dtype=torch.float32)
    report = count_energy(model, x)
    counter = op_counter.SynOpCounter()
    with op_counter.DispatchCounterMode([counter]), torch.no_grad():
        model(x)
    layers = dict(zip(report.column("module"), report.column("AC"), strict=True))
    # The head sees counts 0..4, which SpikingJelly's counter takes for real values.
    assert sum(ac for name, ac in layers.items() if ac and name != "head.3") == pytest.approx(
        counter.get_total() / 3
    )
    assert report.accumulates == pytest.approx(check_mfi(model, x).accumulates / 3)


def test_a_constant_image_costs_its_stem_once():
    model, x = fold_norms(wake(small()).eval()), image(3, 1, 8, 8, dtype=torch.float32)
    once, every = count_energy(model, x), count_energy(model, x.repeat(4, 1, 1, 1, 1))
    assert once.macs == 8 * 8 * 6
    assert every.macs == 4 * once.macs
    assert once.twin_macs == every.twin_macs
    assert once.accumulates == every.accumulates


def test_unfolded_norms_are_rescales():
    x = image(3, 1, 8, 8, dtype=torch.float32)
    token = fold_norms(wake(small(bn_axis="token")).eval())
    assert count_energy(token, x).rescales == 4 * (6 * 16 + 12 * 4)
    assert count_energy(fold_norms(wake(small()).eval()), x).rescales == 0
    assert count_energy(wake(small()).eval(), x).rescales > 0


def test_the_firing_rate_weighs_neurons_not_layers():
    model = nn.Sequential(
        nn.Linear(2, 30), lif(decay_input=False), nn.Linear(30, 2), lif(decay_input=False)
    ).eval()
    with torch.no_grad():
        model[0].weight.fill_(-TINY)
        model[0].bias.fill_(2.0)
        model[2].weight.fill_(-TINY)
        model[2].bias.fill_(0.0)
    report = count_energy(model, torch.ones(3, 1, 2))
    assert report.rate == 30 / 32
    assert [rate for rate in report.column("rate") if rate is not None] == [1.0, 1.0, 0.0]


def test_costs_may_be_chosen():
    free = EnergyCosts(byte=0.0, ac=1.0, mac=2.0)
    report = count_energy(two_layers(), torch.ones(2, 1, 3), costs=free)
    assert report.memory == report.proxy
    assert report.twin_proxy == 2.0 * report.twin_macs


def test_a_silent_network_costs_its_stem_and_its_neurons():
    report = count_energy(two_layers(), torch.zeros(2, 1, 3))
    assert (report.spikes, report.accumulates, report.active) == (0, 0, 0)
    assert report.macs == 18


def test_the_report_prints_saves_and_plots(tmp_path):
    report = count_energy(two_layers(), torch.ones(2, 1, 3))
    assert "break-even" in str(report)
    assert "Proxy" in str(report)
    report.save(tmp_path / "energy.json")
    saved = json.loads((tmp_path / "energy.json").read_text())
    assert saved["accumulates"] == report.accumulates
    assert saved["costs"]["mac"] == 4.6
    assert [row["module"] for row in saved["rows"]] == ["0", "1", "2"]
    report.plot(path=tmp_path / "energy.png")
    assert (tmp_path / "energy.png").stat().st_size > 1000


def test_a_break_even_below_zero_is_none():
    dear = nn.Sequential(nn.Linear(3, 3), lif(), nn.Linear(3, 1)).eval()
    report = count_energy(dear, torch.ones(8, 1, 3))
    assert report.proxy_break_even < 0 and report.memory_break_even < 0
    assert str(report).count("break-even never: it costs more even without a spike") == 2
    assert "break-even at" not in str(report)


def test_a_network_without_spike_driven_layers_has_no_break_even():
    report = count_energy(nn.Sequential(nn.Linear(3, 3), lif()).eval(), torch.ones(2, 1, 3))
    assert str(report).count("no layer is driven by spikes") == 2
    assert "nan" not in str(report)


class After(nn.Module):
    """Two layers, and what becomes of their output ``[T, batch, 5]``."""

    def __init__(self, then) -> None:
        super().__init__()
        self.body, self.then = two_layers(), then

    def forward(self, x):
        return self.then(self.body(x))


@pytest.mark.parametrize(
    "then",
    [lambda y: y.mean(0), lambda y: y.sum((1, 2)), lambda y: y.transpose(0, 1), lambda y: y[-1:]],
    ids=["mean over time", "sum", "batch first", "last step"],
)
def test_steps_and_samples_are_those_of_the_neurons_whatever_the_output(then):
    x = torch.ones(4, 3, 3)
    report, expected = count_energy(After(then).eval(), x), count_energy(two_layers(), x)
    assert (report.steps, report.spikes, report.rate) == (4, 12.0, 1.0)
    for number in ("accumulates", "macs", "dense", "twin_macs"):
        assert getattr(report, number) == getattr(expected, number), number


def test_steps_may_be_calls_of_the_layers():
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.neuron, self.last = nn.Linear(3, 3), Leaky(0.5), nn.Linear(3, 5)
            self.neuron.init_hidden = True

        def forward(self, x):
            return torch.stack([self.last(self.neuron(self.first(now))) for now in x]).mean(0)

    model = Loop().eval()
    with torch.no_grad():
        model.first.weight.copy_(2 * torch.eye(3) + TINY)
        model.first.bias.zero_()
    report = count_energy(model, torch.ones(4, 2, 3))
    assert (report.steps, report.spikes, report.rate) == (4, 12.0, 1.0)
    assert report.macs == 4 * 9 and report.twin_macs == 9 + 15
    assert report.accumulates == report.dense == 4 * 15


def test_neurons_that_see_different_axes_need_steps_and_batch_said():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = lif(), lif()

        def forward(self, x):
            return self.two(self.one(x).flatten(1, 2)).mean(0)

    x = torch.ones(4, 3, 2, 5)
    with pytest.raises(ValueError, match=r"\(6, 5\), neurons see T=4 of 3 .*T=4 of 6 .*say"):
        count_energy(Net().eval(), x)
    report = count_energy(Net().eval(), x, steps=4, batch=3)
    assert (report.steps, report.rate) == (4, 0.0)


@pytest.mark.parametrize("shape", [(4, 2, 7, 3), (4, 2, 3)], ids=["tokens", "no tokens"])
def test_the_twin_runs_a_layer_once_for_every_token(shape):
    report = count_energy(two_layers(), torch.ones(shape))
    tokens = shape[2] if len(shape) == 4 else 1
    assert report.macs == 4 * tokens * 9
    assert report.twin_macs == tokens * (9 + 15)


def test_a_weight_on_the_left_meets_each_unit_once_for_every_row():
    class Left(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.neuron = spikeloom.SpikingLayer(neurons.IF())
            self.weight = nn.Parameter(torch.randn(7, 5))

        def forward(self, x):
            spikes = self.neuron(x)
            return torch.stack([self.weight @ now[0] for now in spikes])[:, None]

    report = count_energy(Left().eval(), torch.ones(3, 1, 5, 6))
    assert report.accumulates == report.dense == 3 * 7 * 5 * 6


def test_a_module_may_multiply_spikes_and_real_values():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.neuron = spikeloom.SpikingLayer(neurons.IF())

        def forward(self, x):
            q = self.neuron(x)
            return (q @ q.transpose(-1, -2)) @ q

    report = count_energy(Attention().eval(), torch.ones(3, 1, 5, 6))
    assert report.accumulates == report.dense == 3 * 5 * 5 * 6
    assert report.macs == 3 * 5 * 5 * 6  # products of spikes are not followed as whole numbers
    assert report.active == 1.0


def test_the_products_of_fused_kernels_are_counted():
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.neuron = nn.LSTM(6, 5), lif()

        def forward(self, x):
            y = self.recurrent(x)[0][:, :, None, None].expand(-1, -1, 1, 7, -1)
            y = nn.functional.scaled_dot_product_attention(*3 * (y.flatten(0, 1),))
            return self.neuron(y.unflatten(0, x.shape[:2]))

    T = 4
    report = count_energy(Fused().eval(), torch.randn(T, 3, 6))
    # The first step multiplies no hidden state: it is zero whatever the sample.
    recurrent = T * 20 * 6 + (T - 1) * 20 * 5
    attention = T * 2 * 7 * 7 * 5
    assert report.macs == recurrent + attention


def test_zeros_and_copies_around_a_map_are_no_real_values():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.neuron = spikeloom.SpikingLayer(neurons.IF())
            self.conv = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")

        def forward(self, x):
            return self.conv(self.neuron(x).flatten(0, 1)).unflatten(0, x.shape[:2])

    report = count_energy(Net().eval(), torch.ones(2, 1, 1, 4, 4))
    assert report.accumulates == report.dense == 2 * 16 * 9 * 2
    assert report.macs == 0


def test_spikes_of_another_frameworks_neurons_are_not_taken_for_none():
    model = nn.Sequential(nn.Linear(3, 3), LIFNode(step_mode="m"), nn.Linear(3, 5)).eval()
    with torch.no_grad():
        model[0].weight.copy_(4 * torch.eye(3))
        model[0].bias.zero_()
    report = count_energy(model, torch.ones(2, 1, 3))
    assert math.isnan(report.spikes) and math.isnan(report.rate)
    assert "No neuron of spikeloom ran" in str(report) and "nan" not in str(report)
    assert report.accumulates == 2 * 3 * 5
    assert json.loads(report.to_json())["spikes"] is None


def test_a_network_without_neurons_needs_its_batch_said():
    model = nn.Sequential(nn.Linear(3, 3), nn.Flatten(0))
    with pytest.raises(ValueError, match=r"output has the shape \(6,\), neurons see nothing; say"):
        count_energy(model.eval(), torch.ones(2, 1, 3))
    assert count_energy(model.eval(), torch.ones(2, 1, 3), steps=2, batch=1).macs == 18


@pytest.mark.parametrize("shape", [(16, 3), (16, 5, 3)], ids=["features", "tokens"])
def test_samples_of_a_network_without_spikes_are_not_taken_for_steps(shape):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with pytest.raises(ValueError, match=r"neurons see nothing; say how many.*steps=, batch="):
        count_energy(model, torch.ones(shape))
    tokens = math.prod(shape[1:-1])
    report = count_energy(model, torch.ones(shape), steps=1, batch=16)
    assert report.macs == report.twin_macs == tokens * (3 * 4 + 4 * 2)


def test_classes_are_not_taken_for_samples_where_another_frameworks_steps_are_summed():
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.neuron, self.b = nn.Linear(3, 3), LIFNode(step_mode="m"), nn.Linear(3, 5)

        def forward(self, x):
            return self.b(self.neuron(self.a(x))).sum(0)

    with pytest.raises(ValueError, match=r"\(4, 5\), neurons see nothing; say how many"):
        count_energy(Summed().eval(), torch.ones(2, 4, 3))


def test_the_products_of_torchs_own_attention_are_counted():
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attend(x, x, x, need_weights=False)[0]

    projections, scores_and_values = 4 * 3 * 8 * 8, 2 * 3 * 3 * 8
    report = count_energy(Attends().eval(), torch.randn(5, 3, 8), steps=1, batch=5)
    assert report.macs == projections + scores_and_values
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    report = count_energy(layer, torch.randn(5, 3, 8), steps=1, batch=5)
    assert report.macs == projections + scores_and_values + 2 * 3 * 8 * 16


@pytest.mark.parametrize("function", [torch.addbmm, torch.baddbmm], ids=lambda f: f.__name__)
def test_every_product_of_a_batch_of_matrices_is_counted(function):
    x, start = torch.rand(5, 2, 6), torch.zeros(2, 2)
    report = count_energy(Apply(lambda x: function(start, x, x.mT)).eval(), x, steps=1, batch=1)
    assert report.macs == 5 * 2 * 6 * 2


class Named(nn.Module):
    """A model whose inputs have names and defaults, as those of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = two_layers()

    def forward(self, x=None, gain=None, labels=None):
        return self.body(x if gain is None else x + gain)


@pytest.mark.parametrize("form", [dict, UserDict, lambda **names: Batch((), names)])
def test_a_sample_may_be_arguments_by_name(form):
    x = torch.tensor([[[1.0, 0, 1]], [[0, 0, 1]]])
    expected = count_energy(two_layers(), x)
    report = count_energy(Named().eval(), form(x=x, gain=torch.zeros(3)))
    for number in ("steps", "spikes", "accumulates", "macs", "dense"):
        assert getattr(report, number) == getattr(expected, number), number


def test_the_samples_of_a_list_of_mappings_are_all_counted():
    model = two_layers()
    x = torch.rand(4, 7, 3, generator=torch.Generator().manual_seed(0)).round()
    whole = count_energy(model, {"input": x})
    parts = count_energy(model, [{"input": x[:, :5]}, UserDict(input=x[:, 5:])])
    assert whole.spikes > 0
    assert parts.column("AC") == pytest.approx(whole.column("AC"), nan_ok=True)
    for name, value in whole.as_dict().items():
        if isinstance(value, float):
            assert getattr(parts, name) == pytest.approx(value), name


def test_batches_of_different_steps_are_counted_apart():
    batches = [{"input": torch.ones(steps, 2, 3)} for steps in (4, 5)]
    with pytest.raises(ValueError, match="its batches have 4 and 5 steps; count them apart"):
        count_energy(two_layers(), batches)


def test_labels_behind_a_sample_are_left_out():
    x, labels = torch.ones(2, 1, 3), torch.tensor([1])
    assert count_energy(two_layers(), (x, labels)).macs == 2 * 9


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="training mode"):
        count_energy(small(), image(1, 1, 8, 8))


def test_a_pruned_network_is_counted_and_proved_as_one_with_its_weights():
    torch.manual_seed(0)
    lif = spikeloom.SpikingLayer(neurons.LIF(v_threshold=0.3))
    net = nn.Sequential(
        nn.Linear(6, 16), lif, nn.Linear(16, 4), spikeloom.SpikingLayer(neurons.IF())
    )
    x = 3 * torch.rand(5, 8, 6)
    compress.prune(net.eval(), compress.calibrate(net, [x]), sparsity=0.5)
    plain = copy.deepcopy(net)
    for layer in (plain[0], plain[2]):
        layer._forward_pre_hooks.clear()
    assert str(count_energy(net, x)) == str(count_energy(plain, x))
    found = check_mfi(net, x)
    assert found.ok and str(found) == str(check_mfi(plain, x))


@pytest.mark.parametrize("name", ["steps", "batch"])
@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError)])
def test_steps_and_samples_are_at_least_one(name, value, error):
    net = nn.Sequential(nn.Linear(6, 4), spikeloom.SpikingLayer(neurons.IF())).eval()
    with pytest.raises(error, match=rf"{name}: must be .*, got {value}"):
        count_energy(net, torch.rand(5, 2, 6), **{name: value})


def test_a_sample_of_another_precision_is_named():
    net = nn.Sequential(nn.Linear(6, 4), spikeloom.SpikingLayer(neurons.IF())).eval()
    with pytest.raises(ValueError, match=r"'0' meets float32 and float64; .* sample\.to\("):
        count_energy(net, torch.rand(5, 2, 6).double())


@pytest.mark.parametrize("verified", [check_mfi, count_energy, lambda net, x: fold_norms(net)])
def test_a_model_that_cannot_be_copied_is_refused_with_the_remedy(verified):
    net = nn.Sequential(nn.Linear(6, 4), spikeloom.SpikingLayer(neurons.IF())).eval()
    prune.l1_unstructured(net[0], "weight", 0.5)
    with pytest.raises(ValueError, match=r"model: cannot be copied; .*prune\.remove"):
        verified(net, torch.rand(5, 2, 6))


@torch.library.custom_op("energy_test::product", mutates_args=())
def product(x: torch.Tensor) -> torch.Tensor:
    return x @ x.mT


class Apply(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: product(x).abs(), "energy_test::product"),
        (lambda x: torch.fft.fft(x).abs(), "_fft_r2c"),
        (lambda x: torch.linalg.inv(x @ x.mT + torch.eye(2)), "linalg_inv_ex"),
        (
            lambda x: torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist"),
            "_cdist_forward",
        ),
        (lambda x: nn.functional.bilinear(x, x, torch.rand(2, 6, 6)), "_trilinear"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_products_inside_of_an_operation_that_is_not_known_are_said_to_be_missing(function, name):
    spikes, x = spikeloom.SpikingLayer(neurons.IF()), torch.rand(5, 2, 6)
    said = str(count_energy(nn.Sequential(Apply(function), spikes).eval(), x))
    assert f"Products inside {name} of '0'" in said
    assert "Products inside" not in str(count_energy(nn.Sequential(spikes).eval(), x))


def converted_by_las():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.LayerNorm(10), nn.Linear(10, 3)).eval()
    x = torch.randn(24, 6)
    return convert.LAS(progress=False).apply(net, [x]), x


def test_a_network_converted_by_las_is_counted_without_being_told_of_steps():
    snn, x = converted_by_las()
    report = count_energy(snn, x)
    assert (report.steps, report.macs, report.twin_macs) == (1, 6 * 10 + 10 * 3, 6 * 10 + 10 * 3)
    rows = dict(zip(report.column("module"), report.column("spikes"), strict=True))
    assert rows["0.site"] == 6  # a value of each input
    assert any("take complete values, each of which counts as one" in n for n in report.notes)


def test_a_transformer_converted_by_las_is_counted_without_being_told_of_steps():
    transformers = pytest.importorskip("transformers")
    size = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12, "vocab_size": 30}
    config = transformers.BertConfig(**size, num_hidden_layers=1, attn_implementation="eager")
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    batch = {"input_ids": torch.randint(30, (3, 6))}
    report = count_energy(convert.LAS(progress=False).apply(model, [batch]), batch)
    projections = 6 * (4 * 8 * 8 + 2 * 8 * 12)
    assert (report.steps, report.macs) == (1, projections + 2 * 6 * 6 * 8)


def test_spikes_of_las_one_by_one_are_refused_with_the_form_that_is_counted():
    snn, x = converted_by_las()
    convert.set_form(snn, "spikes")
    with pytest.raises(ValueError, match=r"'0' takes a .*set_form\(model, 'decoded'\)"):
        count_energy(snn, x)
