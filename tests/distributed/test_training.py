"""Networks that several processes train learn what one process learns from all of their data."""

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import nn
from torch.distributed.algorithms.join import Join
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from spikeloom.convert import BiSpikes
from spikeloom.hosted import to_rest
from spikeloom.layer import as_vectors
from spikeloom.neurons import ElasticBiSpike
from spikeloom.plugins.snntorch.module import SpikingModule
from tests.distributed.networks import (
    NEURONS,
    Network,
    inputs,
    learns,
    loss_of,
    own_name,
    part_of,
)

EVERY = pytest.mark.parametrize("name", NEURONS)
EACH_HOST = pytest.mark.parametrize("name", ["LIFNode", "Leaky", "Norse, each", "SpikingLayer"])


def assert_same(found, expected, margin=1e-6):
    """Of all ranks: the outputs together and each one's gradients."""
    y, wanted = expected
    assert torch.equal(torch.cat([own for own, _ in found], 1), y)
    for _, own in found:
        torch.testing.assert_close(own, wanted, rtol=margin, atol=margin)


# --- Data parallel ------------------------------------------------------------------------------


def data_parallel(rank, name):
    return learns(DistributedDataParallel(Network(name)), part_of(rank, inputs()))


@EVERY
def test_a_data_parallel_network_learns_as_one_process(pair, name):
    assert_same(pair.run(data_parallel, name), learns(Network(name), inputs()))


class Checkpointed(Network):
    def __init__(self, name, use_reentrant):
        super().__init__(name)
        self.use_reentrant = use_reentrant

    def forward(self, x):
        x = x.requires_grad_()  # or a reentrant checkpoint sees nothing to learn
        return checkpoint(super().forward, x, use_reentrant=self.use_reentrant)


def checkpointed(rank, name, use_reentrant):
    network = DistributedDataParallel(Checkpointed(name, use_reentrant))
    return learns(network, part_of(rank, inputs()))


@pytest.mark.parametrize("use_reentrant", [False, True])
@EACH_HOST
def test_what_is_computed_twice_learns_the_same(pair, name, use_reentrant):
    assert_same(pair.run(checkpointed, name, use_reentrant), learns(Network(name), inputs()))


def accumulated(rank, name):
    network = DistributedDataParallel(Network(name))
    *before, last = part_of(rank, inputs(8)).split(2, 1)
    with network.no_sync():
        for part in before:
            to_rest(network)
            loss_of(network(part)).backward()
    to_rest(network)
    return learns(network, last)


@EACH_HOST
def test_gradients_are_accumulated_before_they_are_averaged(pair, name):
    network, whole = Network(name), inputs(8)
    for batch in ([0, 1, 4, 5], [2, 3, 6, 7]):
        to_rest(network)
        y, expected = learns(network, whole[:, batch])
    assert_same(pair.run(accumulated, name), (y, expected))


def in_bfloat16(rank, name):
    with torch.autocast("cpu", torch.bfloat16):
        return learns(DistributedDataParallel(Network(name)), part_of(rank, inputs()))


@EACH_HOST
def test_mixed_precision_learns_as_one_process(pair, name):
    with torch.autocast("cpu", torch.bfloat16):
        expected = learns(Network(name), inputs())
    assert_same(pair.run(in_bfloat16, name), expected, 2e-2)


def compiled(rank, name):
    network = torch.compile(DistributedDataParallel(Network(name)), backend="aot_eager")
    return learns(network, part_of(rank, inputs()))


def test_a_compiled_network_learns_as_one_process(pair):
    assert_same(pair.run(compiled, "SpikingLayer"), learns(Network("SpikingLayer"), inputs()))


# --- Sequences in pieces, and batches that do not come out even -----------------------------------


class Stateful(Network):
    """Norse's state is in the caller's hands; the other hosts' modules keep it."""

    def __init__(self, name):
        super().__init__(name)
        self.state = None

    def forward(self, x):
        if not name_of_norse(self.spikes):
            return super().forward(x)
        y, state = self.spikes(self.first(x), self.state)
        self.state = type(state)(*(value.detach() for value in state))
        return self.last(y)


def name_of_norse(module):
    return type(module).__module__.endswith("norse.module")


def detach(network):
    functional.detach_net(network)
    for module in network.modules():
        if isinstance(module, SpikingModule):
            module.detach_hidden()


def in_pieces(network, x):
    """Weights after a step of descent for each piece of the sequence, and all outputs."""
    optimizer = torch.optim.SGD(network.parameters(), 1 / 64)
    outputs = []
    for part in x.split(2):
        optimizer.zero_grad()
        y = network(part)
        loss_of(y).backward()
        optimizer.step()
        detach(network)
        outputs.append(y.detach())
    weights = {own_name(n): value.detach().clone() for n, value in network.named_parameters()}
    return torch.cat(outputs), weights


def piecewise(rank, name):
    return in_pieces(DistributedDataParallel(Stateful(name)), part_of(rank, inputs()))


@pytest.mark.parametrize("name", ["LIFNode", "ParametricLIFNode", "Leaky", "Norse, each"])
def test_a_state_is_carried_from_piece_to_piece_of_a_sequence(pair, name):
    y, weights = in_pieces(Stateful(name), inputs())
    found = pair.run(piecewise, name)
    torch.testing.assert_close(torch.cat([own for own, _ in found], 1), y, rtol=0, atol=1e-5)
    for _, own in found:
        torch.testing.assert_close(own, weights, rtol=1e-5, atol=1e-6)


def uneven(rank, name):
    network = DistributedDataParallel(Network(name))
    optimizer = torch.optim.SGD(network.parameters(), 1 / 64)
    with Join([network]):
        for part in inputs(6).split(2, 1)[rank * 2 :]:  # two batches too few on rank 1
            to_rest(network)
            optimizer.zero_grad()
            loss_of(network(part)).backward()
            optimizer.step()
    return {name: value.detach().clone() for name, value in network.module.named_parameters()}


@EACH_HOST
def test_a_rank_with_fewer_batches_follows_the_others(pair, name):
    network, (first, *others) = Network(name), inputs(6).split(2, 1)
    optimizer = torch.optim.SGD(network.parameters(), 1 / 64)
    for parts in ([first, others[1]], [others[0]], [others[1]]):
        optimizer.zero_grad()
        for part in parts:
            to_rest(network)
            (loss_of(network(part)) / 2).backward()
        optimizer.step()
    expected = {name: value.detach() for name, value in network.named_parameters()}
    for found in pair.run(uneven, name):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


# --- Sharded parameters ---------------------------------------------------------------------------


def fully_sharded(rank, name):
    try:
        fully_shard(Network("Leaky"), mesh=init_device_mesh("cpu", (2,)))
    except ValueError as error:
        assert "scalar" in str(error), error
    else:
        raise AssertionError("single values are sharded by now: as_vectors may go")
    network = as_vectors(Network(name))
    for part in (network.spikes, network):
        if list(part.parameters()):
            fully_shard(part, mesh=init_device_mesh("cpu", (2,)))
    return learns(network, part_of(rank, inputs()))


@EVERY
def test_a_sharded_network_learns_as_one_process(pair, name):
    assert_same(pair.run(fully_sharded, name), learns(Network(name), inputs()))


# --- Amplitudes that the first batch sets ---------------------------------------------------------


class Bispiking(nn.Module):
    def __init__(self, rule):
        super().__init__()
        alpha = torch.ones(())
        self.spikes = BiSpikes(
            ElasticBiSpike(nn.Parameter(alpha) if rule == "learned" else alpha), rule=rule
        )
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.spikes(x * self.gain)


def amplitudes(rank, rule, steps):
    network = DistributedDataParallel(Bispiking(rule))
    found = []
    for _ in range(steps):
        y, _ = learns(network, part_of(rank, inputs()) - 2)
        found.append(network.module.spikes.amplitude.detach().clone())
    return y, torch.stack(found)


@pytest.mark.parametrize("rule", ["first_batch", "moving_average", "learned"])
def test_amplitudes_agree_on_all_ranks(pair, rule):
    network, expected = Bispiking(rule), []
    for _ in range(2):
        y, _ = learns(network, inputs() - 2)
        expected.append(network.spikes.amplitude.detach().clone())
    one, other = pair.run(amplitudes, rule, 2)
    assert torch.equal(torch.cat([one[0], other[0]], 1), y)
    assert torch.equal(one[1], other[1])
    torch.testing.assert_close(one[1], torch.stack(expected), rtol=1e-6, atol=0)


def learned_gradient(rank):
    network = DistributedDataParallel(Bispiking("learned"))
    return learns(network, part_of(rank, inputs()) - 2)[1]["spikes.node.alpha"]


def test_a_learned_amplitudes_gradient_is_scaled_by_the_neurons_of_a_process(pair):
    _, expected = learns(Bispiking("learned"), inputs() - 2)
    for found in pair.run(learned_gradient):
        torch.testing.assert_close(found, 2**0.5 * expected["spikes.node.alpha"])
