"""The proofs of multiplication freedom: what they accept, what they reject and whom they blame."""

import json
from collections import UserDict

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import neurons
from spikeloom.calibrate import Batch
from spikeloom.models import SpikingMLP
from spikeloom.plugins.spikingjelly import LIFNode
from spikeloom.verify import check_mfi, count_energy, fold_norms
from tests.models.spiking_mlp.cases import image, small, wake


def lif(**settings) -> spikeloom.SpikingLayer:
    return spikeloom.SpikingLayer(neurons.LIF(**settings))


def dense(*modules: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*modules).eval()


def currents(*shape: int) -> torch.Tensor:
    return 4 * torch.rand(*shape, generator=torch.Generator().manual_seed(2))


def folded(**changes) -> SpikingMLP:
    return fold_norms(wake(small(**changes)).eval())


def sample() -> torch.Tensor:
    return image(2, 1, 8, 8, dtype=torch.float32)


# --- Accepted --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"depths": (2, 1)},
        {"patch_encoding": "conv"},
        {"image_size": (8, 12)},
        {"in_channels": 3},
    ],
    ids=str,
)
def test_the_folded_channel_network_is_multiplication_free(changes):
    model = folded(**changes)
    x = image(2, model.in_channels, *model.image_size, dtype=torch.float32)
    report = check_mfi(model, x)
    assert report.ok, report
    assert report.violations == []
    assert report.proofs == {"static": True, "guarded": True, "equal": True}
    assert report.difference < 1e-12
    assert report.exempt == ["stages.0.embed.weight"]
    assert report.multiplications == 0
    assert report.exempt_multiplications == 2 * x[0].numel() * model.dim
    assert report.accumulates > 0
    assert not {"mm", "bmm", "convolution", "mul", "mean"} & set(report.operations)


def test_gains_folded_into_the_weights_stay_free():
    model = fold_norms(wake(small()).eval(), gains=True)
    assert check_mfi(model, sample()).ok


@pytest.mark.parametrize(
    "neuron",
    [
        neurons.LIF(tau=4.0),
        neurons.LIF(v_reset=None),
        neurons.LIF(decay_input=False, v_reset=-0.5),
        neurons.IF(),
        neurons.Leaky(0.5),
        neurons.Leaky(0.75, reset_mechanism="zero"),
        neurons.LIFBox(tau_mem_inv=500.0, dt=0.001),
    ],
    ids=str,
)
def test_neurons_whose_leak_is_a_shift_are_free(neuron):
    model = dense(nn.Linear(4, 16), spikeloom.SpikingLayer(neuron), nn.Linear(16, 3))
    report = check_mfi(model, currents(6, 2, 4))
    leak = getattr(neuron, "params", {}).get("beta")
    assert report.ok == (leak != 0.75), report
    assert report.violations == ([] if report.ok else ["1"])


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.AvgPool2d(2, divisor_override=1),
        nn.ZeroPad2d(1),
        nn.ReflectionPad2d(1),
        nn.ReplicationPad2d(1),
    ],
    ids=str,
)
def test_layers_that_keep_whole_numbers_are_free(pool):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.spike, self.pool = nn.Conv2d(2, 4, 3), lif(), pool
            self.conv = nn.Conv2d(4, 3, 3, padding=1, stride=2, dilation=1, groups=1)

        def forward(self, x):
            s = self.spike(self.stem(x.flatten(0, 1)).unflatten(0, x.shape[:2]))
            return self.conv(self.pool(s.flatten(0, 1)))

    torch.manual_seed(1)
    report = check_mfi(Net().eval(), currents(3, 2, 2, 8, 8))
    assert report.ok, report
    assert report.accumulates > 0


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2),
        nn.Conv2d(4, 4, (3, 1), stride=(2, 1), groups=4, bias=False),
        nn.Conv1d(4, 6, 3, padding=1, stride=2),
        nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect"),
        nn.Conv3d(4, 2, 2),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        nn.ConvTranspose2d(4, 2, (3, 2), dilation=2, bias=False),
        nn.ConvTranspose2d(4, 2, 2, stride=3, padding=1),
        nn.ConvTranspose1d(4, 3, 3, stride=2),
        nn.ConvTranspose3d(4, 2, 2, stride=2),
    ],
    ids=str,
)
def test_the_gathering_run_equals_every_convolution(conv):
    dims = conv.weight.dim() - 2
    model = dense(nn.Identity(), lif(), nn.Flatten(0, 1), conv)
    report = check_mfi(model, currents(3, 2, 4, *(6, 7, 5)[:dims]), exempt=())
    assert report.ok, report
    assert report.accumulates > 0
    assert report.difference < 1e-12
    assert (
        report.accumulates
        == 2 * count_energy(model, currents(3, 2, 4, *(6, 7, 5)[:dims])).accumulates
    )


def test_a_gathering_run_that_differs_is_no_proof(monkeypatch):
    from spikeloom.verify.gather import Gathering

    correct = Gathering._gather
    monkeypatch.setattr(Gathering, "_gather", lambda self, x, w: 1.001 * correct(self, x, w))
    report = check_mfi(folded(), sample())
    assert report.proofs == {"static": True, "guarded": False, "equal": False}


def test_spikes_added_to_spikes_are_whole_numbers():
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.fc, self.b = nn.Linear(4, 8), lif(), nn.Linear(8, 8), lif()
            self.last = nn.Linear(8, 2)

        def forward(self, x):
            s = self.a(self.stem(x))
            return self.last(s + self.b(self.fc(s)) - s * 2)

    torch.manual_seed(0)
    report = check_mfi(Skip().eval(), currents(8, 3, 4))
    assert report.ok, report
    assert (
        dict(zip(report.column("module"), report.column("input"), strict=True))["last"] == "-2..2"
    )


def test_a_programs_operations_are_counted():
    model = dense(nn.Identity(), lif())
    report = check_mfi(model, currents(4, 2, 3))
    elements = 4 * 2 * 3
    # v + (x - v) / 2: two additions; the comparison with the threshold is no further one.
    assert report.additions == elements * 2
    assert report.comparisons == elements
    assert report.multiplications == 0


# --- Rejected, with the culprit ---------------------------------------------------------------


def test_the_token_network_is_rejected_at_its_down_projection():
    report = check_mfi(folded(bn_axis="token"), sample())
    assert not report.ok
    assert report.violations == [f"stages.{i}.blocks.0.channel.down.1" for i in range(2)]
    assert not report.proofs["static"]
    assert not report.proofs["guarded"]
    assert report.proofs["equal"]
    # One multiplication for each value of c: steps x batch x (C H W of both stages).
    assert report.multiplications == 4 * 2 * (6 * 16 + 12 * 4)


def test_an_unfolded_norm_is_rejected():
    report = check_mfi(wake(small()).eval(), sample())
    assert "stages.0.blocks.0.token.fuse.1" in report.violations
    assert "head.0" in report.violations
    assert "head.1" in report.violations  # the average pool


def test_layer_norm_is_rejected():
    model = dense(nn.Linear(4, 8), lif(), nn.Linear(8, 8), nn.LayerNorm(8), lif(), nn.Linear(8, 2))
    report = check_mfi(model, currents(5, 2, 4))
    assert report.violations == ["3"]
    assert "LayerNorm" in str(report)


class RealSkip(nn.Module):
    """A current goes around the neuron into a weight layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.spike, self.last = nn.Linear(4, 8), lif(), nn.Linear(8, 2)

    def forward(self, x):
        h = self.stem(x)
        return self.last(self.spike(h) + h)


@pytest.mark.parametrize("biases", [0.0, 0.3])
def test_a_real_skip_into_a_weight_is_rejected_even_if_all_its_values_are_zero(biases):
    torch.manual_seed(0)
    model = RealSkip().eval()
    nn.init.constant_(model.stem.bias, biases)
    report = check_mfi(model, currents(5, 2, 4))
    assert report.violations == ["last"]
    assert not report.proofs["static"]
    assert not report.proofs["equal"]
    silent = check_mfi(model, torch.zeros(5, 2, 4))
    assert silent.violations == ["last", "sample"]
    assert not silent.proofs["static"]


def test_a_sample_of_zeros_proves_nothing():
    report = check_mfi(folded(), torch.zeros(2, 1, 8, 8))
    assert not report.ok
    assert report.violations == ["sample"]
    assert "all zeros" in str(report)


def test_values_that_happen_to_be_binary_are_not_spikes():
    model = dense(nn.Linear(4, 8), nn.Hardtanh(0, 1), nn.Linear(8, 2))
    nn.init.constant_(model[0].bias, 100.0)
    report = check_mfi(model, currents(5, 4))
    assert model[1](model[0](currents(5, 4))).unique().tolist() == [1.0]
    assert report.violations == ["2"]
    assert report.proofs["equal"]


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_real_values_written_into_a_buffer_of_zeros_stay_real(scale):
    class Buffer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            buffer = torch.zeros(*x.shape[:-1], 8, dtype=x.dtype)
            for t, now in enumerate(self.stem(x)):
                buffer[t] = scale * now
            return self.last(buffer)

    torch.manual_seed(0)
    report = check_mfi(Buffer().eval(), currents(5, 2, 4))
    assert report.violations == ["last"]
    assert not report.proofs["static"]


def test_real_values_written_by_out_into_a_part_of_a_tensor_stay_real():
    class Out(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            buffer = torch.zeros(len(x) + 1, *x.shape[1:-1], 8, dtype=x.dtype)
            torch.add(self.stem(x), 1.0, out=buffer[1:])
            return self.last(buffer)

    torch.manual_seed(0)
    report = check_mfi(Out().eval(), currents(5, 2, 4))
    assert report.violations == ["last"]
    assert not report.proofs["static"]


def test_spikes_written_into_a_buffer_are_spikes():
    class Buffer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.spike, self.last = nn.Linear(4, 8), lif(), nn.Linear(8, 2)

        def forward(self, x):
            buffer = torch.zeros(*x.shape[:-1], 8, dtype=x.dtype)
            buffer[:] = self.spike(self.stem(x))
            return self.last(buffer)

    torch.manual_seed(0)
    report = check_mfi(Buffer().eval(), currents(5, 2, 4))
    assert report.ok, report
    assert "spike" in report.column("input")


def test_the_position_of_a_maximum_is_no_spike():
    class Position(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spike, self.last = lif(), nn.Linear(3, 2)

        def forward(self, x):
            return self.last(self.spike(x).max(2).indices.to(x.dtype))

    report = check_mfi(Position().eval(), currents(5, 3, 4), exempt=())
    assert report.violations == ["last"]


def test_spikes_limited_to_a_fraction_are_no_spikes():
    class Limited(nn.Module):
        def forward(self, x):
            return x.clamp(max=0.5)

    report = check_mfi(dense(lif(), Limited(), nn.Linear(4, 2)), currents(5, 2, 4), exempt=())
    assert report.violations == ["2"]


@pytest.mark.parametrize("value, violations", [(0.0, []), (1.0, []), (0.5, ["2"])])
def test_spikes_replaced_by_a_number_are_spikes_only_with_a_spike(value, violations):
    class Masked(nn.Module):
        def forward(self, x):
            return x.masked_fill(torch.tensor([True, False, False, True]), value)

    report = check_mfi(dense(lif(), Masked(), nn.Linear(4, 2)), currents(5, 2, 4), exempt=())
    assert report.violations == violations


def test_bits_of_numbers_are_no_spikes_unless_they_are_conditions():
    class Bits(nn.Module):
        def forward(self, x):
            return (x.int() & 3).to(x.dtype)

    class Both(nn.Module):
        def forward(self, x):
            return ((x > 1) & (x < 2)).to(x.dtype)

    found = [
        check_mfi(dense(first, nn.Linear(4, 2)), 4 * currents(5, 2, 4), exempt=()).violations
        for first in (Bits(), Both())
    ]
    assert found == [["0", "1"], []]


def test_average_pooling_left_unfolded_is_rejected_and_folding_cures_it():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.spike = nn.Conv2d(1, 4, 3), lif()
            self.tail = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(4, 2, 2))

        def forward(self, x):
            s = self.spike(self.stem(x.flatten(0, 1)).unflatten(0, x.shape[:2]))
            return self.tail(s.flatten(0, 1))

    torch.manual_seed(0)
    model, x = Net().eval(), currents(3, 2, 1, 8, 8)
    report = check_mfi(model, x)
    assert report.violations[0] == "tail.0"
    assert "tail.1" in report.violations
    cured = check_mfi(fold_norms(model), x)
    assert cured.ok, cured
    assert "0..4" in cured.column("input")


@pytest.mark.parametrize(
    ("layer", "word"),
    [
        (nn.Softmax(-1), "softmax"),
        (nn.GELU(), "gelu"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.Softplus(), "softplus"),
    ],
    ids=str,
)
def test_other_arithmetic_is_rejected(layer, word):
    report = check_mfi(dense(lif(), layer), currents(8, 3, 8), exempt=())
    assert report.violations == ["1"]
    assert word in str(report)


def test_a_product_of_two_real_values_is_blamed_on_the_module_that_computes_it():
    class Square(nn.Module):
        def forward(self, x):
            return x * x

    report = check_mfi(dense(nn.Linear(4, 8), Square(), lif()), currents(5, 2, 4))
    assert report.violations == ["1"]
    assert report.multiplications == 5 * 2 * 8


def test_a_learned_amplitude_is_no_spike():
    neuron = spikeloom.Neuron(
        lambda x, state, p: (p.alpha * spikeloom.kernel.vocabulary.fire(x - 1.0), state),
        params={"alpha": 0.7},
        name="scaled",
    )
    model = dense(nn.Linear(4, 8), spikeloom.SpikingLayer(neuron), nn.Linear(8, 2))
    assert check_mfi(model, currents(5, 2, 4)).violations == ["2"]


def test_a_second_layer_that_reads_the_sample_is_no_stem():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.spike = nn.Linear(4, 8), nn.Linear(4, 8), lif()

        def forward(self, x):
            return self.spike(self.first(x) + self.second(x))

    model, x = Twice().eval(), currents(5, 2, 4)
    assert check_mfi(model, x).violations == ["second"]
    assert check_mfi(model, x, exempt=["first", "second"]).ok
    assert check_mfi(model, x, exempt=()).violations == ["first", "second"]


# --- The sample ---------------------------------------------------------------------------------


class Gated(nn.Module):
    """An argument with a default beside the one without."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.spike, self.last = nn.Linear(4, 8), lif(), nn.Linear(8, 2)

    def forward(self, x, gain=None):
        x = self.stem(x)
        return self.last(self.spike(x if gain is None else x + gain))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: (x, torch.zeros(2, dtype=torch.long)),
        lambda x: {"x": x, "gain": torch.ones(8)},
        lambda x: UserDict(x=x),
        lambda x: Batch((x,), {"gain": torch.ones(8)}),
    ],
    ids=["inputs with labels", "a dict", "a mapping", "a batch of calibration"],
)
def test_a_sample_is_a_batch_in_any_usual_form(wrap):
    torch.manual_seed(0)
    report = check_mfi(Gated().eval(), wrap(currents(5, 2, 4)))
    assert report.ok, report
    assert report.exempt == ["stem"]


# --- The report and bad input -----------------------------------------------------------------


def test_the_report_prints_and_saves(tmp_path):
    report = check_mfi(folded(bn_axis="token"), sample())
    assert "NOT multiplication free" in str(report)
    report.save(tmp_path / "mfi.json")
    saved = json.loads((tmp_path / "mfi.json").read_text())
    assert saved["ok"] is False
    assert saved["violations"] == report.violations
    assert saved["multiplications"] == report.multiplications


def test_the_model_is_left_as_it_was():
    model = folded()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    check_mfi(model, sample())
    assert next(model.parameters()).dtype == torch.float32
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("model", "x", "error", "message"),
    [
        (lambda: small(), sample(), ValueError, "training mode"),
        (lambda: small().eval(), [1, 2], TypeError, "sample: must be a tensor"),
        (
            lambda: small().eval(),
            sample().to("meta"),
            ValueError,
            "sample: is on meta, the model on",
        ),
        (lambda: "net", sample(), TypeError, "model: must be an nn.Module"),
    ],
)
def test_what_cannot_be_verified_is_refused(model, x, error, message):
    with pytest.raises(error, match=message):
        check_mfi(model(), x)


class Single(nn.Module):
    def forward(self, x):
        return x.float()


@pytest.mark.parametrize(
    "layer", [nn.Linear(8, 2), nn.Linear(8, 2, bias=False), nn.Conv1d(2, 2, 1)]
)
def test_a_forward_that_changes_the_dtype_is_named(layer):
    model = dense(nn.Linear(4, 8), Single(), lif(), layer)
    with pytest.raises(ValueError, match=r"model: '3' meets float32 and float64, .* '1' changes"):
        check_mfi(model, currents(5, 2, 4))


def test_one_string_of_exemptions_is_refused():
    with pytest.raises(TypeError, match=r"exempt: must be names .* such as \['stem'\], got 'stem'"):
        check_mfi(small().eval(), sample(), exempt="stem")


def test_an_unknown_exemption_is_refused():
    with pytest.raises(ValueError, match="exempt: the model has no module 'stem'"):
        check_mfi(small().eval(), sample(), exempt=["stem"])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
@pytest.mark.parametrize("layer", [spikeloom.SpikingLayer, LIFNode])
def test_events_counted_in_integers_are_proved_like_their_values(layer, dtype):
    torch.manual_seed(0)
    own = {"step_mode": "m", "v_threshold": 0.3}
    lif = LIFNode(**own) if layer is LIFNode else layer(neurons.LIF(v_threshold=0.3))
    net = nn.Sequential(lif, nn.Linear(6, 8), spikeloom.SpikingLayer(neurons.IF())).eval()
    events = torch.randint(0, 2, (4, 3, 6)).to(dtype)
    found = check_mfi(net, events, exempt=())
    assert found.ok and str(found) == str(check_mfi(net, events.float(), exempt=()))


@pytest.mark.parametrize("check", [check_mfi, count_energy])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_module_is_refused_by_its_name(check):
    model = dense(torch.jit.script(nn.Linear(4, 8)), lif()).eval()
    with pytest.raises(TypeError, match=r"model: '0' is a ScriptModule, .* before torch\.jit"):
        check(model, currents(5, 2, 4))


@pytest.mark.parametrize(
    ("by_step", "by_neuron", "violations"),
    [([0.5, 3.0], [0.5, -2.0], ["2"]), ([1.0, 3.0], [2.0, 4.0], []), ([1.0, 3.0], [2.0] * 3, [])],
    ids=["real", "whole", "more neurons than steps"],
)
def test_the_value_of_every_step_meets_that_of_every_neuron(by_step, by_neuron, violations):
    params = {"a": spikeloom.PerStep(torch.tensor(by_step)), "b": torch.tensor(by_neuron)}
    neuron = spikeloom.Neuron(
        lambda x, state, p: (spikeloom.kernel.vocabulary.fire(x - 1.0) * (p.a + p.b), state),
        params=params,
        name="scaled",
    )
    layers = nn.Linear(4, len(by_neuron)), spikeloom.SpikingLayer(neuron)
    model = dense(*layers, nn.Linear(len(by_neuron), 2))
    assert check_mfi(model, currents(2, 3, 4)).violations == violations
