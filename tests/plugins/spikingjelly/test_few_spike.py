"""OATNode and HGNode equal SpikingJelly's own nodes when given the same tables."""

import pytest
import torch
from spikingjelly.activation_based import ann2snn, functional, surrogate
from spikingjelly.activation_based import neuron as host
from torch import nn

import spikeloom
from spikeloom import neurons
from spikeloom.plugins import components
from spikeloom.plugins.spikingjelly import HGNode, LASRecipe, OATNode, few_spike_tables, make


def values():
    torch.manual_seed(0)
    return torch.cat([torch.randn(300) * 3, torch.arange(-20, 21) * 0.25, torch.tensor([50.0])])


def table(reach, steps):
    theta = [reach * 2.0**-k for k in range(1, steps + 1)]
    return host.FewSpikeTable(theta, theta, theta)


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_oat_equals_the_host_s_node_bit_for_bit(steps):
    theirs = host.OutlierAwareThresholdNode(table(1.0, steps), table(10.0, steps), 1.0, 10.0)
    ours = OATNode(steps, 1.0, 10.0, tie="ge")
    x = values()
    assert torch.equal(ours(x), theirs(x))
    for node in (ours, theirs):
        functional.set_step_mode(node, "m")
    sequence = torch.zeros(steps, len(x))
    sequence[0] = x
    assert torch.equal(ours(sequence), theirs(sequence))


def test_hg_equals_the_host_s_node_bit_for_bit():
    torch.manual_seed(1)
    tables = [host.FewSpikeTable(*torch.rand(3, 5)) for _ in range(3)]
    theirs, ours = host.HGNode(tables, [-1.0, 2.0]), HGNode([-1.0, 2.0], tables, tie="ge")
    x = values()
    assert torch.equal(ours(x), theirs(x))


def test_tables_travel_to_the_host_and_back():
    neuron = neurons.OAT(6, 1.0, 10.0, tie="ge")
    normal, outlier = few_spike_tables(neuron)
    theirs = host.OutlierAwareThresholdNode(normal, outlier, 1.0, 10.0)
    x = values()
    assert torch.equal(theirs(x), spikeloom.run(neuron, x[None], reduce="sum")[0])
    few = neurons.FewSpike(normal.theta, normal.h, normal.d, tie="ge")
    (again,) = few_spike_tables(few)
    assert torch.equal(again.theta, normal.theta)


def test_a_generated_table_runs_in_the_host_s_node():
    neuron = neurons.fit_hg("gelu", -6, 6, 8, segments=16, tie="ge")
    tables = few_spike_tables(neuron)
    theirs = host.HGNode(tables, neuron.boundaries)
    x = torch.linspace(-5.99, 5.99, 1001, dtype=torch.float64)
    # In float64, because the first step subtracts a large number from nothing.
    found = theirs.double()(x)
    assert (found - torch.nn.functional.gelu(x)).abs().max() <= neuron.max_error * 1.01


def test_a_table_with_channels_is_refused():
    with pytest.raises(ValueError, match="has no channels"):
        few_spike_tables(neurons.OAT(4, torch.tensor([1.0, 2.0]), 8.0))
    with pytest.raises(TypeError, match="must be a few-spike neuron"):
        few_spike_tables(neurons.LIF())


def test_the_host_s_surrogates_are_understood():
    x = values().requires_grad_()
    OATNode(4, 1.0, 10.0, surrogate=surrogate.ATan())(x).sum().backward()
    assert x.grad.isfinite().all() and (x.grad != 0).any()


def test_nodes_are_listed_and_obey_the_host():
    listed = {c.name for c in components() if c.host == "spikingjelly"}
    assert {"OATNode", "HGNode"} <= listed
    net = nn.Sequential(nn.Linear(3, 4), OATNode(5, 1.0, 4.0), make(neurons.OAT(5)))
    functional.set_step_mode(net, "m")
    assert net(torch.randn(2, 7, 3)).shape == (5, 7, 4)
    functional.reset_net(net)
    assert net[1].v == 0.0


@torch.no_grad()
def test_the_recipe_converts_and_obeys_the_host():
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 2)).eval()
    recipe = LASRecipe([torch.randn(64, 4)], steps=10, progress=False)
    snn = ann2snn.ModuleConverter(recipe).convert(ann)
    x = torch.randn(8, 4) * 0.5
    expected = ann(x)
    assert ((snn(x) - expected).norm() / expected.norm()) < 0.01
    functional.set_step_mode(snn, "m")
    functional.reset_net(snn)
    assert torch.equal(snn(x), snn(x))
    assert "LAS" in str(snn.report)
