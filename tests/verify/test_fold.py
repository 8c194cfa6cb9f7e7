"""Folding norms: exact in float64, in any framework's model, and honest about what remains."""

import copy
import functools

import pytest
import torch
from spikingjelly.activation_based import layer as sjl
from torch import nn

import spikeloom
from spikeloom import compress, convert, neurons, plugins
from spikeloom.verify import fold_norms
from tests.models.spiking_mlp.cases import image, small, wake
from tests.models.spiking_mlp.spikingjelly_network import Network

CONFIGURATIONS = [
    {},
    {"bn_axis": "token"},
    {"patch_encoding": "conv"},
    {"norm": "tebn"},
    {"depths": (2, 1), "image_size": (8, 12)},
]


def lif(**settings) -> spikeloom.SpikingLayer:
    return spikeloom.SpikingLayer(neurons.LIF(**settings))


def ready(*modules: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return wake(nn.Sequential(*modules), seed).double().eval()


def results(model: nn.Module) -> dict[str, str]:
    report = model.report
    return dict(zip(report.column("module"), report.column("result"), strict=True))


def equal(folded: nn.Module, model: nn.Module, x: torch.Tensor) -> None:
    expected = model(x)
    assert expected.std() > 0
    assert (folded(x) - expected).abs().max() < 1e-12


def norms(model: nn.Module) -> list[str]:
    kind = nn.modules.batchnorm._BatchNorm
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


# --- The spiking MLP -------------------------------------------------------------------------


@pytest.mark.parametrize("changes", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize("gains", [False, True])
def test_the_folded_network_equals_the_network(changes, gains):
    model = wake(small(**changes)).double().eval()
    equal(fold_norms(model, gains=gains), model, image(3, 1, *model.image_size))


def test_channel_norms_leave_no_norm_behind():
    folded = fold_norms(wake(small()).eval())
    assert norms(folded) == []
    assert set(results(folded).values()) == {"folded", "sum"}


def test_token_norms_become_thresholds_in_front_of_neurons_and_remain_elsewhere():
    folded = fold_norms(wake(small(bn_axis="token")).eval())
    assert norms(folded) == [f"stages.{i}.blocks.0.channel.down.1" for i in range(2)]
    neuron = folded.stages[0].blocks[0].channel.neuron_up.neuron
    assert neuron.params["v_threshold"].shape == (4, 4)
    assert "one multiplication a value" in str(folded.report)


def test_spikes_of_every_neuron_are_unchanged():
    model = wake(small(bn_axis="token")).double().eval()
    folded, seen = fold_norms(model), ([], [])
    for network, spikes in zip((model, folded), seen, strict=True):
        for module in network.modules():
            if isinstance(module, spikeloom.SpikingLayer):
                module.register_forward_hook(lambda m, x, y, spikes=spikes: spikes.append(y))
        network(image(3, 1, 8, 8))
    assert len(seen[0]) == len(seen[1]) == 14
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    assert sum(bool(a.any()) for a in seen[0]) >= 12


def test_gains_move_into_the_weights_once():
    folded = fold_norms(wake(small()).eval(), gains=True)
    kinds = {m.neuron.decay_input for m in folded.modules() if hasattr(m, "neuron")}
    assert kinds == {False}
    assert "Input gain 0.5" in folded.report.notes[0]


# --- Any model -------------------------------------------------------------------------------


def test_a_norm_in_front_of_a_neuron_takes_any_sign_of_gain():
    model = ready(nn.BatchNorm2d(5), lif(), nn.Flatten())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.5, -2.0, 0.0, 0.3, -0.4]))
        model[0].bias.copy_(torch.tensor([0.1, 1.0, 2.5, 1.0, 3.0]))
    x = 3 * torch.randn(6, 5, 4, 4, dtype=torch.float64)
    folded = fold_norms(model)
    equal(folded, model, x)
    assert folded[1].neuron.params["v_threshold"].shape == (5, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gain", [1e-42, -1e-38, 1e-30, 1e-25])
def test_a_gain_that_weight_decay_has_left_over_still_folds(gain, dtype):
    model = ready(nn.BatchNorm2d(5), lif(), nn.Flatten()).to(dtype)
    with torch.no_grad():
        model[0].weight[:3] = gain
        model[0].bias.copy_(torch.tensor([3.0, 0.0, -1.0, 1.0, 2.0]))
    x = 3 * torch.randn(6, 5, 4, 4, dtype=dtype)
    folded = fold_norms(model)
    assert results(folded) == {"0": "folded"}
    assert model(x).any()
    assert torch.equal(folded(x), model(x))


def test_a_threshold_beyond_the_dtype_leaves_the_norm():
    model = ready(nn.BatchNorm2d(5), lif(), nn.Flatten()).half()
    model[0].weight.data.fill_(1e-6)
    folded = fold_norms(model)
    assert results(folded) == {"0": "remains"}
    assert "beyond its dtype" in folded.report.column("why")[0]


@pytest.mark.parametrize("reset", [0.0, None])
@pytest.mark.parametrize("decay", [True, False])
def test_thresholds_take_a_norm_for_either_reset(reset, decay):
    x = 2 * torch.randn(8, 3, 6, dtype=torch.float64)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.spike = nn.BatchNorm1d(6), lif(v_reset=reset, decay_input=decay)

        def forward(self, x):
            return self.spike(self.norm(x.flatten(0, 1)).unflatten(0, x.shape[:2]))

    model = wake(Net()).double().eval()
    folded = fold_norms(model)
    assert results(folded) == {"norm": "folded"}
    equal(folded, model, x)


def test_a_neuron_that_rests_elsewhere_keeps_its_norm():
    model = ready(nn.BatchNorm1d(4), lif(v_reset=-0.5))
    folded = fold_norms(model)
    assert results(folded) == {"0": "remains"}
    assert "does not rest at 0" in str(folded.report)


def test_a_weight_that_is_also_read_elsewhere_keeps_its_norm():
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            h = self.fc(x)
            return self.norm(h) + h

    model = wake(Fork()).double().eval()
    folded = fold_norms(model)
    assert results(folded) == {"norm": "remains"}
    equal(folded, model, torch.randn(5, 4, dtype=torch.float64))


def test_a_norm_shared_by_two_layers_remains():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.norm(self.a(x)) + self.norm(self.b(x))

    model = wake(Shared()).double().eval()
    folded = fold_norms(model)
    assert results(folded) == {"norm": "remains"}
    equal(folded, model, torch.randn(5, 4, dtype=torch.float64))


@pytest.mark.parametrize(
    "layers",
    [
        lambda: (nn.Conv2d(3, 4, 3, bias=False, groups=1), nn.BatchNorm2d(4)),
        lambda: (nn.Conv2d(3, 6, 3, groups=3, padding=1), nn.Dropout(0.5), nn.BatchNorm2d(6)),
        lambda: (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)),
        lambda: (nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)),
        lambda: (nn.BatchNorm2d(3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 5)),
        lambda: (nn.AvgPool2d((2, 4), stride=1), nn.Conv2d(3, 2, 2, padding=1)),
    ],
)
def test_plain_chains_fold_completely(layers):
    model = ready(*layers())
    folded = fold_norms(model)
    assert "remains" not in results(folded).values()
    assert norms(folded) == []
    equal(folded, model, torch.randn(4, 3, 8, 8, dtype=torch.float64))


@pytest.mark.parametrize(
    "layers",
    [
        lambda: (nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)),
        lambda: (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
        lambda: (nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)),
        lambda: (nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(1), nn.ReLU()),
    ],
)
def test_what_would_not_be_exact_remains(layers):
    model = ready(*layers())
    folded = fold_norms(model)
    assert set(results(folded).values()) == {"remains"}
    equal(folded, model, torch.randn(4, 3, 8, 8, dtype=torch.float64))


def test_a_linear_layer_whose_outputs_equal_its_tokens_is_not_folded_silently():
    model = ready(nn.Linear(4, 5), nn.BatchNorm1d(5))
    with pytest.raises(ValueError, match="an input of 2 dimensions was expected"):
        fold_norms(model)(torch.randn(3, 5, 4, dtype=torch.float64))
    equal(fold_norms(model), model, torch.randn(3, 4, dtype=torch.float64))


def test_a_norm_whose_features_turn_out_to_be_elsewhere_raises():
    model = ready(nn.BatchNorm1d(5), lif())
    with pytest.raises(ValueError, match="an input of 2 dimensions was expected"):
        fold_norms(model)(torch.randn(3, 5, 5, dtype=torch.float64))


def test_weights_that_another_layer_shares_are_not_scaled_there():
    model = ready(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    folded = fold_norms(model)
    assert results(folded) == {"1": "folded"}
    equal(folded, model, torch.randn(5, 4, dtype=torch.float64))


def test_weights_that_are_computed_keep_their_norm():
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    model = ready(layer, nn.BatchNorm1d(4))
    folded = fold_norms(model)
    assert results(folded) == {"1": "remains"}
    equal(folded, model, torch.randn(5, 4, dtype=torch.float64))


def test_modules_that_fx_cannot_follow_are_opened():
    class Branchy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x):
            if x.sum() > 0:
                return self.norm(self.part(x))
            return self.part(x)

    model = wake(Branchy()).double().eval()
    folded = fold_norms(model)
    assert results(folded) == {"part.1": "folded", "norm": "remains"}
    assert "torch.fx does not see" in str(folded.report)
    equal(folded, model, torch.rand(5, 4, dtype=torch.float64))


# --- Any host --------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"bn_axis": "channel"}, {"spe": False}], ids=str)
def test_a_spikingjelly_network_folds(changes):
    from spikingjelly.activation_based import functional

    torch.manual_seed(0)
    model = wake(Network((8, 8), 2, 3, 10, 6, (1, 1), **changes)).double().eval()
    folded, x = fold_norms(model), image(3, 2, 3, 8, 8)
    equal(folded, model, x)
    functional.reset_net(folded)
    remaining = [name for name, result in results(folded).items() if result == "remains"]
    # SpikingJelly's own neurons are no descriptions; batch_norm is followed by a mean.
    assert all("channel_mix" in name or "batch_norm" in name or ".BN" in name for name in remaining)


def test_a_token_norm_in_a_spikingjelly_model_becomes_thresholds():
    from spikingjelly.activation_based import functional, layer

    make = plugins.spikingjelly.make
    torch.manual_seed(0)
    model = nn.Sequential(
        layer.Linear(4, 6), layer.BatchNorm1d(5), make(neurons.LIF()), layer.Linear(6, 2)
    )
    functional.set_step_mode(model, "m")
    model, x = wake(model).double().eval(), 4 * torch.rand(6, 3, 5, 4, dtype=torch.float64)
    folded = fold_norms(model, make=make)
    assert results(folded) == {"1": "folded"}
    assert isinstance(folded[2], type(model[2]))
    equal(folded, model, x)


def test_a_snntorch_loop_folds():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
            self.lif = plugins.snntorch.make(neurons.Leaky(0.5))

        def forward(self, x):
            mem, spikes = None, []
            for step in range(3):
                spk, mem = self.lif(self.norm(self.fc(x[step])), mem)
                spikes.append(spk)
            return torch.stack(spikes)

    torch.manual_seed(0)
    model = wake(Net()).double().eval()
    folded = fold_norms(model)
    assert results(folded) == {"norm": "folded"}
    equal(folded, model, 3 * torch.rand(3, 5, 4, dtype=torch.float64))


def test_a_norse_sequence_folds():
    from norse.torch import Lift, SequentialState

    torch.manual_seed(0)
    neuron = plugins.norse.make(neurons.LIFBox(tau_mem_inv=500.0))
    part = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
    model = wake(SequentialState(Lift(part), neuron)).double().eval()
    folded = fold_norms(model)
    assert set(results(folded).values()) == {"folded"}
    x = 3 * torch.rand(4, 5, 4, dtype=torch.float64)
    assert torch.equal(folded(x)[0], model(x)[0])


@pytest.mark.parametrize("host", ["spikingjelly", "snntorch", "norse"])
def test_the_hosts_spiking_mlp_folds(host):
    make = getattr(plugins, host).make
    model = wake(small(bn_axis="token", make=make)).double().eval()
    folded = fold_norms(model, make=functools.partial(make))
    assert len(norms(folded)) == 2
    x = image(3, 1, 8, 8)
    assert (
        (folded(x) - copy.deepcopy(wake(small(bn_axis="token")).double().eval())(x))
        .isfinite()
        .all()
    )


# --- Bad input -------------------------------------------------------------------------------


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="training mode"):
        fold_norms(small())


def test_a_converted_network_whose_norms_are_folded_already_is_refused():
    net, x = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU()).eval(), torch.randn(8, 4)
    snn = convert.SignGD(8, progress=False).apply(net, x)
    with pytest.raises(ValueError, match=r"SignGDNetwork.* fold norms before the conversion"):
        fold_norms(snn)


def test_no_model_is_refused():
    with pytest.raises(TypeError, match="model: must be"):
        fold_norms([nn.Linear(1, 1)])


def test_the_model_is_left_as_it_was():
    model = wake(small()).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fold_norms(model, gains=True)
    assert not hasattr(model, "report")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_gains_stay_where_neurons_differ():
    model = ready(nn.Linear(4, 4), lif(tau=2.0), nn.Linear(4, 4), lif(tau=3.0))
    nn.init.constant_(model[2].bias, 3.2)
    folded = fold_norms(model, gains=True)
    assert "not every neuron" in folded.report.notes[0]
    equal(folded, model, 20 * torch.randn(6, 3, 4, dtype=torch.float64))


# --- What only looks as if it could be folded --------------------------------------------------

MAP = (4, 3, 8, 8)


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        # Zeros around the map, and a divisor of its own, are no average that a shift passes.
        (lambda: (lif(), nn.BatchNorm2d(3), nn.AvgPool2d(2, padding=1), nn.Conv2d(3, 4, 2)), MAP),
        (lambda: (nn.BatchNorm2d(3), nn.AvgPool2d(2, divisor_override=3), nn.Conv2d(3, 4, 2)), MAP),
        # Without flattening, a linear layer sums over positions.
        (lambda: (nn.BatchNorm2d(3), nn.Linear(9, 4)), (4, 3, 2, 9)),
        (lambda: (nn.BatchNorm2d(8), nn.Flatten(0, 2), nn.Linear(8, 4)), (4, 8, 8, 8)),
        (lambda: (nn.BatchNorm2d(3), nn.Flatten(2), nn.Linear(64, 4)), MAP),
        # A map without a batch has its channels elsewhere.
        (lambda: (nn.BatchNorm1d(4), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 2)), (5, 4, 8)),
        (lambda: (nn.BatchNorm2d(4), nn.Conv3d(4, 2, 1)), (4, 4, 5, 5)),
    ],
)
def test_a_norm_in_front_of_what_mixes_its_features_remains(layers, shape):
    model = ready(*layers())
    folded = fold_norms(model)
    assert "folded" not in results(folded).values()
    equal(folded, model, 3 * torch.randn(*shape, dtype=torch.float64))


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(2, divisor_override=3),
        nn.AvgPool2d((2,), padding=1),
        nn.AvgPool2d(3, ceil_mode=True, divisor_override=2),
    ],
    ids=str,
)
def test_every_divisor_of_a_pool_moves_into_the_weights(pool):
    model = ready(pool, nn.Conv2d(3, 4, 2))
    folded = fold_norms(model)
    assert results(folded) == {"0": "sum"}
    assert folded[0].divisor_override == 1
    equal(folded, model, torch.randn(*MAP, dtype=torch.float64))
    assert results(fold_norms(folded)) == {"0": "sum"}


class Two(nn.Module):
    """Modules, and a forward over them."""

    def __init__(self, forward, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.n(m.bn(x)) + m.n(m.fc(x)),
        lambda m, x: m.fc(m.bn(x)) + m.fc(x),
        lambda m, x: m.bn(m.fc(x)) + m.bn(x),
        lambda m, x: m.bn(m.fc(x)) + nn.functional.linear(x, m.fc.weight),
        lambda m, x: m.bn(m.fc(x)) + x @ (2 * m.fc.weight),
        lambda m, x: m.n(m.bn(x)) + m.bn.running_mean,
        lambda m, x: m.n(m.bn(x)) + m.inner(x),
    ],
)
def test_a_neighbour_that_serves_something_else_too_takes_no_norm(forward):
    neuron = lif()
    model = Two(
        forward, n=neuron, bn=nn.BatchNorm1d(4), fc=nn.Linear(4, 4), inner=nn.Sequential(neuron)
    )
    model = wake(model).double().eval()
    folded = fold_norms(model)
    assert results(folded) == {"bn": "remains"}
    equal(folded, model, 3 * torch.randn(6, 4, dtype=torch.float64))


def test_a_norm_and_its_layer_may_be_called_twice_together():
    linear, norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
    model = ready(linear, norm, linear, norm)
    folded = fold_norms(model)
    assert results(folded) == {"1": "folded"}
    assert norms(folded) == []
    equal(folded, model, torch.randn(5, 4, dtype=torch.float64))


def test_a_pool_called_twice_in_a_row_stays_an_average():
    pool = nn.AvgPool2d(2, stride=1)
    model = ready(pool, pool, nn.Conv2d(3, 2, 1))
    folded = fold_norms(model)
    assert results(folded) == {"0": "remains"}
    equal(folded, model, torch.randn(*MAP, dtype=torch.float64))


class Activated(nn.BatchNorm1d):
    def forward(self, input):
        return super().forward(input).relu()


class Standardised(nn.Linear):
    def forward(self, input):
        return nn.functional.linear(input, self.weight - self.weight.mean(), self.bias)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: (nn.Linear(4, 4), Activated(4)),
        lambda: (Standardised(4, 4), nn.BatchNorm1d(4)),
        lambda: (sjl.WSLinear(4, 4), nn.BatchNorm1d(4)),
        lambda: (hooked(nn.Linear(4, 4)), nn.BatchNorm1d(4)),
        lambda: (nn.Linear(4, 4), hooked(nn.BatchNorm1d(4))),
        lambda: (nn.Linear(4, 4), hooked(nn.Identity()), nn.BatchNorm1d(4)),
        lambda: (nn.BatchNorm1d(4), hooked(lif())),
    ],
)
def test_a_layer_that_does_more_than_torchs_takes_no_norm(layers):
    model = ready(*layers())
    folded = fold_norms(model)
    assert "folded" not in results(folded).values()
    equal(folded, model, 3 * torch.randn(6, 4, dtype=torch.float64))


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda module, args, y: y.abs())
    return module


def test_a_dropout_that_drops_ends_the_way():
    model = ready(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4))
    model[1].train()
    assert results(fold_norms(model)) == {"2": "remains"}


def compressed(forward, **parts):
    """A network that was pruned and quantised, and a sample."""
    model = wake(Two(forward, **parts)).double().eval()
    x = 3 * torch.rand(5, 3, 4, dtype=torch.float64)
    stats = compress.calibrate(model, [x])
    compress.prune(model, stats, 0.5)
    compress.quantize(model, stats, 4)
    return model, x


def on_grid(layer):
    codes = layer.weight_codes.double().flatten(1)
    return torch.equal(layer.weight.flatten(1), layer.weight_scale[:, None] * codes)


def test_a_pruned_and_quantised_layer_takes_a_norm_of_its_outputs_and_keeps_its_codes():
    def forward(model, x):
        return model.n(model.bn(model.fc(x.flatten(0, 1))).unflatten(0, x.shape[:2]))

    norm = nn.BatchNorm1d(4)
    model, x = compressed(forward, fc=nn.Linear(4, 4), bn=norm, n=lif())
    with torch.no_grad():
        model.bn.weight[:2] = torch.tensor([-0.5, 0.0])  # turns the row around, leaves nothing
    folded = fold_norms(model)
    assert results(folded) == {"bn": "folded"}
    assert on_grid(folded.fc)
    assert torch.equal(folded.fc.weight_codes[2:], model.fc.weight_codes[2:])
    assert torch.equal(folded.fc.weight_codes[0], model.fc.weight_codes[0])
    assert not folded.fc.weight_codes[1].any()
    gain = (model.bn.weight / (model.bn.running_var + model.bn.eps).sqrt())[[0, 2, 3]]
    torch.testing.assert_close(
        folded.fc.weight_scale[[0, 2, 3]], gain * model.fc.weight_scale[[0, 2, 3]]
    )
    equal(folded, model, x)
    assert not folded.fc.weight[model.fc.weight_mask].any()


def test_a_quantised_layer_behind_an_average_pool_keeps_its_codes():
    def forward(model, x):
        pooled = model.pool(model.first(x).unflatten(2, (1, 2, 2)).flatten(0, 1))
        return model.fc(pooled.flatten(1)).unflatten(0, x.shape[:2])

    model, x = compressed(forward, first=lif(), pool=nn.AvgPool2d(2), fc=nn.Linear(1, 3))
    folded = fold_norms(model)
    assert results(folded) == {"pool": "sum"}
    assert on_grid(folded.fc)
    torch.testing.assert_close(folded.fc.weight_scale, model.fc.weight_scale / 4)
    equal(folded, model, x)


def test_a_quantised_layer_that_takes_a_factor_for_each_input_says_that_it_leaves_its_grid():
    def forward(model, x):
        return model.fc(model.bn(x.flatten(0, 1))).unflatten(0, x.shape[:2])

    model, x = compressed(forward, bn=nn.BatchNorm1d(4), fc=nn.Linear(4, 3))
    folded = fold_norms(model)
    assert folded.report.column("why") == ["into weights of fc, which leave their grid"]
    assert set(dict(folded.fc.named_buffers())) == {"weight_mask"}
    equal(folded, model, x)


def test_a_neuron_of_another_kind_than_make_makes_keeps_its_norm():
    model = ready(nn.BatchNorm1d(4), plugins.spikingjelly.LIFNode(step_mode="s"))
    folded = fold_norms(model)
    assert results(folded) == {"0": "remains"}
    assert "plugins.<host>.make" in str(folded.report)
    folded = fold_norms(model, make=plugins.spikingjelly.make)
    assert results(folded) == {"0": "folded"}
    for x in 3 * torch.randn(5, 6, 4, dtype=torch.float64):
        assert torch.equal(folded(x), model(x))


def test_a_neuron_whose_potential_is_handed_on_keeps_its_norm():
    def forward(model, x):
        spikes, potential = model.n(model.bn(x))
        return spikes + potential

    make = plugins.snntorch.make
    model = Two(forward, bn=nn.BatchNorm1d(4), n=make(neurons.LIF()))
    model = wake(model).double().eval()
    folded = fold_norms(model, make=make)
    assert results(folded) == {"bn": "remains"}
    equal(folded, model, 3 * torch.randn(6, 4, dtype=torch.float64))


def test_a_subclass_of_lif_with_a_step_of_its_own_keeps_its_norm():
    class Doubled(neurons.LIF):
        def _charge(self, x, v, p):
            return super()._charge(x + x, v, p)

    model = ready(nn.BatchNorm1d(4), spikeloom.SpikingLayer(Doubled()))
    folded = fold_norms(model)
    assert results(folded) == {"0": "remains"}
    equal(folded, model, 3 * torch.randn(6, 4, dtype=torch.float64))


def test_modules_that_unseen_code_calls_are_left_alone():
    def forward(model, x):
        return model.part(x) + model.fc(x) if x.sum() < 1e9 else x

    linear = nn.Linear(4, 4)
    model = Two(forward, fc=linear, part=nn.Sequential(linear, nn.BatchNorm1d(4)))
    model = wake(model).double().eval()
    folded = fold_norms(model)
    assert results(folded) == {"part.1": "remains"}
    equal(folded, model, torch.randn(5, 4, dtype=torch.float64))


def test_a_forward_of_the_instance_is_not_taken_for_that_of_the_class():
    model = Two(lambda m, x: m.bn(m.fc(x)), fc=nn.Linear(4, 4), bn=nn.BatchNorm1d(4))
    model = wake(model).double().eval()
    model.forward = lambda x: model.bn(model.fc(x).relu())
    assert results(fold_norms(model)) == {"bn": "remains"}


@pytest.mark.parametrize("call", [lambda m, x: m.n(m.fc(x) + 1.0), lambda m, x: m.n(m.fc(x).T)])
def test_gains_do_not_scale_what_is_no_weight(call):
    model = Two(call, fc=nn.Linear(4, 4), n=lif()).double().eval()
    folded = fold_norms(model, gains=True)
    assert "Input gains remain" in folded.report.notes[0]
    equal(folded, model, 3 * torch.randn(6, 4, dtype=torch.float64))


def test_layers_may_be_called_by_keyword():
    model = Two(lambda m, x: m.bn(input=m.fc(input=x)), fc=nn.Linear(4, 3), bn=nn.BatchNorm1d(3))
    model = wake(model).double().eval()
    folded = fold_norms(model)
    assert results(folded) == {"bn": "folded"}
    equal(folded, model, torch.randn(5, 4, dtype=torch.float64))


def test_norms_and_pools_to_keep_are_kept():
    model = ready(nn.Conv2d(3, 3, 2), nn.BatchNorm2d(3), nn.AvgPool2d(2), nn.Conv2d(3, 3, 1))
    assert set(results(fold_norms(model)).values()) == {"folded", "sum"}
    folded = fold_norms(model, keep=["1", "2"])
    assert set(results(folded).values()) == {"remains"}
    assert "as asked" in str(folded.report)


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        ("1", TypeError, r"keep: must be names of modules, such as \['1'\], got '1'"),
        (["7"], ValueError, "keep: the model has no module '7'"),
    ],
)
def test_what_to_keep_must_be_names_of_modules(keep, error, message):
    with pytest.raises(error, match=message):
        fold_norms(ready(nn.Linear(4, 4), nn.BatchNorm1d(4)), keep=keep)
