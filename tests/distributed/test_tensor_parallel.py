"""Neurons take the DTensors of layers that are split over ranks, and learn as on one."""

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import spikeloom
from spikeloom import neurons, run
from spikeloom.layer import as_vectors
from spikeloom.plugins import snntorch, spikingjelly
from tests.distributed.networks import NEURONS, Network, inputs, learns


def split(network):
    """The first layer yields a DTensor, the last one reads it."""
    plan = {
        "first": ColwiseParallel(use_local_output=False),
        "last": RowwiseParallel(use_local_output=True),
    }
    return parallelize_module(network, init_device_mesh("cpu", (2,)), plan)


def tensor_parallel(rank, name):
    return learns(split(Network(name)), inputs())


@pytest.mark.parametrize("name", NEURONS)
def test_neurons_between_split_layers_learn_as_one_process(pair, name):
    expected = learns(Network(name), inputs())
    for found in pair.run(tensor_parallel, name):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


# --- One call, in every layout ------------------------------------------------------------------

LAYOUTS = [(Shard(0),), (Shard(1),), (Shard(2),), (Shard(-1),), (Replicate(),), (Partial(),)]


def cases():
    """Neurons, each with its state and what it learns."""
    features = nn.Parameter(torch.linspace(1.5, 4.0, 5))
    return {
        "a learned value": neurons.LIF(tau=nn.Parameter(torch.tensor(2.5))),
        "a value for each feature": neurons.LIF(tau=features),
        "a value for each sample and feature": neurons.LIF(
            tau=nn.Parameter(torch.linspace(1.5, 4.0, 15).view(3, 5))
        ),
        "a value for all features": neurons.LIF(tau=nn.Parameter(torch.full((3, 1), 2.5))),
        "a value for each step": neurons.ElasticBiSpike(
            nn.Parameter(torch.linspace(0.5, 1.0, 6)), decay=0.5
        ),
        "a scaled gradient": neurons.ElasticBiSpike(nn.Parameter(torch.tensor(0.75)), decay=0.5),
        "two inputs": neurons.CubaLIF(500.0, 250.0, v_th=0.5),
    }


def call(neuron, x, v, **options):
    """Output, states and all gradients of a call that begins with v."""
    tensors = [
        t for t in (getattr(p, "values", p) for p in neuron.params.values()) if is_learned(t)
    ]
    state = tuple(v.clone() for _ in neuron.state_names)
    y, states, *recorded = run(neuron, x, state, **options)
    weights = torch.linspace(-1, 2, y.numel()).view(y.shape)
    if isinstance(y, DTensor):
        weights = distribute_tensor(weights, y.device_mesh, [Replicate()])
    loss = (y * weights).sum() + sum(state.sum() for state in (*states, *recorded))
    grads = torch.autograd.grad(loss, (x, v, *tensors))
    return [whole(value).detach() for value in (y, *states, *recorded, *grads)]


def is_learned(value):
    return isinstance(value, nn.Parameter)


def whole(value):
    return value.full_tensor() if isinstance(value, DTensor) else value


def x_and_v():
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, 17, (6, 3, 5), generator=generator) / 8
    v = torch.randint(0, 5, (3, 5), generator=generator) / 8
    return x, v


def in_layouts(rank, name, options):
    mesh, found = init_device_mesh("cpu", (2,)), []
    x, v = x_and_v()
    for layout in LAYOUTS:
        if isinstance(layout[0], Partial):
            own = DTensor.from_local(x / 2, mesh, layout)
        else:
            own = distribute_tensor(x, mesh, layout)
        kept = distribute_tensor(v, mesh, [Replicate()])
        found.append(call(cases()[name], own.requires_grad_(), kept.requires_grad_(), **options))
    return found


@pytest.mark.parametrize("options", [{}, {"record": "v"}, {"reduce": "mean"}], ids=str)
@pytest.mark.parametrize("name", cases())
def test_a_call_is_the_same_in_every_layout(pair, name, options):
    x, v = x_and_v()
    expected = call(cases()[name], x.requires_grad_(), v.requires_grad_(), **options)
    for found in pair.run(in_layouts, name, options):
        for values in found:
            torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)


STEPPING = {
    "SpikingJelly": lambda: spikingjelly.LIFNode(2.5),
    "snnTorch": lambda: snntorch.Leaky(0.75, init_hidden=True),
}


def kept_states(rank, name):
    mesh, neuron = init_device_mesh("cpu", (2,)), STEPPING[name]()
    shares = [distribute_tensor(now, mesh, [Shard(0)]) for now in inputs()]
    return torch.stack([neuron(now).full_tensor() for now in shares])


@pytest.mark.parametrize("name", STEPPING)
def test_a_state_that_a_module_keeps_is_sharded_as_its_input(pair, name):
    neuron = STEPPING[name]()
    expected = torch.stack([neuron(now) for now in inputs()])
    for found in pair.run(kept_states, name):
        assert torch.equal(found, expected)


def sharded_in_two_ways(rank):
    """Features over ranks, parameters gathered by fully_shard's vectors."""
    layer = as_vectors(spikeloom.SpikingLayer(neurons.LIF(tau=nn.Parameter(torch.tensor(2.5)))))
    x = distribute_tensor(inputs(), init_device_mesh("cpu", (2,)), [Shard(2)])
    y = layer(x)
    y.sum().backward()
    return y.full_tensor().detach(), layer.tau.grad


def test_vectors_of_one_value_take_sharded_inputs(pair):
    tau = nn.Parameter(torch.tensor(2.5))
    y = spikeloom.SpikingLayer(neurons.LIF(tau=tau))(inputs())
    y.sum().backward()
    for found in pair.run(sharded_in_two_ways):
        torch.testing.assert_close(found, (y.detach(), tau.grad[None]))


def refused(rank):
    mesh, (x, v) = init_device_mesh("cpu", (2,)), x_and_v()
    everywhere = [Replicate()]
    tau = distribute_tensor(torch.tensor(2.5), mesh, everywhere)
    messages = []
    for neuron, state in (
        (neurons.LIF(tau=tau), None),
        (neurons.LIF(), (distribute_tensor(v, mesh, everywhere),)),
    ):
        with pytest.raises(TypeError) as error:
            run(neuron, x, state)
        messages.append(str(error.value))
    return messages


def test_sharded_states_and_parameters_of_plain_inputs_are_refused(pair):
    for of_tau, of_v in pair.run(refused):
        assert "LIF: 'tau' is a DTensor, and no input is one; distribute the input" in of_tau
        assert "'v' is a DTensor" in of_v
