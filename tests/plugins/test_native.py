"""A network with a host's own neurons: what holds for every host."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import Neuron, neurons, plugins
from spikeloom.kernel.vocabulary import fire
from spikeloom.plugins import NoCounterpart
from spikeloom.plugins.native import _drives, replaced


def integrate(x, state, p):
    (v,) = state
    s = fire(v + x - 1.0)
    return s, (v + x - s,)


def equal(host):
    """A neuron of ours that the host has too."""
    if host == "norse":
        return plugins.norse.LIFBoxCell()
    return {
        "spikingjelly": plugins.spikingjelly.LIFNode,
        "snntorch": lambda: plugins.snntorch.Leaky(0.5, init_hidden=True),
    }[host]()


def made(host, neuron):
    plugin = getattr(plugins, host)
    return plugin.make_cell(neuron) if host == "norse" else plugin.make(neuron)


HOSTS = ("spikingjelly", "snntorch", "norse")
NAMES = {"spikingjelly": "SpikingJelly", "snntorch": "snnTorch", "norse": "Norse"}


class Nested(nn.Module):
    def __init__(self, host):
        super().__init__()
        self.block = nn.ModuleDict({"fc": nn.Linear(3, 4), "lif": equal(host)})
        self.again = self.block["lif"]


@pytest.mark.parametrize("host", HOSTS)
def test_a_copy_is_returned_and_the_network_left_alone(host):
    net = Nested(host)
    before = copy.deepcopy(net.state_dict())
    native = getattr(plugins, host).to_host(net)
    assert type(native.again).__module__.split(".")[0] == host
    assert native.again is native.block["lif"]
    assert isinstance(net.again, type(equal(host)))
    assert torch.equal(native.block["fc"].weight, net.block["fc"].weight)
    with torch.no_grad():
        native.block["fc"].weight.zero_()
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("host", HOSTS)
def test_a_neuron_alone_is_a_network_too(host):
    native = getattr(plugins, host).to_host(equal(host))
    assert type(native).__module__.split(".")[0] == host


@pytest.mark.parametrize("host", HOSTS)
def test_training_mode_is_kept(host):
    net = Nested(host)
    net.block["lif"].eval()
    native = getattr(plugins, host).to_host(net)
    assert native.training and not native.again.training


@pytest.mark.parametrize("host", HOSTS)
def test_every_neuron_without_counterpart_is_named_with_its_reason(host):
    plugin = getattr(plugins, host)
    other = "norse" if host == "snntorch" else "snntorch"
    net = nn.ModuleDict(
        {
            "good": equal(host),
            "own": made(host, Neuron(integrate)),
            "deep": nn.Sequential(nn.Linear(2, 2), made(host, neurons.SignGD())),
            "filter": made(host, neurons.Trace(0.5)),
            "plain": spikeloom.SpikingLayer(neurons.LIF()),
            "other": equal(other),
        }
    )
    with pytest.raises(NoCounterpart) as caught:
        plugin.to_host(net)
    found = {neuron.module: neuron.reason for neuron in caught.value.neurons}
    assert set(found) == {"own", "deep.1", "filter", "plain", "other"}
    assert found["own"] == f"{NAMES[host]} has no integrate"
    assert found["deep.1"].startswith(f"{NAMES[host]} has no SignGD")
    assert found["plain"] == found["other"]
    assert f"spikeloom.plugins.{host}" in found["plain"]
    assert all(f"{name} (" in str(caught.value) for name in found)


def test_the_error_can_be_pickled():
    with pytest.raises(NoCounterpart) as caught:
        plugins.norse.to_host(spikeloom.SpikingLayer(neurons.LIF()))
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.neurons == caught.value.neurons


def tables():
    from spikeloom.plugins.norse import native as norse
    from spikeloom.plugins.snntorch import native as snntorch
    from spikeloom.plugins.spikingjelly import native as spikingjelly

    return {"spikingjelly": spikingjelly, "snntorch": snntorch, "norse": norse}


@pytest.mark.parametrize("host", HOSTS)
def test_a_table_that_takes_the_wrong_side_of_the_threshold_is_noticed(host):
    """Below the threshold by one rounding is at the threshold, for neurons that fire above it."""
    table = tables()[host].NATIVE

    def build(module):
        native = table.build(module)
        down = torch.tensor(1.0).nextafter(torch.tensor(0.0))
        if host == "norse":
            native.p = native.p._replace(v_th=down)
        elif host == "snntorch":
            native.threshold = down
        else:
            native.v_threshold = float(torch.tensor(1.0).nextafter(torch.tensor(2.0)))
        return native

    neuron = equal(host) if host != "norse" else plugins.norse.LIFBoxCell(p_fast())
    replaced(neuron, None, table)
    with pytest.raises(NoCounterpart, match="on ties"):
        replaced(neuron, None, replace(table, build=build))


def p_fast():
    from norse.torch import LIFBoxParameters

    return LIFBoxParameters(tau_mem_inv=torch.tensor(500.0))


def test_the_network_itself_is_compared_on_a_sample():
    class Moody(nn.Module):
        """Answers by the class of its neuron."""

        def __init__(self):
            super().__init__()
            self.lif = plugins.spikingjelly.LIFNode(step_mode="m")

        def forward(self, x):
            spikes = self.lif(x)
            return spikes if hasattr(self.lif, "neuron") else 1 - spikes

    assert plugins.spikingjelly.to_host(Moody())
    with pytest.raises(NoCounterpart, match=r"the network \(Moody\): on the sample 24 of 24"):
        plugins.spikingjelly.to_host(Moody(), torch.rand(4, 2, 3))


@pytest.mark.parametrize("host", HOSTS)
def test_drives_make_neurons_fire_and_reach_their_thresholds(host):
    neuron = equal(host) if host != "norse" else plugins.norse.LIFBoxCell(p_fast())
    for name, x in _drives(neuron):
        spikes = tables()[host].NATIVE.run(neuron, x)
        assert 0.1 < spikes.mean() < 0.9, name


@pytest.mark.parametrize("host", HOSTS)
def test_random_numbers_of_the_user_are_left_alone(host):
    net = Nested(host)
    state = torch.get_rng_state()
    getattr(plugins, host).to_host(net)
    assert torch.equal(torch.get_rng_state(), state)


def test_only_networks_are_taken():
    with pytest.raises(TypeError, match="net: must be"):
        plugins.norse.to_host("net")
