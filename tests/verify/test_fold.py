"""Folding norms: exact in float64, in any framework's model, and honest about what remains."""

import copy
import functools

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import neurons, plugins
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
