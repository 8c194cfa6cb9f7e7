"""Learned values where a network is sharded, as by torch's fully_shard."""

import copy
import os
import socket
import subprocess
import sys

import pytest
import snntorch as snn
import torch
from spikingjelly.activation_based import neuron
from torch import nn

import spikeloom
from spikeloom import neurons
from spikeloom.layer import as_vectors
from spikeloom.plugins import norse, snntorch, spikingjelly


def learned(value):
    return nn.Parameter(torch.tensor(value))


MAKES = {
    "SpikingLayer": lambda: spikeloom.SpikingLayer(neurons.LIF(tau=learned(2.5))),
    "ParametricLIFNode": lambda: spikingjelly.ParametricLIFNode(step_mode="m"),
    "LIFNode": lambda: spikingjelly.LIFNode(tau=learned(2.5), step_mode="m"),
    "made": lambda: spikingjelly.make(neurons.LIF(tau=learned(2.5))),
    "Leaky": lambda: snntorch.Leaky(
        0.8, learn_beta=True, learn_threshold=True, init_hidden=True, time_first=True
    ),
    "Norse": lambda: norse.make(neurons.LIF(tau=learned(2.5))),
}


def gradients(net, x):
    y = net(x)
    y = y[0] if isinstance(y, tuple) else y
    (y * torch.linspace(-1, 2, y.numel()).reshape(y.shape)).sum().backward()
    return y.detach(), [parameter.grad.squeeze() for parameter in net.parameters()]


@pytest.mark.parametrize("name", MAKES)
def test_vectors_of_one_value_run_and_learn_as_single_values(name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), MAKES[name]())
    x = 4 * torch.rand(7, 2, 3)
    vectors = as_vectors(copy.deepcopy(net))
    assert all(parameter.dim() for parameter in vectors.parameters())
    torch.testing.assert_close(gradients(vectors, x), gradients(net, x), rtol=1e-5, atol=1e-6)
    assert any(not parameter.dim() for parameter in net.parameters())


@pytest.mark.parametrize("name", MAKES)
def test_what_vectors_save_loads_into_the_network_as_it_is_made(name):
    net, other = MAKES[name](), MAKES[name]()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.0625)
    other.load_state_dict(as_vectors(copy.deepcopy(net)).state_dict())
    for found, expected in zip(other.parameters(), net.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_what_vectors_save_loads_into_the_frameworks_own_neurons():
    node, lif = as_vectors(spikingjelly.ParametricLIFNode(4.0)), as_vectors(MAKES["Leaky"]())
    host = neuron.ParametricLIFNode(2.0)
    host.load_state_dict(node.state_dict())
    assert torch.equal(host.w, node.w[0])
    host = snn.Leaky(0.5, learn_beta=True, learn_threshold=True)
    host.load_state_dict(lif.state_dict())
    assert torch.equal(host.beta, lif.beta[0])


def test_a_shared_value_stays_shared():
    tau = learned(2.5)
    net = as_vectors(nn.Sequential(*(spikeloom.SpikingLayer(neurons.LIF(tau=tau)) for _ in "ab")))
    assert net[0].tau is net[1].tau and net[0].tau.shape == (1,)
    assert len(list(net.parameters())) == 1


def test_vectors_become_the_frameworks_own_and_are_learned_there():
    lif = as_vectors(MAKES["Leaky"]())
    lif.time_first = False
    assert isinstance(snntorch.to_host(lif).beta, nn.Parameter)


SHARDED = """
import os, sys, torch
from torch import distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from spikeloom.hosted import to_rest
from spikeloom.layer import as_vectors
from tests.test_sharding import MAKES, gradients

def net(name):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), MAKES[name]())

def work(rank, port):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    try:
        fully_shard(net("Leaky"), mesh=mesh)
    except ValueError as error:
        assert "scalar" in str(error), error  # or the documentation may forget all this
    else:
        raise AssertionError("single values are sharded by now")
    x = [4 * torch.rand(7, 2, 3, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]
    for name in MAKES:
        plain, sharded = net(name), as_vectors(net(name))
        fully_shard(sharded, mesh=mesh)
        y, found = sharded(x[rank]), []
        y = y[0] if isinstance(y, tuple) else y
        (y * torch.linspace(-1, 2, y.numel()).reshape(y.shape)).sum().backward()
        found = [parameter.grad.full_tensor().squeeze() for parameter in sharded.parameters()]
        both = []
        for part in x:
            plain.zero_grad()
            to_rest(plain)
            both.append(gradients(plain, part)[1])
            both[-1] = [grad.clone() for grad in both[-1]]
        for mean, one, other in zip(found, *both, strict=True):
            torch.testing.assert_close(mean, (one + other) / 2, rtol=1e-5, atol=1e-5)
    distributed.destroy_process_group()

if __name__ == "__main__":
    multiprocessing.spawn(work, (sys.argv[1],), nprocs=2)
"""


@pytest.mark.slow
def test_sharded_neurons_learn_as_whole_ones(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    command = [sys.executable, "-W", "ignore", str(script), port]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 0, done.stderr
