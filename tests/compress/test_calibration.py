"""Calibration in every host; expected Hessians come from the inputs that hooks see."""

import copy

import norse.torch as norse
import pytest
import snntorch
import torch
from spikingjelly.activation_based import functional
from spikingjelly.activation_based import layer as sjl
from spikingjelly.activation_based import neuron as sjn
from torch import nn

import spikeloom
from spikeloom import SpikingLayer, compress, neurons
from tests.compress.cases import spikes

T, B = 7, 4


def spikingjelly_mlp(mode):
    net = nn.Sequential(
        sjl.Linear(6, 10), sjn.LIFNode(3.0), sjl.Dropout(0.5), sjl.Linear(10, 3), sjn.IFNode()
    )
    functional.set_step_mode(net, mode)
    return net.eval()


class Loop(nn.Module):
    """The way of snnTorch and Norse; modules are registered in another order than called."""

    def __init__(self, first, second):
        super().__init__()
        self.out_cell = second
        self.out = nn.Linear(10, 3)
        self.hidden = nn.Linear(6, 10)
        self.cell = first

    def forward(self, x):
        one = two = ()
        outputs = []
        for step in x:
            step, *one = self.cell(self.hidden(step), *one)
            step, *two = self.out_cell(self.out(step), *two)
            outputs.append(step)
        return torch.stack(outputs)


def each_step(model, x):
    return torch.stack([model(step) for step in x])


HOSTS = {
    "spikingjelly sequence": (lambda: spikingjelly_mlp("m"), None, ("0", "3"), (2 / 3, 1.0)),
    "spikingjelly steps": (lambda: spikingjelly_mlp("s"), each_step, ("0", "3"), (2 / 3, 1.0)),
    "snntorch": (
        lambda: Loop(snntorch.Leaky(0.9), snntorch.Synaptic(0.8, 0.7)),
        None,
        ("hidden", "out"),
        (0.9, (0.7, 0.8)),
    ),
    "norse": (
        lambda: Loop(norse.LIFBoxCell(), norse.LIFCell()),
        None,
        ("hidden", "out"),
        (0.9, (0.9, 0.8)),
    ),
    "norse sequence": (
        lambda: norse.SequentialState(
            norse.Lift(nn.Linear(6, 10)), norse.LIF(), norse.Lift(nn.Linear(10, 3))
        ),
        None,
        ("0.lifted_module", "2.lifted_module"),
        ((0.9, 0.8), 0.0),
    ),
    "spikeloom": (
        lambda: nn.Sequential(nn.Linear(6, 10), SpikingLayer(neurons.LIF(4.0)), nn.Linear(10, 3)),
        None,
        ("0", "2"),
        (0.75, 0.0),
    ),
}


def inputs_of(model, run, layer):
    """The layer's input [T, B, ...] of one forward pass."""
    seen = []
    with layer.register_forward_pre_hook(lambda _, args: seen.append(args[0])), torch.no_grad():
        compress.reset_states(model)
        run(model)
        compress.reset_states(model)
    return seen[0] if len(seen) == 1 else torch.stack(seen)


def trace(decay):
    return neurons.Trace(*decay) if isinstance(decay, tuple) else neurons.Trace(decay)


@pytest.mark.parametrize("host", HOSTS)
def test_every_host_gives_the_hessian_of_its_own_neuron(host):
    make, forward, names, decays = HOSTS[host]
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20)
    x = spikes(T, B, 6)
    stats = compress.calibrate(model, [x], forward=forward)
    assert set(stats) == set(names)
    for name, decay in zip(names, decays, strict=True):
        layer = model.get_submodule(name)
        seen = inputs_of(model, lambda m: (forward or type(m).__call__)(m, x), layer)
        assert seen.any()
        (block,), (plain,) = stats[name].spiking, stats[name].plain
        expected = compress.layer_hessian(seen, layer, trace(decay))
        torch.testing.assert_close(block.hessian, expected, rtol=1e-5, atol=1e-5)
        expected = compress.layer_hessian(seen, layer, neurons.Trace(0))
        torch.testing.assert_close(plain.hessian, expected, rtol=1e-5, atol=1e-5)
        assert stats[name].facts.samples == B
        assert torch.equal(block.rows, torch.arange(len(layer.weight)))


@pytest.mark.parametrize("host", HOSTS)
def test_batches_add_up_and_start_from_rest(host):
    make, forward, names, _ = HOSTS[host]
    model, x = make().eval(), spikes(T, B, 6)
    whole = compress.calibrate(model, [x], forward=forward)
    parts = compress.calibrate(model, [x[:, :3], x[:, 3:]], forward=forward)
    for name in names:
        assert parts[name].facts.samples == B
        torch.testing.assert_close(
            parts[name].spiking[0].hessian, whole[name].spiking[0].hessian, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("host", HOSTS)
def test_states_and_weights_are_left_as_they_were(host):
    make, forward, _, _ = HOSTS[host]
    model, x = make().eval(), spikes(T, B, 6)
    compress.reset_states(model)
    before = copy.deepcopy(model.state_dict())
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    compress.calibrate(model, [x], forward=forward)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    run = forward or type(model).__call__
    with torch.no_grad():
        first = run(model, x)
        compress.reset_states(model)
        second = run(model, x)
    torch.testing.assert_close(first, second)


# --- Following the data -----------------------------------------------------------------------


class Residual(nn.Module):
    """Convolutions on steps folded into the batch, normalisations, a shortcut, a readout."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.lif2, self.lif1 = sjn.LIFNode(5.0, step_mode="m"), sjn.LIFNode(2.0, step_mode="m")
        self.norm1, self.norm2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.short = nn.Conv2d(2, 4, 1)
        self.pool, self.drop = nn.MaxPool2d(2), nn.Dropout(0.5)

    def forward(self, x):
        fold, steps = x.flatten(0, 1), x.shape[:2]
        y = self.lif1(self.norm1(self.conv1(fold)).unflatten(0, steps))
        y = self.norm2(self.conv2(y.flatten(0, 1)))
        y += self.short(fold)
        y = self.lif2(self.drop(self.pool(y)).unflatten(0, steps))
        return self.head(y.mean((0, 3, 4)))


def test_the_neuron_is_found_through_norm_pool_dropout_and_addition():
    model = Residual()
    model.train()(spikes(T, B, 2, 6, 6))  # statistics for the normalisations
    compress.reset_states(model)
    model.norm2.weight.data.uniform_(0.5, 2.0)
    model.eval()
    x = spikes(T, B, 2, 6, 6, seed=1)
    stats = compress.calibrate(model, [x])
    facts = {name: (s.facts.neuron, s.facts.decays) for name, s in stats.items()}
    assert facts == {
        "head": (None, "0"),
        "conv1": ("lif1", "0.5"),
        "conv2": ("lif2", "0.8"),
        "short": ("lif2", "0.8"),
    }
    expected = compress.layer_hessian(x, model.conv1, neurons.Trace(0.5))
    torch.testing.assert_close(stats["conv1"].spiking[0].hessian, expected)
    first, second = stats["conv2"].spiking  # one for each group
    assert first.rows.tolist() == [0, 1] and second.rows.tolist() == [2, 3]
    for norm, name in ((model.norm1, "conv1"), (model.norm2, "conv2")):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        torch.testing.assert_close(stats[name].row_scale, scale.detach().double())
    assert stats["short"].row_scale is None


def test_a_layer_that_sees_the_sequence_before_the_loop_is_filtered_in_time():
    class Outside(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.lif = nn.Linear(6, 3), snntorch.Leaky(0.9)

        def forward(self, x):
            currents, mem = self.fc(x), self.lif.reset_mem()
            outputs = []
            for current in currents:
                spk, mem = self.lif(current, mem)
                outputs.append(spk)
            return torch.stack(outputs)

    model, x = Outside().eval(), spikes(T, B, 6)
    stats = compress.calibrate(model, [x])
    expected = compress.layer_hessian(x, model.fc, neurons.Trace(0.9))
    torch.testing.assert_close(stats["fc"].spiking[0].hessian, expected)


def test_spikes_written_into_a_buffer_are_followed():
    class Buffered(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.lif = nn.Linear(6, 3), sjn.LIFNode(2.0, step_mode="m")

        def forward(self, x):
            currents = torch.zeros(*x.shape[:2], 3)
            for t, step in enumerate(x):
                currents[t] = self.fc(step)
            return self.lif(currents)

    stats = compress.calibrate(Buffered().eval(), [spikes(T, B, 6)])
    assert stats["fc"].facts.neuron == "lif" and stats["fc"].facts.steps == T


def test_an_activation_without_memory_ends_the_filter():
    model = nn.Sequential(
        nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3), SpikingLayer(neurons.LIF())
    ).eval()
    stats = compress.calibrate(model, [spikes(T, B, 6)])
    assert [stats[name].facts.neuron for name in ("0", "2")] == [None, "3"]


def test_neurons_of_different_decay_behind_a_layer_are_reported():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 3)
            self.fast, self.slow = (SpikingLayer(neurons.LIF(tau)) for tau in (2.0, 9.0))

        def forward(self, x):
            current = self.fc(x)
            return self.fast(current) + self.slow(current)

    with pytest.warns(UserWarning, match="different decay"):
        stats = compress.calibrate(Fork().eval(), [spikes(T, B, 6)])
    assert stats["fc"].facts.decays == "0.5"


def test_keyword_batches_and_tuples_are_understood():
    model, x = spikingjelly_mlp("m"), spikes(T, B, 6)
    expected = compress.calibrate(model, [x])["0"].spiking[0].hessian
    batches = ([(x, torch.zeros(B))], [[x, torch.zeros(B)]], [{"input": x}], {"input": x}, x)
    for given in batches:
        found = compress.calibrate(model, given)["0"].spiking[0].hessian
        assert torch.equal(found, expected)


def test_a_tuple_gives_as_many_arguments_as_forward_needs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.lif = nn.Linear(6, 3), SpikingLayer(neurons.LIF())

        def forward(self, a, b, gain=None):
            return self.lif(self.fc(a + b))

    x, y = spikes(T, B, 6), spikes(T, B, 6, seed=1)
    stats = compress.calibrate(Two().eval(), [(x, y, torch.zeros(B))])
    expected = compress.layer_hessian(x + y, nn.Linear(6, 3), neurons.Trace(0.5))
    torch.testing.assert_close(stats["fc"].spiking[0].hessian, expected)


def test_a_forward_of_the_user_gets_the_batch_as_it_is():
    seen = []

    def forward(model, batch):
        seen.append(batch)
        return model(batch[0])

    batch = (spikes(T, B, 6), torch.zeros(B))
    compress.calibrate(spikingjelly_mlp("m"), [batch], forward=forward)
    assert all(given is batch for given in seen)


def test_only_the_layers_asked_for_are_calibrated():
    stats = compress.calibrate(spikingjelly_mlp("m"), [spikes(T, B, 6)], layers=["3"], plain=False)
    assert list(stats) == ["3"] and stats["3"].plain is None


def test_one_step_and_one_sample_are_enough():
    stats = compress.calibrate(spikingjelly_mlp("m"), [spikes(1, 1, 6)])
    torch.testing.assert_close(stats["0"].spiking[0].hessian, stats["0"].plain[0].hessian)


# --- Decays that differ between rows ----------------------------------------------------------


def test_rows_whose_neurons_decay_alike_share_a_hessian():
    beta = torch.tensor([0.5, 0.9, 0.5, 0.9, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5])
    model, x = Loop(snntorch.Leaky(beta), snntorch.Leaky(0.9)).eval(), spikes(T, B, 6)
    slow, fast = compress.calibrate(model, [x])["hidden"].spiking[::-1]
    assert slow.rows.tolist() == [1, 3, 4] and fast.rows.tolist() == [0, 2, 5, 6, 7, 8, 9]
    for block, decay in ((slow, 0.9), (fast, 0.5)):
        expected = compress.layer_hessian(x, model.hidden, neurons.Trace(decay))
        torch.testing.assert_close(block.hessian, expected, rtol=1e-5, atol=1e-5)


def test_many_decays_share_eight_hessians():
    model = Loop(snntorch.Leaky(torch.linspace(0.1, 0.9, 10)), snntorch.Leaky(0.9)).eval()
    with pytest.warns(UserWarning, match="10 different decays"):
        stats = compress.calibrate(model, [spikes(T, B, 6)])
    blocks = stats["hidden"].spiking
    assert len(blocks) == 8
    assert sorted(row for block in blocks for row in block.rows.tolist()) == list(range(10))


def test_decays_by_channel_belong_to_the_rows_of_a_convolution():
    tau = torch.tensor([2.0, 4.0, 4.0]).reshape(3, 1, 1)
    model = nn.Sequential(sjl.Conv2d(2, 3, 3, step_mode="m"), SpikingLayer(neurons.LIF(tau)))
    stats = compress.calibrate(model.eval(), [spikes(T, B, 2, 5, 5)])["0"]
    assert [block.rows.tolist() for block in stats.spiking] == [[0], [1, 2]]
    # Where decays differ, so do gains: an input counts 1/tau.
    assert stats.row_scale.tolist() == [0.5, 0.25, 0.25]


def test_decays_within_one_output_are_averaged():
    tau = torch.full((3, 3, 3), 2.0)
    tau[0, 0, 0] = 4.0
    model = nn.Sequential(sjl.Conv2d(2, 3, 3, step_mode="m"), SpikingLayer(neurons.LIF(tau)))
    with pytest.warns(UserWarning, match="their mean"):
        stats = compress.calibrate(model.eval(), [spikes(T, B, 2, 5, 5)])
    assert len(stats["0"].spiking) == 2


# --- What cannot be read ----------------------------------------------------------------------


class Mine(nn.Module):
    """A neuron that no host knows."""

    def forward(self, x):
        v, outputs = torch.zeros_like(x[0]), []
        for step in x:
            v = 0.8 * v + step
            outputs.append((v > 1).float())
            v = v - outputs[-1]
        return torch.stack(outputs)


def mine():
    return nn.Sequential(nn.Linear(6, 10), Mine(), nn.Linear(10, 3)).eval()


def test_an_unknown_neuron_is_an_error_that_says_what_to_do():
    with pytest.raises(compress.UnknownNeuron, match=r"layer '0'.*traces="):
        compress.calibrate(mine(), [spikes(T, B, 6)])
    model = nn.Sequential(nn.Linear(6, 3), sjn.QIFNode(step_mode="m")).eval()
    with pytest.raises(compress.UnknownNeuron, match=r"'1', the neuron behind layer '0'.*traces="):
        compress.calibrate(model, [spikes(T, B, 6)])


@pytest.mark.parametrize("name", ["0", "1"])
def test_a_stated_decay_is_used(name):
    model, x = mine(), spikes(T, B, 6)
    stats = compress.calibrate(model, [x], traces={name: neurons.Trace(0.8)})
    expected = compress.layer_hessian(x, model[0], neurons.Trace(0.8))
    torch.testing.assert_close(stats["0"].spiking[0].hessian, expected)


def test_a_decay_stated_for_a_layer_needs_to_see_the_steps():
    class Folded(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.mine = nn.Linear(6, 3), Mine()

        def forward(self, x):
            return self.mine(self.fc(x.flatten(0, 1)).unflatten(0, x.shape[:2]))

    model, x = Folded().eval(), spikes(T, B, 6)
    with pytest.raises(ValueError, match="name the neuron"):
        compress.calibrate(model, [x], traces={"fc": neurons.Trace(0.8)})
    stats = compress.calibrate(model, [x], traces={"mine": neurons.Trace(0.8)})
    expected = compress.layer_hessian(x, model.fc, neurons.Trace(0.8))
    torch.testing.assert_close(stats["fc"].spiking[0].hessian, expected)


def test_recurrent_weights_are_left_alone():
    model = nn.Sequential(nn.Linear(6, 3), snntorch.RLeaky(0.9, linear_features=3)).eval()

    def forward(model, x):
        spk, mem = model[1].reset_mem()
        for step in x:
            spk, mem = model[1](model[0](step), spk, mem)

    with pytest.warns(UserWarning, match="is recurrent"):
        stats = compress.calibrate(
            model, [spikes(T, B, 6)], traces={"1": neurons.Trace(0.9)}, forward=forward
        )
    assert list(stats) == ["0"] and stats["0"].facts.steps == T


class Twice(nn.Module):
    def __init__(self, neuron):
        super().__init__()
        self.fc, self.lif = nn.Linear(6, 6), neuron

    def forward(self, x):
        return self.lif(self.fc(self.lif(self.fc(x))))


def test_a_layer_used_twice_covers_both_uses():
    model, x = Twice(SpikingLayer(neurons.LIF())).eval(), spikes(T, B, 6)
    with torch.no_grad():
        model.fc.weight.mul_(4)
        between = model.lif(model.fc(x))
    # The layer and its neuron are called equally often: each call is a sequence of its own.
    stats = compress.calibrate(model, [x])
    parts = [compress.layer_hessian(part, model.fc, neurons.Trace(0.5)) for part in (x, between)]
    torch.testing.assert_close(stats["fc"].spiking[0].hessian, sum(parts) / 2)


def test_a_layer_used_twice_a_step_keeps_two_traces():
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.lif = nn.Linear(6, 6), snntorch.Leaky(0.9)

        def forward(self, x):
            mem, outputs = self.lif.reset_mem(), []
            for step in x:
                spk, mem = self.lif(self.fc(step) + self.fc(1 - step), mem)
                outputs.append(spk)
            return torch.stack(outputs)

    model, x = Step().eval(), spikes(T, B, 6)
    with pytest.warns(UserWarning, match="used 2 times"):
        stats = compress.calibrate(model, [x])
    parts = [compress.layer_hessian(part, model.fc, neurons.Trace(0.9)) for part in (x, 1 - x)]
    torch.testing.assert_close(stats["fc"].spiking[0].hessian, sum(parts) / 2, rtol=1e-5, atol=1e-5)


def test_layers_that_share_a_weight_are_refused_by_name():
    model = spikingjelly_mlp("m")
    model.append(sjl.Linear(6, 10, step_mode="m"))
    model[5].weight = model[0].weight
    model.eval()
    with pytest.raises(ValueError, match="'0' and '5' share one weight"):
        compress.calibrate(model, [spikes(T, B, 6)])


X = spikes(T, B, 6)


@pytest.mark.parametrize(
    "model, batches, options, error, message",
    [
        (spikingjelly_mlp("m").train(), [X], {}, ValueError, r"model.eval\(\)"),
        (len, [X], {}, TypeError, "nn.Module"),
        (spikingjelly_mlp("m"), [], {}, ValueError, "batches: holds no batch"),
        (spikingjelly_mlp("m"), [X[:, :0]], {}, ValueError, "batches: .* no sample"),
        (spikingjelly_mlp("m"), [X[:0]], {}, ValueError, "batches: .* no sample"),
        (
            spikingjelly_mlp("m"),
            [X[:0]],
            {"forward": each_step},
            ValueError,
            "batches: .* no sample",
        ),
        (spikingjelly_mlp("m"), None, {}, TypeError, "batches: must be .* got None"),
        (spikingjelly_mlp("m"), ["images"], {}, TypeError, "batches: a batch must be"),
        (spikingjelly_mlp("m"), [X], {"layers": "0"}, TypeError, r"layers: .*\['0'\], got '0'"),
        (spikingjelly_mlp("m"), [X], {"layers": 0}, TypeError, "layers: .* got 0"),
        (
            spikingjelly_mlp("m"),
            [X],
            {"traces": {"1": 0.5}},
            TypeError,
            r"traces\['1'\]: must be .*neurons.Trace\(0.9\), got 0.5",
        ),
        (spikingjelly_mlp("m"), [X], {"traces": [0.5]}, TypeError, "traces: must map"),
        (spikingjelly_mlp("m"), [X * torch.nan], {}, ValueError, "layer '0'.*NaN or infinite"),
        (spikingjelly_mlp("m"), [X / 0], {}, ValueError, "layer '0'.*NaN or infinite"),
        (spikingjelly_mlp("m"), [X], {"layers": ["1"]}, ValueError, "there are 0, 3"),
        (
            spikingjelly_mlp("m"),
            [X],
            {"traces": {"9": neurons.Trace(0)}},
            ValueError,
            "no module '9'",
        ),
        (nn.Sequential(nn.ReLU()).eval(), [X], {}, ValueError, "no Linear"),
    ],
)
def test_bad_input_is_named(model, batches, options, error, message):
    with pytest.raises(error, match=message):
        compress.calibrate(model, batches, **options)


def test_a_failing_batch_leaves_no_hooks_behind():
    model = spikingjelly_mlp("m")
    with pytest.raises(ValueError):
        compress.calibrate(model, [X, X * torch.nan])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_spikelooms_own_sequence_method_is_followed():
    plugin = pytest.importorskip("spikeloom.plugins.snntorch")

    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.lif = nn.Linear(6, 3), plugin.Leaky(0.9)

        def forward(self, x):
            return self.lif.sequence(self.fc(x))[0]

    model = Fused().eval()
    stats = compress.calibrate(model, [X])
    expected = compress.layer_hessian(X, model.fc, neurons.Trace(0.9))
    torch.testing.assert_close(stats["fc"].spiking[0].hessian, expected)
    assert "sequence" not in vars(model.lif)
    assert spikeloom.plugins is not None


@pytest.mark.parametrize(
    "threshold",
    [torch.Tensor.bool, torch.Tensor.int, torch.signbit],
    ids=["bool", "int", "signbit"],
)
def test_a_cast_of_a_current_is_an_unknown_threshold(threshold):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.out = nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.out(threshold(self.fc(x)).float())

    with pytest.raises(compress.UnknownNeuron, match="'fc': its output meets the operation"):
        compress.calibrate(Net().eval(), [spikes(T, B, 6)])


def test_a_compiled_model_is_refused():
    model = torch.compile(spikingjelly_mlp("m"), backend="eager")
    with pytest.raises(ValueError, match=r"model: is compiled.*_orig_mod"):
        compress.calibrate(model, [spikes(T, B, 6)])
