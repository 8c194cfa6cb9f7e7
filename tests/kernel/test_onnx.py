"""Networks with neurons as ONNX: onnxruntime fires the same spikes, for every batch."""

import io
import warnings

import pytest
import torch
from norse.torch.functional.lif_box import LIFBoxParameters
from spikingjelly.activation_based.functional import reset_net
from torch import nn
from torch.export import Dim

from spikeloom import Neuron, PerStep, SpikingLayer, convert, neurons
from spikeloom.neurons import Exponential
from spikeloom.nn import SpikeLinear
from spikeloom.plugins import norse, snntorch, spikingjelly

onnxruntime = pytest.importorskip("onnxruntime")
for package in ("onnx", "onnxscript"):
    pytest.importorskip(package)

P = nn.Parameter
X = 2 * torch.randint(-2, 9, (7, 3, 5), generator=torch.Generator().manual_seed(0)) / 8
OTHER = 2 * torch.rand(7, 11, 5, generator=torch.Generator().manual_seed(1))
LAYERS = {
    "LIF": lambda: SpikingLayer(neurons.LIF(tau=3.0)),
    "learned LIF": lambda: SpikingLayer(neurons.LIF(tau=P(torch.tensor(3.0)))),
    "LIF per neuron": lambda: SpikingLayer(neurons.LIF(tau=torch.linspace(1.5, 4.0, 5))),
    "soft reset": lambda: SpikingLayer(neurons.LIF(tau=3.0, v_reset=None)),
    "IF": lambda: SpikingLayer(neurons.IF()),
    "ElasticBiSpike": lambda: SpikingLayer(neurons.ElasticBiSpike(P(torch.tensor(0.8)))),
    "table over time": lambda: SpikingLayer(neurons.ElasticBiSpike(torch.linspace(0.5, 1, 7))),
    "OAT": lambda: SpikingLayer(neurons.OAT(7, 1.0, 8.0)),
    "HG": lambda: nn.Sequential(
        nn.Hardtanh(-0.5, 0.5), SpikingLayer(neurons.fit_hg("gelu", -4, 4, 7, 0.1))
    ),
    "SignGD": lambda: SpikingLayer(neurons.SignGD("gelu", Exponential(rate=1.0, decay=0.7))),
    "Trace": lambda: SpikingLayer(neurons.Trace(0.7)),
    "of one's own": lambda: SpikingLayer(
        Neuron(lambda x, s, p: (x * p.a, s), params={"a": PerStep(torch.rand(7))})
    ),
    "LIFNode": lambda: spikingjelly.LIFNode(tau=3.0, step_mode="m"),
    "ParametricLIFNode": lambda: spikingjelly.ParametricLIFNode(step_mode="m"),
    "Leaky": lambda: snntorch.Leaky(0.9, time_first=True),
    "Synaptic": lambda: snntorch.Synaptic(0.8, 0.9, time_first=True),
    "LIFBox": lambda: norse.LIFBox(LIFBoxParameters(v_th=torch.tensor(0.3))),
}


def spikes_of(net, x):
    reset_net(net)
    y = net(x)
    return y[0] if isinstance(y, tuple) else y


def run_onnx(net, x, *others, dynamo, **options):
    """What onnxruntime computes of the file made with ``x``, for it and for other inputs."""
    file = io.BytesIO()
    reset_net(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its exporters
        target = None if dynamo else file
        program = torch.onnx.export(net, (x,), target, dynamo=dynamo, verbose=False, **options)
    if dynamo:
        program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    name = session.get_inputs()[0].name
    return [torch.from_numpy(session.run(None, {name: x.numpy()})[0]) for x in (x, *others)]


OPEN_BATCH = {
    True: {"dynamic_shapes": ({1: Dim("batch")},)},
    False: {"input_names": ["x"], "dynamic_axes": {"x": {1: "batch"}}},
}


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_onnxruntime_fires_the_same_spikes_for_every_batch(layer, dynamo):
    net = nn.Sequential(LAYERS[layer]())
    found = run_onnx(net, X, OTHER, dynamo=dynamo, **OPEN_BATCH[dynamo])
    for y, x in zip(found, (X, OTHER), strict=True):
        expected = spikes_of(net, x)
        assert expected.any()
        assert torch.equal(y, expected)


def test_an_open_time_axis_is_refused():
    net = nn.Sequential(SpikingLayer(neurons.LIF()))
    with pytest.raises(Exception, match="its time axis cannot be open; leave axis 0 out"):
        run_onnx(net, X, dynamo=True, dynamic_shapes=({0: Dim("time")},))


def test_a_file_of_the_older_exporter_takes_no_other_number_of_steps():
    net = nn.Sequential(SpikingLayer(neurons.LIF()))
    options = {"input_names": ["x"], "dynamic_axes": {"x": {0: "time"}}}
    (y,) = run_onnx(net, X, dynamo=False, **options)
    assert torch.equal(y, spikes_of(net, X))
    for other in (X[:-1], torch.cat([X, X])):
        with pytest.raises(Exception, match="cannot be reshaped"):
            run_onnx(net, X, other, dynamo=False, **options)


def on_a_grid(net):
    """The network with weights whose sums no order of additions rounds."""
    for weight in net.parameters():
        weight.data.mul_(16).round_().div_(16)
    return net.eval()


def test_a_converted_block_of_las_is_computed_as_in_torch():
    torch.manual_seed(0)
    ann = on_a_grid(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8)))
    net = convert.LAS(steps=8, progress=False).apply(ann, [torch.randn(64, 4)])
    x, other = torch.randn(5, 4), torch.randn(9, 4)
    shapes = {"dynamic_shapes": ({0: Dim("batch")},)}
    for y, given in zip(run_onnx(net, x, other, dynamo=True, **shapes), (x, other), strict=True):
        torch.testing.assert_close(y, net(given), rtol=0, atol=1e-6)


def test_a_network_of_signgd_is_computed_as_in_torch():
    torch.manual_seed(0)
    ann = on_a_grid(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3)))
    net = convert.SignGD(steps=8).apply(ann, torch.randn(64, 4))
    x, other = torch.randn(5, 4) / 2, torch.randn(9, 4) / 2
    shapes = {"dynamic_shapes": (({0: Dim("batch")},),)}
    for y, given in zip(run_onnx(net, x, other, dynamo=True, **shapes), (x, other), strict=True):
        torch.testing.assert_close(y, net(given), rtol=0, atol=1e-6)


def test_a_step_of_a_cell_is_a_graph_of_its_own():
    cell = spikingjelly.LIFNode(tau=3.0, step_mode="s")
    (y,) = run_onnx(nn.Sequential(cell), 4 * X[0], dynamo=False)
    assert y.any() and torch.equal(y, spikes_of(cell, 4 * X[0]))


def test_a_layer_that_adds_what_fired_is_a_product_in_the_file():
    torch.manual_seed(0)
    net = on_a_grid(nn.Sequential(SpikingLayer(neurons.IF()), SpikeLinear(5, 4, threshold=0.9)))
    (y,) = run_onnx(net, X, dynamo=True)
    assert torch.equal(y, net(X))


def test_a_program_that_holds_a_kernel_is_refused_with_the_remedies():
    program = torch.export.export(SpikingLayer(neurons.LIF()), (X,))
    with pytest.raises(Exception, match=r"give torch.onnx.export the module itself.*'eager'"):
        torch.onnx.export(program, dynamo=True, verbose=False)
