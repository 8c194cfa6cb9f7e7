"""Two networks on one input, spike by spike."""

import pytest
import torch
from torch import nn

from spikeloom import SpikingLayer, export, neurons
from spikeloom.verify import compare


def network(seed=0, tau=2.0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(5, 8),
        SpikingLayer(neurons.LIF(tau=2.0)),
        nn.Linear(8, 3),
        SpikingLayer(neurons.LIF(tau=tau)),
    )
    for layer in net[::2]:
        nn.init.normal_(layer.weight)
    return net


def sample():
    return 2 * torch.rand(9, 4, 5, generator=torch.Generator().manual_seed(1))


def test_a_network_equals_its_copy_in_every_neuron():
    report = compare(network(), network(), sample())
    assert report.ok and report.column("differing") == [0, 0, 0]
    assert report.column("first step") == [None] * 3


def test_spikes_and_differences_are_those_that_a_plain_loop_counts():
    a, b, x = network(), network(tau=4.0), sample()
    report = compare(a, b, x)
    y, z = a(x), b(x)
    unlike = [(t, int((y[t] != z[t]).sum())) for t in range(len(x))]
    assert not report.ok
    row = dict(zip(report.columns, report.rows[-1], strict=True))
    assert row["spikes in A"] == int((y != 0).sum())
    assert row["spikes in B"] == int((z != 0).sum())
    assert row["differing"] == sum(count for _, count in unlike) > 0
    assert row["first step"] == next(t for t, count in unlike if count)
    # The layer in front of the changed one fires alike.
    assert report.rows[0][5] == 0


def test_a_file_fires_what_the_network_fires_whatever_its_nodes_are_called():
    net = nn.ModuleDict({"net": network()})["net"]
    graph, _ = export.to_nir(net, sample())
    graph.nodes["spiking"] = graph.nodes.pop("1")
    graph.edges = [
        tuple("spiking" if name == "1" else name for name in edge) for edge in graph.edges
    ]
    report = compare(net, export.from_nir(graph), sample())
    assert report.ok and report.column("in B")[0] == "spiking"


def test_single_steps_and_whole_sequences_are_compared_step_by_step():
    from spikingjelly.activation_based import functional, neuron

    net = network()
    host = nn.Sequential(net[0], neuron.LIFNode(), net[2], neuron.LIFNode())
    report = compare(net, host, sample())
    assert report.ok and report.column("values") == [9 * 4 * 8, 9 * 4 * 3, 9 * 4 * 3]
    functional.set_step_mode(host, "m")
    assert compare(net, host, sample()).ok


def test_a_state_that_is_handed_on_is_handed_on():
    import norse.torch as norse

    from spikeloom.plugins import norse as loom

    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    ours, own = (
        norse.SequentialState(layer, cell) for cell in (loom.LIFBoxCell(), norse.LIFBoxCell())
    )
    x = 400 * sample()
    report = compare(ours, own, x)
    assert report.ok and report.column("spikes in A")[-1] > 0


def test_other_numbers_of_neurons_leave_the_output():
    net = network()
    report = compare(net, net[:2], sample())
    assert len(report.rows) == 1 and not report.ok
    assert "A has 2 neurons and B has 1" in report.notes[0]
    assert "shapes [9, 4, 3] and [9, 4, 8]" in report.notes[1]


def test_silence_proves_nothing_and_the_report_says_so():
    report = compare(network(), network(seed=3), 0 * sample() - 5)
    assert report.ok == (not report.rows[-1][5])
    silent = nn.Sequential(SpikingLayer(neurons.LIF()))
    assert "proves nothing" in compare(silent, silent, torch.zeros(3, 1, 2)).notes[-1]


def test_the_networks_are_left_as_they_were():
    from spikingjelly.activation_based import neuron

    host = nn.Sequential(neuron.LIFNode(step_mode="m")).train()
    host(torch.full((3, 1, 2), 0.6))
    before = host[0].v.clone()
    compare(host, host, torch.ones(3, 1, 2))
    assert host.training and torch.equal(host[0].v, before)


def test_what_is_no_network_or_no_sample_is_named():
    with pytest.raises(TypeError, match=r"b: must be a torch\.nn\.Module, got str"):
        compare(network(), "net.nir", sample())
    with pytest.raises(TypeError, match=r"sample: must be a tensor \[T, batch, \*\], got list"):
        compare(network(), network(), [1.0])
