"""Converted blocks in the hosts' containers, and sites that fire through the hosts' modules."""

import copy
import os

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import convert, neurons, run
from spikeloom.convert import LAS, set_form

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HOSTS = ("spikingjelly", "snntorch", "norse")
in_every_host = pytest.mark.parametrize("name", HOSTS)


def host(name):
    pytest.importorskip(name)
    return pytest.importorskip(f"spikeloom.plugins.{name}")


@pytest.fixture
def block():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.LayerNorm(16)).eval()
    return LAS(steps=8, progress=False).apply(model, [torch.randn(32, 4)])


@torch.no_grad()
def test_a_block_in_snntorch_s_sequential(block):
    loom = host("snntorch")
    net = nn.Sequential(block, nn.Linear(16, 3), loom.Leaky(beta=0.9, init_hidden=True))
    alone = loom.Leaky(beta=0.9, init_hidden=True)
    for x in torch.randn(5, 2, 4):
        assert torch.equal(net(x), alone(net[1](block(x))))


@torch.no_grad()
def test_a_block_in_norse_s_sequential(block):
    norse, loom = pytest.importorskip("norse.torch"), host("norse")
    net = norse.SequentialState(block, nn.Linear(16, 3), loom.LIFBox())
    x = torch.randn(5, 2, 4)
    spikes, state = net(x)
    expected, last = loom.LIFBox()(net[1](block(x)))
    assert torch.equal(spikes, expected)
    assert state[0] is None and torch.equal(state[2].v, last.v)


@torch.no_grad()
def test_a_block_in_spikingjelly_s_containers(block):
    loom = host("spikingjelly")
    from spikingjelly.activation_based import functional, layer

    net = nn.Sequential(layer.SeqToANNContainer(block), loom.LIFNode(step_mode="m"))
    x = torch.randn(5, 2, 4)
    assert torch.equal(net(x), loom.LIFNode(step_mode="m")(block(x)))
    functional.reset_net(net)
    functional.set_step_mode(net, "m")
    assert net(x).shape == (5, 2, 16)


@in_every_host
@pytest.mark.parametrize(
    "neuron",
    [
        neurons.OAT(8, torch.linspace(0.5, 2, 6), 8.0, rounding="nearest"),
        neurons.fit_hg("gelu", -8.0, 8.0, 8, segments=16),
    ],
    ids=["OAT", "HG"],
)
def test_a_host_s_module_fires_the_same_spikes(name, neuron):
    torch.manual_seed(0)
    x = torch.randn(1, 20, 6) * 2
    found = host(name).make(neuron)(x)
    found = found[0] if isinstance(found, tuple) else found
    assert torch.equal(found, run(neuron, x)[0])


@torch.no_grad()
@in_every_host
def test_a_network_fires_through_a_host_s_modules(name, converted):
    from tests.convert.las.families import build, inputs

    batch, few = inputs("bert"), {"input_ids": inputs("bert")["input_ids"][:2]}
    network = copy.deepcopy(converted("bert")[1])
    set_form(network, "spikes")
    expected, saved = network(**batch)[0], set(network.state_dict())
    recipe = LAS(steps=10, progress=False, make=host(name).make)
    made = recipe.apply(build("bert"), [batch])
    nodes = [key for key, _ in made.named_modules() if key.endswith(".node")]
    assert "encoder.layer.0.intermediate.intermediate_act_fn.node" in nodes
    assert "encoder.layer.0.attention.self.las.q.node" in nodes
    assert torch.equal(made(**batch)[0], expected)
    assert torch.equal(made(**few)[0], expected[:2])
    # The ranges are saved once, and with them the modules are not needed.
    assert set(made.state_dict()) == saved
    set_form(made, "decoded")
    assert not any(key.endswith(".node") for key, _ in made.named_modules())
    assert torch.equal(made(**batch)[0], converted("bert")[1](**batch)[0])


@torch.no_grad()
def test_a_loaded_network_fires_through_a_host_s_modules(converted, tmp_path):
    from tests.convert.las.families import inputs

    network = copy.deepcopy(converted("bert")[1])
    network.save_pretrained(tmp_path)
    set_form(network, "spikes")
    again = convert.load_las(tmp_path)
    set_form(again, "spikes", host("norse").make)
    assert torch.equal(again(**inputs("bert"))[0], network(**inputs("bert"))[0])


@torch.no_grad()
@in_every_host
def test_a_host_s_modules_fire_from_rest_every_time(name, block):
    x = torch.randn(5, 4)
    set_form(block, "spikes")
    expected = block(x)
    set_form(block, "spikes", host(name).make)
    assert torch.equal(block(x), expected)
    # A matrix product of fewer rows may round otherwise.
    torch.testing.assert_close(block(x[:3]), expected[:3])


@torch.no_grad()
def test_a_module_set_to_one_step_is_given_the_whole_sequence(block):
    loom, x = host("spikingjelly"), torch.randn(5, 4)
    set_form(block, "spikes")
    expected = block(x)
    set_form(block, "spikes", lambda neuron: loom.make(neuron, step_mode="s"))
    assert torch.equal(block(x), expected)


class Passes(spikeloom.SpikingLayer):
    """Fires until it is told to pass on what it is given."""

    passes = False

    def forward(self, x):
        return x if self.passes else super().forward(x)


def test_modules_that_yield_no_spikes_of_the_neuron_are_refused(block, monkeypatch):
    with pytest.raises(TypeError, match="make: returns a Identity, which does not answer"):
        set_form(block, "spikes", lambda neuron: nn.Identity())
    set_form(block, "spikes", Passes)
    monkeypatch.setattr(Passes, "passes", True)
    with pytest.raises(ValueError, match=r"make: Passes yields .* not 8 spikes for each"):
        block(torch.randn(2, 4))
    with pytest.raises(ValueError, match="make needs the form 'spikes', got 'decoded'"):
        set_form(block, "decoded", lambda neuron: nn.Identity())
