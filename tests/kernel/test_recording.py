"""Graphs recorded by torch: which sizes stay open, and what a recorder that fails is told."""

import io
import warnings

import pytest
import torch
from spikingjelly.activation_based.functional import reset_net
from torch import nn
from torch.export import Dim

from spikeloom import Neuron, PerStep, SpikingLayer, neurons
from spikeloom.plugins import norse, snntorch, spikingjelly

X = torch.rand(7, 3, 5) * 2
OTHER = torch.rand(12, 11, 5) * 2
P = nn.Parameter
LAYERS = {
    "LIF": lambda: SpikingLayer(neurons.LIF()),
    "learned LIF": lambda: SpikingLayer(neurons.LIF(tau=P(torch.tensor(2.0)))),
    "LIF per neuron": lambda: SpikingLayer(neurons.LIF(tau=P(torch.full((5,), 2.0)))),
    "LIF per channel": lambda: SpikingLayer(neurons.LIF(tau=torch.full((1, 5), 2.0))),
    "learned OAT": lambda: SpikingLayer(neurons.OAT(4, 1.0, P(torch.tensor(8.0)))),
    "learned EBS": lambda: SpikingLayer(neurons.ElasticBiSpike(P(torch.tensor(0.8)))),
    "unscaled EBS": lambda: SpikingLayer(
        neurons.ElasticBiSpike(P(torch.tensor(0.8)), grad_scale=False)
    ),
    "LIFNode": lambda: spikingjelly.LIFNode(step_mode="m"),
    "ParametricLIFNode": lambda: spikingjelly.ParametricLIFNode(step_mode="m"),
    "recording LIFNode": lambda: spikingjelly.LIFNode(step_mode="m", store_v_seq=True),
    "Leaky": lambda: snntorch.Leaky(0.9, time_first=True),
    "LIFBox": lambda: norse.LIFBox(),
}


def spikes_of(net, x):
    y = net(x)
    return y[0] if isinstance(y, tuple) else y


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_an_exported_program_leaves_time_and_batch_open(layer, strict):
    net = nn.Sequential(LAYERS[layer]())
    shapes = ({0: Dim("time", min=2, max=99), 1: Dim("batch", min=1, max=64)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SpikingJelly's nodes keep states that are no buffers
        program = torch.export.export(net, (X,), dynamic_shapes=shapes, strict=strict)
    reset_net(net)
    assert torch.equal(spikes_of(program.module(), OTHER), spikes_of(net, OTHER))


@pytest.mark.parametrize("layer", LAYERS)
def test_a_program_exported_for_inference_survives_saving_and_loading(layer):
    net, file = nn.Sequential(LAYERS[layer]()), io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(net, (X,)), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    reset_net(net)
    assert torch.equal(spikes_of(loaded, X), spikes_of(net, X))


def test_a_table_over_time_fixes_the_time_of_an_exported_program():
    step = Neuron(lambda x, s, p: (x * p.a, s), params={"a": PerStep(torch.rand(7))})
    batch = ({1: Dim("batch", min=1, max=64)},)
    program = torch.export.export(SpikingLayer(step), (X,), dynamic_shapes=batch)
    assert torch.equal(program.module()(OTHER[:7]), SpikingLayer(step)(OTHER[:7]))


def test_one_compiled_graph_serves_every_time_and_batch():
    layer, graphs = SpikingLayer(neurons.ElasticBiSpike(P(torch.tensor(0.8)))), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(layer, backend=backend, dynamic=True, fullgraph=True)
    for x in (X, OTHER, OTHER[:5, :6].contiguous()):
        found = torch.autograd.grad(compiled(x).sum(), layer.alpha)
        assert torch.equal(compiled(x), layer(x))
        torch.testing.assert_close(found, torch.autograd.grad(layer(x).sum(), layer.alpha))
    assert len(graphs) == 1


# --- TorchScript ---


def traced(module, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a deprecation, and one for every value that is fixed
        return torch.jit.trace(module, x)


def test_a_trace_without_gradients_can_be_saved():
    layer = SpikingLayer(neurons.LIF(tau=P(torch.tensor(3.0))))
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(traced(layer, X), file)
        file.seek(0)
        loaded = torch.jit.load(file)
    assert torch.equal(loaded(X + 0.25), layer(X + 0.25))


def test_a_trace_that_would_lose_gradients_is_refused_with_the_remedies():
    layer = SpikingLayer(neurons.LIF(tau=P(torch.tensor(3.0))))
    remedies = r"torch.no_grad\(\).*implementation='eager'.*plugins.<host>.to_host"
    with pytest.raises(RuntimeError, match=remedies) as caught:
        traced(layer, X)
    assert len(str(caught.value)) < 400


def test_an_eager_layer_can_be_traced_with_its_gradients():
    layer = SpikingLayer(neurons.LIF(tau=P(torch.tensor(3.0))), implementation="eager")
    graph = traced(layer, X)
    found, expected = (torch.autograd.grad(call(X).sum(), layer.tau) for call in (graph, layer))
    torch.testing.assert_close(found, expected)
