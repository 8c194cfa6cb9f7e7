"""Long training: memory does not grow, and what is resumed goes on as if it had never stopped."""

import gc
import io
import resource
from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from spikeloom import neurons
from spikeloom.hosted import to_rest
from spikeloom.plugins import norse, snntorch, spikingjelly
from tests.distributed.networks import Network, inputs, learned, loss_of, own_name
from tests.distributed.test_training import Stateful, detach

PAGE = resource.getpagesize()


def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def growth(rank, name, steps):
    """Bytes a step by which a training process grows, over the second half of a run."""
    network = DistributedDataParallel(Network(name))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    lengths = torch.randint(5, 25, (steps,), generator=torch.Generator().manual_seed(2)).tolist()
    before = 0
    for step, length in enumerate(lengths):
        if step == steps // 2:
            before = resident()
        to_rest(network)
        optimizer.zero_grad()
        loss_of(network(inputs(8, length)[:, rank::2])).backward()
        optimizer.step()
    return (resident() - before) / (steps - steps // 2)


@pytest.mark.parametrize("name", ["LIFNode", "Leaky", "Norse, each"])
def test_five_hundred_steps_leave_nothing_behind(pair, name):
    assert max(pair.run(growth, name, 500)) < 2048  # half a megabyte in all


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LIFNode", "Leaky", "Norse, each"])
def test_twenty_thousand_steps_grow_by_less_than_a_kilobyte_each(pair, name):
    assert max(pair.run(growth, name, 20_000, seconds=550)) < 1000


# --- Stopped in the middle of a sequence ----------------------------------------------------------

KEPT = ["LIFNode", "ParametricLIFNode", "Leaky", "Norse, each"]


def begun(name):
    network = Stateful(name)
    return network, torch.optim.Adam(network.parameters(), 1 / 16)


def trained(network, optimizer, x):
    """Weights and outputs after a step for each of some pieces of a sequence."""
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


def resumed(rank, saved, x, threads):
    """Go on from a checkpoint, with as many threads."""
    network, states = torch.load(io.BytesIO(saved), weights_only=False)
    optimizer = torch.optim.Adam(network.parameters(), 1 / 16)
    optimizer.load_state_dict(states)
    torch.set_num_threads(threads[rank])
    try:
        return trained(network, optimizer, x)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("name", KEPT)
def test_a_run_that_is_resumed_within_a_sequence_is_the_same_to_the_bit(pair, name):
    x = inputs(8, 12)
    network, optimizer = begun(name)
    trained(network, optimizer, x[:6])
    file = io.BytesIO()
    torch.save((network, optimizer.state_dict()), file)
    y, weights = trained(network, optimizer, x[6:])
    assert y.any()
    for found, own in pair.run(resumed, file.getvalue(), x[6:], (1, 2)):
        assert torch.equal(found, y)
        assert all(torch.equal(own[key], value) for key, value in weights.items())


def wide(tau):
    """Enough neurons for a thread each half, of which all learn one value."""
    return {
        "spikingjelly": lambda: spikingjelly.make(neurons.LIF(tau=tau)),
        "snntorch": lambda: snntorch.make(neurons.LIF(tau=tau), init_hidden=True, time_first=True),
        "norse": lambda: norse.make(neurons.LIF(tau=tau)),
    }


def of_many_neurons(rank, host, threads):
    torch.set_num_threads(threads[rank])
    try:
        module = wide(learned(2.5))[host]()
        x = torch.rand(16, 4, 1 << 14, generator=torch.Generator().manual_seed(0)) * 4
        x.requires_grad_()
        y = module(x)
        y = y[0] if isinstance(y, tuple) else y
        y.square().sum().backward()
        return y.detach().sum(), x.grad.sum(), next(module.parameters()).grad
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("host", ["spikingjelly", "snntorch", "norse"])
def test_any_number_of_threads_learns_the_same_to_the_bit(pair, host):
    one, two = pair.run(of_many_neurons, host, (1, 2))
    assert one[2] and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
