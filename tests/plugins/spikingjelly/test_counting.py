"""SpikingJelly's counters see our neurons; H as in its conformance list."""

import pytest
import torch
from spikingjelly.activation_based import neuron, op_counter, surrogate
from torch import nn

from spikeloom.plugins import spikingjelly as loom


def counted(counter, net, *inputs):
    with torch.no_grad(), op_counter.DispatchCounterMode([counter]):
        net(*inputs)
    return counter


def state_metrics(net, x, **rules):
    counter = op_counter.NeuronStateCounter(**rules)
    return counted(counter, net, x).get_metric_counts().get("Global", {})


def test_states_are_counted_in_a_fused_sequence():
    """H 29: one read and one write of every state a step, and the operations of the step."""
    net = nn.Sequential(nn.Linear(3, 5), loom.LIFNode(step_mode="m"))
    x = torch.rand(4, 2, 3)
    assert not state_metrics(net, x).get("state_adds")
    net[1].reset()
    for _ in range(2):  # from rest, and from a live state
        metrics = state_metrics(net, x, extra_state_rules=loom.state_rules(net))
        neurons_steps = 4 * 2 * 5
        assert metrics["state_reads"] == metrics["state_writes"] == 4 * neurons_steps
        assert metrics["neuron_logical_steps"] == neurons_steps
        # h = v + (x - v) / 2;  s = h - 1 >= 0;  v = (1 - s) h + s 0
        assert metrics["state_adds"] >= 4 * neurons_steps
        assert metrics["state_muls"] >= 2 * neurons_steps
        assert metrics["state_comps"] == neurons_steps


def test_surrogate_derivatives_are_not_counted():
    sigmoid, atan = (
        loom.LIFNode(surrogate_function=function, step_mode="m")
        for function in (surrogate.Sigmoid(), surrogate.ATan())
    )
    x = torch.rand(4, 5)
    first, second = (
        state_metrics(node, x, extra_state_rules=loom.state_rules(node)) for node in (sigmoid, atan)
    )
    assert first == second
    assert first["state_nonlinear_ops"] == 0


def test_an_eager_node_is_counted_by_spikingjelly_itself():
    node = loom.LIFNode(step_mode="m", implementation="eager")
    metrics = state_metrics(node, torch.rand(4, 5), extra_state_rules=loom.state_rules(node))
    assert metrics["state_adds"] > 0
    assert "neuron_logical_steps" not in metrics


def test_rules_cover_every_class_of_a_net():
    net = nn.Sequential(loom.LIFNode(), nn.Sequential(loom.IFNode(), nn.ReLU()))
    assert set(loom.state_rules(net)) == {loom.LIFNode, loom.IFNode}


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_memory_access_needs_no_rule(step_mode):
    """H 29: NeuromorphicMemoryAccessCounter sees a BaseNode, whatever runs inside."""
    x = torch.rand(4, 3)
    totals = []
    for cls in (loom.LIFNode, neuron.LIFNode):
        net = nn.Sequential(cls(step_mode=step_mode))
        counter = op_counter.NeuromorphicMemoryAccessCounter()
        with torch.no_grad(), op_counter.ModuleCounterMode([counter], model=net):
            net(x)
        totals.append(counter.get_counts()["Global"])
    assert totals[0] == totals[1]
    assert totals[0]["neuron_state_read_bytes"] == 4 * x.numel()


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
