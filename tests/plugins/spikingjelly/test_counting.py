"""SpikingJelly's counters count the operations of our own neurons and signed spikes; H as in its
conformance list.
"""

import pytest
import torch
from spikingjelly.activation_based import neuron, op_counter
from torch import nn

from spikeloom import Neuron, neurons
from spikeloom.kernel import vocabulary as words
from spikeloom.neurons import Exponential, FewSpike
from spikeloom.neurons.surrogate import ATan
from spikeloom.plugins import spikingjelly as loom


def counted(counter, net, *inputs, strict=False):
    mode = op_counter.DispatchCounterMode([counter], strict)
    with torch.no_grad(), mode:
        net(*inputs)
    return counter


def total(counter, node, x, strict=True):
    """The count from rest; if it is strict no operation may be left out."""
    node.reset()
    return counted(counter(), node, x, strict=strict).get_total()


def state_metrics(net, x):
    counter = op_counter.NeuronStateCounter()
    return counted(counter, net, x).get_metric_counts().get("Global", {})


def leaky(x, state, p):
    v, a = state
    h = p.beta * v + x
    s = words.fire(h - p.threshold - a, ATan())
    return s, (h * (1.0 - s), 0.5 * a + s)


OWN = {
    "leaky": lambda: loom.make(
        Neuron(leaky, state=("v", "a"), params={"beta": 0.9, "threshold": 1.0})
    ),
    "learned": lambda: loom.LIFNode(nn.Parameter(torch.tensor(3.0)), step_mode="m"),
    "each": lambda: loom.LIFNode(v_threshold=torch.tensor([[0.5], [1.0]]), step_mode="m"),
    "ternary": lambda: loom.ElasticBiSpikeNode(0.5, decay=0.75, step_mode="m"),
    "OAT": lambda: loom.OATNode(4, 1.0, 8.0, step_mode="m"),
    "HG": lambda: loom.HGNode([0.5], [FewSpike(*[[0.5, 0.25, 0.125]] * 3)] * 2, step_mode="m"),
    "signGD": lambda: loom.SignGDNode("gelu", Exponential(0.5, 0.85), step_mode="m"),
    "maximum": lambda: loom.SignGDNode("relu", Exponential(0.5, 0.85), step_mode="m"),
}


def test_the_operations_of_a_step_are_counted_for_each_neuron_and_step():
    """By hand: 3 products, 2 sums and 3 differences, 1 comparison; a spike is a comparison."""
    node, x = OWN["leaky"](), torch.rand(3, 2, 5)
    updates = x.numel()
    assert total(op_counter.FlopCounter, node, x) == 9 * updates
    # SpikingJelly counts sums of zeros and ones, here 0.5 a + s while a is 0, by their ones.
    assert 4 * updates < total(op_counter.ACCounter, node, x, strict=False) <= 5 * updates
    node.reset()
    assert state_metrics(node, x) == {
        "state_adds": 5 * updates,
        "state_muls": 3 * updates,
        "state_comps": updates,
        "state_reads": 2 * 4 * updates,
        "state_writes": 2 * 4 * updates,
        "neuron_logical_steps": updates,
    }


def test_bytes_are_those_that_every_operation_reads_and_writes():
    node = loom.make(Neuron(lambda x, state, p: (x, (words.absolute(state[0] + x),))))
    x = torch.randn(3, 2, 5)
    word, updates = 4, x.numel()
    begun, stacked = 10 * word, 2 * updates * word
    added, turned = 3 * updates * word, 2 * updates * word
    assert total(op_counter.MemoryAccessCounter, node, x) == begun + added + turned + stacked


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("name", OWN)
def test_no_operation_of_a_neuron_is_left_out(name, step_mode):
    """A strict counter raises if it has no rule for one."""
    node, x = OWN[name](), 2 * torch.randn(4, 2, 5) + 1
    node.step_mode = step_mode
    for counter in (op_counter.FlopCounter, op_counter.MemoryAccessCounter):
        once, twice = (total(counter, node, part) for part in (x, torch.cat([x, x], -1)))
        assert once >= 4 * x.numel()
        # Shared parameters are read once, however many neurons there are.
        assert once < twice <= 2 * once
    node.reset()
    metrics = state_metrics(node, x)
    steps = node.neuron.steps or (4 if step_mode == "m" else 1)
    neurons = x.numel() // (4 if step_mode == "m" else 1)
    assert metrics["neuron_logical_steps"] == steps * neurons
    assert metrics["state_reads"] == 4 * len(node.neuron.rest) * steps * neurons


@pytest.mark.parametrize("name", OWN)
def test_counting_changes_nothing_that_is_computed(name):
    node, x = OWN[name](), 2 * torch.randn(4, 2, 5) + 1
    expected, states = node(x), [v.clone() for v in node.memories()]
    node.reset()
    with op_counter.DispatchCounterMode([op_counter.FlopCounter()]):
        found = node(x)
    assert torch.equal(found, expected)
    assert all(map(torch.equal, node.memories(), states))


def test_a_counter_keeps_its_rules_and_gets_no_others():
    node = OWN["OAT"]()
    own = {torch.ops.aten.abs.default: lambda args, kwargs, out: 1000}
    counter = op_counter.FlopCounter(extra_rules=own)
    before = dict(counter.rules)
    assert counted(counter, node, torch.rand(4, 5)).get_total() > 1000
    assert counter.rules == before
    states = op_counter.NeuronStateCounter(
        extra_state_rules={loom.OATNode: lambda *args: {"mine": 1}}
    )
    assert set(counted(states, node, torch.rand(4, 5)).get_metric_counts()["Global"]) == {"mine"}
    assert list(states.extra_state_rules) == [loom.OATNode]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("estimate_lemaire_energy", "ElasticBiSpikeNode"),
        ("estimate_spikesim_energy", "ElasticBiSpikeNode"),
        ("estimate_neuromc_runtime_energy", "aten.round"),
    ],
)
def test_an_estimator_that_cannot_count_a_neuron_refuses_it(name, message):
    net = nn.Sequential(nn.Linear(5, 5), OWN["ternary"]()).eval()
    with pytest.raises(ValueError, match=message):
        getattr(op_counter, name)(net, torch.rand(4, 2, 5))


def test_the_estimates_that_can_count_a_neuron_of_our_own_do():
    net, x = nn.Sequential(nn.Linear(5, 5), OWN["leaky"]()).eval(), torch.rand(3, 2, 5)
    simple = op_counter.estimate_simple_energy(net, x)
    assert simple.warnings == [] and simple.counts["ac"] > 4 * x.numel()
    net[1].reset()
    assert op_counter.estimate_neuromc_runtime_energy(net, x).energy_total_pj > 0


def test_what_has_no_rule_in_a_step_that_cannot_be_traced_is_named_by_the_mode():
    node = loom.make(Neuron(lambda x, state, p: (torch.sin(x), (state[0] + x,))))
    assert node.neuron.program is None
    counter, x = op_counter.FlopCounter(), torch.rand(4, 5)
    mode = op_counter.DispatchCounterMode([counter])
    with mode:
        node(x)
    assert counter.get_total() == x.numel()
    assert mode.get_unsupported(counter)["aten.sin.default"] == 4


def test_neurons_of_the_library_are_counted_without_the_host():
    """``spikeloom.run`` in a network, and the layer of the library."""
    from spikeloom import SpikingLayer

    x = torch.rand(4, 2, 5)
    layer = SpikingLayer(neurons.IF(v_reset=None))
    # h = v + x;  s = h - 1 >= 0;  v = h - s 1
    assert counted(op_counter.FlopCounter(), layer, x).get_total() >= 4 * x.numel()


def binary_network(cls):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), cls(step_mode="m"), nn.Linear(8, 4))


def test_binary_spikes_are_synaptic_operations_without_rules():
    """H 29: counts equal those of the host's own neuron."""
    x = torch.rand(5, 2, 6) * 4
    for counter in (op_counter.SynOpCounter, op_counter.ACCounter, op_counter.MACCounter):
        own, host = (
            counted(counter(), binary_network(cls)[2], binary_network(cls)[:2](x)).get_total()
            for cls in (loom.LIFNode, neuron.LIFNode)
        )
        assert own == host
        if counter is op_counter.SynOpCounter:
            assert own > 0


def test_signed_spikes_count_like_their_presence():
    """H 29: without the rules -1, 0, 1 are multiply-accumulates."""
    spikes = torch.randint(-1, 2, (5, 2, 8)).float()
    assert bool((spikes < 0).any())
    linear, convolution = nn.Linear(8, 4), nn.Conv1d(2, 3, 3, bias=False)
    for module in (linear, nn.Linear(8, 4, bias=False), convolution):
        for counter in (op_counter.SynOpCounter, op_counter.ACCounter, op_counter.MACCounter):
            plain, rules = counter(), counter(extra_rules=loom.signed_rules(counter))
            expected = counted(counter(), module, spikes.abs()).get_total()
            for scale in (1.0, 0.37):  # the weights can absorb one amplitude
                assert counted(rules, module, scale * spikes).get_total() == expected
                rules.reset()
            assert counted(plain, module, spikes).get_total() != expected


def test_coincidences_of_signed_spikes_are_counted_not_summed():
    """Attention multiplies spikes with spikes."""
    q, k = torch.randint(-1, 2, (2, 3, 4, 5)).float()

    class Scores(nn.Module):
        def forward(self, q, k):
            return torch.bmm(q, k)

    counter = op_counter.SynOpCounter(extra_rules=loom.signed_rules(op_counter.SynOpCounter))
    total = counted(counter, Scores(), q, k.transpose(1, 2)).get_total()
    assert total == int(torch.bmm(q.abs(), k.abs().transpose(1, 2)).sum())


@pytest.mark.parametrize("values", [[-1.0, 0.5, 0.0], [2.0, 1.0, 0.0]])
def test_graded_values_are_no_spikes(values):
    x = torch.tensor([values])
    counter = op_counter.SynOpCounter(extra_rules=loom.signed_rules(op_counter.SynOpCounter))
    assert counted(counter, nn.Linear(3, 2), x).get_total() == 0


def test_the_energy_estimate_runs_without_warnings():
    """H 30: and sees what it sees with the host's own neuron."""
    x = torch.rand(5, 2, 6) * 4
    own, host = (
        op_counter.estimate_simple_energy(binary_network(cls), x)
        for cls in (loom.LIFNode, neuron.LIFNode)
    )
    assert own.warnings == host.warnings == []
    assert own.energy_memory_pj == host.energy_memory_pj
    assert own.counts["synop"] == host.counts["synop"] > 0
