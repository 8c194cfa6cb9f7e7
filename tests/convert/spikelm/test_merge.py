"""Amplitudes that go from neurons into the weights behind them, in plain networks."""

import functools

import norse.torch as norse
import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import plugins
from spikeloom.convert import BiSpikes, merge_amplitude
from spikeloom.neurons import ElasticBiSpike

# What stands in an nn.Sequential, in every framework.
MODULES = {
    "neutral": spikeloom.SpikingLayer,
    "spikingjelly": plugins.spikingjelly.make,
    "spikingjelly's class": lambda neuron: plugins.spikingjelly.ElasticBiSpikeNode(
        neuron.params["alpha"], step_mode="m", store_v_seq=True
    ),
    "snntorch": functools.partial(plugins.snntorch.make, init_hidden=True, time_first=True),
    "norse": plugins.norse.make,
    "norse, by BiSpikes": lambda neuron: BiSpikes(neuron, rule="fixed", make=plugins.norse.make),
    "snntorch, by BiSpikes": lambda neuron: BiSpikes(
        neuron, rule="fixed", make=plugins.snntorch.make
    ),
}
MODULES = [pytest.param(make, id=name) for name, make in MODULES.items()]


def spiking(alpha=0.6):
    return spikeloom.SpikingLayer(ElasticBiSpike(alpha))


def sequence(*modules):
    """Norse's neurons return their state, which its own container keeps."""
    stateful = any(isinstance(m, plugins.norse.SpikeloomSequence) for m in modules)
    return norse.SequentialState(*modules) if stateful else nn.Sequential(*modules)


def output(net, x):
    y = net(x)
    return y[0] if isinstance(y, tuple) else y


def is_unit(module, args, y):
    y = y[0] if isinstance(y, tuple) else y
    assert ((y == 0) | (y.abs() == 1)).all() and y.any()


@pytest.mark.parametrize("make", MODULES)
@pytest.mark.parametrize(
    "alpha",
    [0.6, torch.tensor(0.6), [0.6, 0.9, 1.2], torch.rand(1, 6) + 0.3],
    ids=["number", "shared", "per step", "per feature"],
)
@pytest.mark.parametrize("bias", [True, False])
def test_every_frameworks_neurons_merge_and_stay_what_they_were(make, alpha, bias):
    net = sequence(make(ElasticBiSpike(alpha)), nn.Linear(6, 4, bias=bias), nn.ReLU())
    merged = merge_amplitude(net)
    merged[0].register_forward_hook(is_unit)
    assert type(merged) is type(net) and type(merged[0]) is type(net[0])
    # The second call goes on from the state of the first where the framework says so.
    for _ in range(2):
        x = torch.randn(3, 5, 6)
        torch.testing.assert_close(output(merged, x), output(net, x))
    assert vars(net[0]).keys() == vars(merged[0]).keys()


@pytest.mark.parametrize("training", [True, False])
def test_every_part_of_a_merged_network_is_in_the_mode_of_the_network(training):
    net = nn.Sequential(spiking([0.6, 0.9]), nn.Linear(3, 2)).train(training)
    assert {module.training for module in merge_amplitude(net).modules()} == {training}


def test_settings_of_a_module_stay():
    node = plugins.spikingjelly.ElasticBiSpikeNode(0.5, step_mode="m", store_v_seq=True)
    merged = merge_amplitude(nn.Sequential(node, nn.Linear(3, 2)))
    assert merged[0].store_v_seq and merged[0].step_mode == "m"
    assert merged[0].neuron.unit_spikes and not node.neuron.unit_spikes


def test_a_learned_amplitude_is_taken_as_it_is_now_and_learns_no_more():
    net = nn.Sequential(spiking(nn.Parameter(torch.ones(()))), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].alpha.fill_(0.25)
    merged = merge_amplitude(net)
    assert torch.equal(merged[1].weight, net[1].weight * 0.25)
    assert [name for name, _ in merged.named_parameters()] == ["1.weight", "1.bias"]
    assert merged[0].state_dict().keys() == net[0].state_dict().keys()


def test_neurons_before_a_convolution_merge():
    x = torch.randn(2, 3, 4, 8, 8)
    for alpha in (0.7, [0.5, 0.9]):
        layer, conv = spiking(alpha), nn.Conv2d(4, 5, 3)
        merged = merge_amplitude(nn.Sequential(layer, conv))
        y = conv(layer(x).flatten(0, 1))
        found = merged[1](merged[0](x).flatten(0, 1))
        torch.testing.assert_close(found, y)


@pytest.mark.parametrize("alpha", [0.6, [0.6, 0.9, 1.2]], ids=["shared", "per step"])
def test_a_block_that_is_called_twice_is_merged_once(alpha):
    block = nn.Sequential(spiking(alpha), nn.Linear(6, 6))
    layer, linear = block
    x = torch.randn(3, 5, 6)
    for net in (
        nn.Sequential(block, nn.ReLU(), block),
        nn.Sequential(layer, linear, layer, linear),
    ):
        torch.testing.assert_close(merge_amplitude(net)(x), net(x))


def test_a_bias_that_two_layers_share_stays_in_both():
    net = nn.Sequential(spiking([0.6, 0.9, 1.2]), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    net[3].bias = net[1].bias
    merged, x = merge_amplitude(net), torch.randn(3, 5, 6)
    torch.testing.assert_close(merged(x), net(x))


def test_one_neuron_before_two_layers_goes_into_both():
    layer = spiking()
    net = nn.Sequential(layer, nn.Linear(6, 6), layer, nn.Linear(6, 4))
    merged, x = merge_amplitude(net), torch.randn(3, 5, 6)
    torch.testing.assert_close(merged(x), net(x))
    assert merged[0] is merged[2] and merged[0].neuron.unit_spikes


def test_a_module_between_neuron_and_layer_is_seen_also_when_it_stands_twice():
    shift = nn.Softplus()
    net = nn.Sequential(shift, spiking(), shift, nn.Linear(6, 4), spiking(), nn.Linear(4, 2))
    merged, x = merge_amplitude(net), torch.randn(3, 5, 6)
    torch.testing.assert_close(merged(x), net(x))
    assert not merged[1].neuron.unit_spikes and merged[4].neuron.unit_spikes


def test_layers_made_of_one_description_share_no_amplitude_behind_it():
    neuron = ElasticBiSpike(torch.tensor(0.6))
    first, last = spikeloom.SpikingLayer(neuron), spikeloom.SpikingLayer(neuron)
    net = nn.Sequential(first, nn.Linear(6, 4), last)
    merged, x = merge_amplitude(net), torch.randn(3, 5, 6)
    torch.testing.assert_close(merged(x), net(x))
    assert merged[0].neuron.unit_spikes and not merged[2].neuron.unit_spikes


# --- What cannot be merged ------------------------------------------------------------------------


def merged_before():
    return merge_amplitude(nn.Sequential(spiking(), nn.Linear(6, 4)))


def one_layer_behind_two_neurons(alpha=0.6):
    linear = nn.Linear(6, 6)
    return nn.Sequential(spiking(alpha), linear, nn.ReLU(), spiking(0.9), linear)


def tied_weights():
    net = nn.Sequential(spiking(), nn.Linear(6, 6), nn.ReLU(), spiking(), nn.Linear(6, 6))
    net[4].weight = net[1].weight
    return net


def a_layer_of_its_own_too():
    net = nn.Module()
    net.head = nn.Linear(6, 4)
    net.body = nn.Sequential(spiking(), net.head)
    return net


def a_neuron_of_its_own_too():
    net = nn.Module()
    net.lif = spiking()
    net.body = nn.Sequential(net.lif, nn.Linear(6, 4))
    return net


def a_neuron_before_something_else_too():
    layer = spiking()
    return nn.Sequential(layer, nn.Linear(6, 6), layer)


def a_computed_weight():
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
    return nn.Sequential(spiking(), linear)


def a_negative_amplitude():
    net = nn.Sequential(spiking(nn.Parameter(torch.ones(()))), nn.Linear(6, 4))
    net[0].alpha.data.fill_(-1.0)
    return net


def channels_before_a_convolution():
    return nn.Sequential(spiking(torch.ones(4, 1, 1)), nn.Conv2d(4, 5, 3))


class Elsewhere(nn.Module):
    """A module of a framework that keeps the description out of reach."""

    def __init__(self):
        super().__init__()
        self.kept = [ElasticBiSpike(0.5)]

    @property
    def neuron(self):
        return self.kept[0]


class Adapted(nn.Linear):
    """A linear layer with a second weight, which an amplitude would not reach."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.low_rank = nn.Parameter(torch.randn(*sizes))

    def forward(self, x):
        return super().forward(x) + x @ self.low_rank


@pytest.mark.parametrize(
    "net, message",
    [
        (merged_before, "\n  0: sends unit spikes already"),
        (
            one_layer_behind_two_neurons,
            "\n  1: its weight is at '4' too, which neuron 0 does not feed",
        ),
        (
            lambda: one_layer_behind_two_neurons([0.6, 0.9]),
            "\n  4: its weight is at '1' too, which neuron 3 does not feed",
        ),
        (tied_weights, "\n  1: its weight is at '4' too, which neuron 0 does not feed"),
        (a_layer_of_its_own_too, r"\n  body\.1: its weight is at 'head' too"),
        (a_neuron_of_its_own_too, r"\n  body\.0: is at 'lif' too"),
        (a_neuron_before_something_else_too, "\n  0: is at '2' too, with no weight layer"),
        (a_computed_weight, "\n  1: its weight is computed anew in each call"),
        (a_negative_amplitude, "\n  0: has learned an amplitude that is not positive"),
        (channels_before_a_convolution, "\n  1: a Conv2d cannot absorb amplitudes of shape"),
        (
            lambda: nn.Sequential(Elsewhere(), nn.Linear(2, 2)),
            "\n  0: Elsewhere does not let its neuron be replaced",
        ),
        (
            lambda: nn.Sequential(BiSpikes(ElasticBiSpike(torch.ones(2))), nn.Linear(2, 2)),
            "\n  0: has no amplitude yet",
        ),
        (
            lambda: nn.Sequential(spiking(), Adapted(2, 2)),
            "\n  1: a Adapted computes with 'low_rank' too; put a plain layer there",
        ),
        (
            lambda: nn.Sequential(spiking([0.5, 0.7]), Adapted(2, 2)),
            "\n  1: a Adapted computes with 'low_rank' too; put a plain layer there",
        ),
        (lambda: nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), "no elastic bi-spiking neurons"),
    ],
)
def test_what_would_compute_something_else_is_refused_by_name(net, message):
    net = net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        merge_amplitude(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
