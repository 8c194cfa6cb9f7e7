"""SpikingJelly's counters and estimators say of our nodes what they say of SpikingJelly's own."""

from contextlib import ExitStack

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, op_counter, surrogate
from torch import nn

from spikeloom import neurons
from spikeloom.neurons.surrogate import ATan
from spikeloom.plugins import spikingjelly as loom
from tests.plugins.spikingjelly.counters import COUNTERS, ESTIMATORS, EVERY, PROFILERS, measured

NAMES = ("LIFNode", "IFNode", "ParametricLIFNode")


def named(item):
    return getattr(item, "__name__", None)


def linear(host, name, **settings):
    torch.manual_seed(1)
    cls = getattr(host, name)
    return nn.Sequential(
        nn.Linear(8, 16, bias=False), cls(step_mode="m", **settings), nn.Linear(16, 4)
    ).eval()


def convolutional(host, name, **settings):
    """Nested, one layer normalised, as SpikeSim and the synaptic counters want it."""
    torch.manual_seed(2)
    cls = getattr(host, name)
    block = nn.Sequential(
        layer.Conv2d(3, 4, 3, padding=1, bias=False), nn.Sequential(cls(**settings))
    )
    net = nn.Sequential(block, layer.Conv2d(4, 2, 3), cls(**settings)).eval()
    functional.set_step_mode(net, "m")
    return net


NETS = {linear: (8,), convolutional: (3, 6, 6)}


def drive(make, steps, batch):
    generator = torch.Generator().manual_seed(steps + batch)
    return 3 * torch.rand(steps, batch, *NETS[make], generator=generator)


def compare(item, make, name, x, run=None, **settings):
    own = settings.pop("own", {})
    found = measured(item, make(loom, name, **settings, **own), x, run)
    expected = measured(item, make(neuron, name, **settings), x, run)
    assert found == expected
    return expected


def test_what_spikingjelly_exports_is_known_here():
    """So that a counter new in SpikingJelly is measured too, or fails here."""
    assert len(COUNTERS) >= 7 and len(PROFILERS) >= 4 and len(ESTIMATORS) >= 4
    ends = ("Counter", "CounterMode", "Profiler", "Config", "Report", "Info", "Tracker", "Spec")
    unknown = {
        name for name in op_counter.__dict__ if name[0].isupper() and not name.endswith(ends)
    }
    assert not unknown


@pytest.mark.parametrize("make", NETS, ids=named)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("item", EVERY, ids=named)
def test_every_counter_says_what_it_says_of_the_hosts_neuron(item, name, make):
    compare(item, make, name, drive(make, 4, 2))


@pytest.mark.parametrize("steps, batch", [(1, 1), (3, 5), (7, 2)])
@pytest.mark.parametrize("item", EVERY, ids=named)
def test_for_any_number_of_steps_and_samples(item, steps, batch):
    compare(item, linear, "LIFNode", drive(linear, steps, batch))


@pytest.mark.parametrize("implementation", ["auto", "llvm", "eager"])
@pytest.mark.parametrize("item", EVERY, ids=named)
def test_for_every_implementation(item, implementation):
    own = {"implementation": implementation}
    compare(item, linear, "LIFNode", drive(linear, 4, 2), own=own)


@pytest.mark.parametrize(
    "settings",
    [
        {"v_reset": None},
        {"v_reset": -0.25, "v_threshold": 0.6},
        {"detach_reset": True, "surrogate_function": surrogate.ATan()},
        {"surrogate_function": surrogate.QPseudoSpike()},
        {"store_v_seq": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("item", EVERY, ids=named)
def test_for_every_setting(item, name, settings):
    compare(item, linear, name, drive(linear, 4, 2), **settings)


def steps_one_by_one(net, x):
    functional.set_step_mode(net, "s")
    with torch.no_grad():
        for now in x:
            net(now)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", NETS, ids=named)
@pytest.mark.parametrize("item", sorted(COUNTERS, key=named), ids=named)
def test_for_single_steps(item, make, name):
    compare(item, make, name, drive(make, 4, 2), steps_one_by_one)


def two_sequences(net, x):
    with torch.no_grad():
        net(x), net(x)


@pytest.mark.parametrize("item", sorted(COUNTERS, key=named), ids=named)
def test_from_a_state_that_was_left(item):
    compare(item, linear, "LIFNode", drive(linear, 4, 2), two_sequences)


def forth_and_back(net, x):
    net(x).square().sum().backward()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("item", sorted(COUNTERS, key=named), ids=named)
def test_for_the_backward_pass(item, name):
    compare(item, linear, name, drive(linear, 4, 2), forth_and_back)


@pytest.mark.parametrize("dtype", [torch.float64])
def test_in_double_precision(dtype):
    x = drive(linear, 4, 2).to(dtype)
    for item in COUNTERS:
        own, host = (linear(which, "LIFNode").to(dtype) for which in (loom, neuron))
        assert measured(item, own, x) == measured(item, host, x)


@pytest.mark.parametrize(
    "description",
    [
        neurons.LIF(3.0, decay_input=False, surrogate=ATan()),
        neurons.IF(v_reset=0.1),
        neurons.ParametricLIF(0.25),
    ],
    ids=lambda neuron: neuron.name,
)
def test_a_description_is_counted_as_the_hosts_neuron_that_equals_it(description):
    x = drive(linear, 4, 2)[..., :6]
    for item in COUNTERS:
        net = nn.Sequential(loom.make(description))
        assert measured(item, net, x) == measured(item, loom.to_host(net), x)


def test_counting_leaves_spikes_states_and_recordings_as_they_are():
    x = drive(linear, 5, 2)
    for name in NAMES:
        net = linear(loom, name, store_v_seq=True)
        expected = [net(x), net(x), net[1].v, net[1].v_seq]
        functional.reset_net(net)
        with op_counter.DispatchCounterMode([op_counter.ACCounter()]):
            found = [net(x), net(x), net[1].v, net[1].v_seq]
        for own, reference in zip(found, expected, strict=True):
            assert torch.equal(own, reference)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_same_while_counted(name):
    gradients = []
    for modes in ([], [op_counter.DispatchCounterMode([op_counter.FlopCounter()])]):
        net, x = linear(loom, name), drive(linear, 4, 2).requires_grad_()
        with ExitStack() as stack:
            for mode in modes:
                stack.enter_context(mode)
            forth_and_back(net, x)
        gradients.append([x.grad, *(p.grad for p in net.parameters())])
    for own, reference in zip(*gradients, strict=True):
        assert reference.any()
        torch.testing.assert_close(own, reference)


class Functions(op_counter.BaseCounter):
    """Counts every function that torch is asked for."""

    def has_rule(self, func):
        return True

    def count(self, func, *args, **kwargs):
        return 1


@pytest.mark.parametrize("name", NAMES)
def test_a_counter_of_functions_sees_what_the_hosts_neuron_calls(name):
    counts = []
    for host in (loom, neuron):
        net, counter = linear(host, name), Functions()
        with torch.no_grad(), op_counter.FunctionCounterMode([counter]):
            net(torch.ones(4, 2, 8))
        counts.append(counter.get_counts()["Global"])
    assert counts[0] == counts[1]
    assert sum(counts[0].values()) > 3


def test_the_hosts_integrate_and_fire_nodes_are_ours_base_classes():
    """Where SpikingJelly, or a user, asks for the class of a node."""
    for name in NAMES:
        assert issubclass(getattr(loom, name), getattr(neuron, name))


class Doubling(loom.LIFNode):
    """A user's own step under the name of ours."""

    def single_step_functional_forward(self, inputs, states):
        return (2.0 * inputs[0],), states


@pytest.mark.parametrize("store_v_seq", [False, True])
def test_a_subclass_with_a_step_of_its_own_keeps_it_also_when_counted(store_v_seq):
    x = drive(linear, 4, 2)
    node = Doubling(step_mode="m", store_v_seq=store_v_seq)
    assert torch.equal(node(x), 2.0 * x)
    (y,), _ = node.multi_step_functional_forward((x,), (x[0],))
    assert torch.equal(y, 2.0 * x)
    counter = op_counter.FlopCounter()
    with op_counter.DispatchCounterMode([counter]):
        y = node(x)
    assert torch.equal(y, 2.0 * x)
    assert counter.get_total() == x.numel()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_16_bit_inputs_are_counted_as_the_hosts_with_potentials_of_32_bits(dtype, step_mode):
    """As ours are; the spikes stay those of ours."""
    x = drive(linear, 5, 3).to(dtype)
    for name in NAMES:
        node = getattr(loom, name)(step_mode=step_mode, store_v_seq=True)
        expected, v_seq = node(x), node.v_seq
        for item in (op_counter.ACCounter, op_counter.FlopCounter):
            host = getattr(neuron, name)(step_mode=step_mode, store_v_seq=True)
            found = measured(item, nn.Sequential(node), x)["get_total"]
            assert found == measured(item, nn.Sequential(host), x.float())["get_total"] > 0
        node.reset()
        with op_counter.DispatchCounterMode([op_counter.ACCounter()]):
            spikes = node(x)
        assert spikes.dtype == dtype and torch.equal(spikes, expected)
        assert node.v.dtype == torch.float32 and torch.equal(node.v_seq, v_seq)


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_counts_of_events_are_counted_as_the_numbers_that_they_are_promoted_to(step_mode):
    events = torch.randint(0, 3, (4, 2, 8), generator=torch.Generator().manual_seed(0))
    found = []
    for x in (events, events.float()):
        counter = op_counter.NeuronStateCounter()
        node = loom.LIFNode(step_mode=step_mode)
        with op_counter.DispatchCounterMode([counter]):
            y = node(x if step_mode == "m" else x[0])
        found.append((y, counter.get_metric_counts()["Global"]))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert found[0][1]["state_reads"] > 0
