"""torch.utils.checkpoint round neurons that keep their state: as without it, or refused."""

import copy

import norse.torch as norse_host
import pytest
import torch
from norse.torch import LIFBoxFeedForwardState
from spikingjelly.activation_based import functional, memopt
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from spikeloom.plugins import norse, snntorch, spikingjelly
from spikeloom.plugins.contract import grid


def jelly(step_mode, **kw):
    return spikingjelly.ParametricLIFNode(v_reset=None, step_mode=step_mode, **kw)


def snn(step_mode, **kw):
    time_first = step_mode == "m"
    return snntorch.Leaky(0.8, learn_beta=True, init_hidden=True, time_first=time_first, **kw)


def explicit(step_mode, **kw):
    """A neuron that keeps its mem although it returns it."""
    return Spikes(snntorch.Leaky(0.8, learn_beta=True, time_first=step_mode == "m", **kw))


class Spikes(nn.Module):
    def __init__(self, neuron):
        super().__init__()
        self.neuron = neuron

    def forward(self, x):
        return self.neuron(x)[0]


def network(neuron, step_mode, **kw):
    torch.manual_seed(0)
    first, second = nn.Linear(3, 4), nn.Linear(4, 2)
    with torch.no_grad():
        second.weight.abs_().mul_(8)  # or the second layer would be silent
    return nn.Sequential(first, neuron(step_mode, **kw), second, neuron(step_mode, **kw))


def reset(net):
    functional.reset_net(net)
    snntorch.reset(net)


def mems(net):
    """What the neurons keep now."""
    return [
        value.detach()
        for module in net.modules()
        for value in (getattr(module, "v", None), getattr(module, "mem", None))
        if isinstance(value, torch.Tensor)
    ]


def trained(net, run, x):
    """The output, all gradients, and what the neurons keep after the backward pass."""
    x = x.clone().requires_grad_()
    y = run(net, x)
    (y * torch.linspace(-1, 2, y.numel()).reshape(y.shape)).sum().backward()
    gradients = [parameter.grad for parameter in net.parameters()]
    return y.detach(), x.grad, gradients, mems(net)


def whole(net, x, call):
    return call(net, x)


def each_step(net, x, call):
    return torch.stack([call(net, now) for now in x])


def chunks(net, x, call):
    return torch.cat([call(net, part) for part in x.split(3)])


def loop_inside(net, x, call):
    return call(lambda sequence: torch.stack([net(now) for now in sequence]), x)


def loops_inside(net, x, call):
    steps = lambda part: torch.stack([net(now) for now in part])  # noqa: E731
    return torch.cat([call(steps, part) for part in x.split(3)])


def before_and_behind(net, x, call):
    """Calls without a checkpoint round calls with one."""
    return torch.cat([net(x[:3]), call(net, x[3:6]), net(x[6:])])


RUNS = [
    (whole, "m"),
    (chunks, "m"),
    (before_and_behind, "m"),
    (each_step, "s"),
    (loop_inside, "s"),
    (loops_inside, "s"),
]
# Sequences of a neuron that is told its mem begin at rest, so chunks of them are no sequence.
CASES = [
    pytest.param(neuron, run, step_mode, id=f"{neuron.__name__}-{run.__name__}")
    for neuron in (jelly, snn, explicit)
    for run, step_mode in RUNS
    if not (neuron is explicit and run in (chunks, before_and_behind))
]
NEURON = pytest.mark.parametrize("neuron", [jelly, snn, explicit])


def again(net, x, use_reentrant=False, **kw):
    return checkpoint(net, x, use_reentrant=use_reentrant, **kw)


def plain(net, x):
    return net(x)


@pytest.mark.parametrize("implementation", ["llvm", "eager"])
@pytest.mark.parametrize(("neuron", "run", "step_mode"), CASES)
def test_gradients_and_states_are_those_without_a_checkpoint(
    neuron, run, step_mode, implementation
):
    net, x = network(neuron, step_mode, implementation=implementation), 2 * grid(9, 2, 3)
    expected = trained(copy.deepcopy(net), lambda net, x: run(net, x, plain), x)
    found = trained(net, lambda net, x: run(net, x, again), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert expected[0].any() and expected[1].any()


@NEURON
def test_regions_without_early_stop_and_graphs_that_are_kept(neuron):
    def run(net, x):
        with torch.utils.checkpoint.set_checkpoint_early_stop(False):
            y = chunks(net, x, again)
        y.sum().backward(retain_graph=True)
        return y

    net, x = network(neuron, "m"), 2 * grid(9, 2, 3)
    if neuron is explicit:
        x = x[:3]
    twice = copy.deepcopy(net)

    def expected(net, x):
        y = chunks(net, x, plain)
        y.sum().backward(retain_graph=True)
        return y

    torch.testing.assert_close(trained(net, run, x), trained(twice, expected, x), rtol=0, atol=0)


@pytest.mark.parametrize("neuron", [jelly, snn])
def test_several_batches_in_one_backward_pass(neuron):
    def run(net, x, call):
        found = []
        for part in x.split(3):
            reset(net)
            found.append(call(net, part))
        return torch.cat(found)

    net, x = network(neuron, "m"), 2 * grid(9, 2, 3)
    expected = trained(copy.deepcopy(net), lambda net, x: run(net, x, plain), x)
    for call in (again, lambda net, x: again(net, x, True)):
        found = trained(copy.deepcopy(net), lambda net, x, call=call: run(net, x, call), x)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("run", "step_mode"), [(whole, "m"), (loop_inside, "s")])
@NEURON
def test_reentrant_regions_that_begin_at_rest_are_right(neuron, run, step_mode):
    net, x = network(neuron, step_mode), 2 * grid(9, 2, 3)
    expected = trained(copy.deepcopy(net), lambda net, x: run(net, x, plain), x)
    found = trained(net, lambda net, x: run(net, x, lambda f, x: again(f, x, True)), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("run", "step_mode"), [(chunks, "m"), (each_step, "s")])
@pytest.mark.parametrize("neuron", [jelly, snn])
def test_reentrant_regions_that_go_on_from_a_state_are_refused(neuron, run, step_mode):
    net, x = network(neuron, step_mode), 2 * grid(9, 2, 3)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        trained(net, lambda net, x: run(net, x, lambda f, x: again(f, x, True)), x)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("neuron", [jelly, snn])
def test_a_reset_inside_the_region_is_right(neuron, use_reentrant):
    net, x = network(neuron, "m"), 2 * grid(9, 2, 3)
    net(grid(2, 2, 3))

    def fresh(x):
        reset(net)
        return net(x)

    expected = trained(net, lambda net, x: fresh(x), x)
    net.zero_grad()
    found = trained(net, lambda net, x: again(fresh, x, use_reentrant), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("neuron", [jelly, snn])
def test_the_state_may_be_read_inside_the_region(neuron):
    def readout(net, x):
        spikes = net(x)
        return spikes + (net[3].v if neuron is jelly else net[3].mem)

    net, x = network(neuron, "m"), 2 * grid(9, 2, 3)

    def run(net, x, call):
        return torch.cat([call(lambda x: readout(net, x), part) for part in x.split(3)])

    expected = trained(copy.deepcopy(net), lambda net, x: run(net, x, plain), x)
    found = trained(net, lambda net, x: run(net, x, again), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_layers_may_be_checkpointed_one_by_one(use_reentrant):
    net, x = network(jelly, "m"), 2 * grid(9, 2, 3)
    expected = trained(copy.deepcopy(net), plain, x)
    found = trained(
        net, lambda net, x: checkpoint_sequential(net, 2, x, use_reentrant=use_reentrant), x
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_checkpoint_inside_a_checkpoint_is_refused():
    net, x = network(jelly, "m"), 2 * grid(9, 2, 3)

    def inner(x):
        return again(net[2:], again(net[:2], x))

    with pytest.raises(RuntimeError, match="not nested in another"):
        trained(net, lambda net, x: again(inner, x), x)


def test_memory_optimisation_of_spikingjelly_stays_right():
    net, x = network(jelly, "m"), 2 * grid(9, 2, 3)
    expected = trained(copy.deepcopy(net), lambda net, x: chunks(net, x, plain), x)
    for i in (1, 3):
        net[i] = memopt.checkpoint_module(net[i])
    found = trained(net, lambda net, x: chunks(net, x, plain), x)
    # Each wrapper shows its node's potential once more.
    torch.testing.assert_close(found[:3], expected[:3], rtol=0, atol=0)
    torch.testing.assert_close(found[3][::2], expected[3], rtol=0, atol=0)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("host", [norse, norse_host], ids=["ours", "norse"])
def test_states_in_the_callers_hands_need_nothing(host, use_reentrant):
    torch.manual_seed(0)
    linear, cell = nn.Linear(3, 4), host.LIFBoxCell()

    def step(x, v):
        spikes, state = cell(linear(x), LIFBoxFeedForwardState(v))
        return spikes, state.v

    def run(call):
        x, v, total = (30 * grid(9, 2, 3)).requires_grad_(), torch.zeros(2, 4), 0.0
        linear.zero_grad()
        for i, now in enumerate(x):
            spikes, v = call(step, now, v)
            total = total + (i + 1) * spikes.sum()
        (total + v.sum()).backward()
        return x.grad, linear.weight.grad

    expected = run(lambda f, *args: f(*args))
    found = run(lambda f, *args: checkpoint(f, *args, use_reentrant=use_reentrant))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert expected[0].any()
