"""SpikingJelly's models and converters with our neurons in them; H as in its conformance list."""

import copy
import sys
from importlib import import_module
from types import ModuleType

import pytest
import torch
from spikingjelly.activation_based import ann2snn, functional, monitor, neuron, surrogate
from torch import nn

from spikeloom.plugins import spikingjelly as loom
from spikeloom.plugins.contract import same, weight

SMALL = {"num_classes": 5, "T": 2}
RESNET = {**SMALL, "layers": (1, 1, 1), "base_channels": 8, "stem_kernel_size": 3, "stem_stride": 1}


def model(name):
    return import_module(f"spikingjelly.activation_based.model.{name}")


def resnet(module, cls, **kw):
    found = model(module)
    return getattr(found, cls)(found.BasicBlock, [1, 1, 1, 1], num_classes=5, **kw)


MODELS = {
    "MSResNet": lambda **kw: model("ms_resnet").MSResNet(**RESNET, **kw),
    "MaxResNet": lambda **kw: model("ms_resnet").MaxResNet(**RESNET, **kw),
    "AttMSResNet": lambda **kw: model("masnn").AttMSResNet(**RESNET, **kw),
    "MASNN": lambda **kw: model("masnn").MASNN(
        **SMALL,
        in_channels=3,
        input_size=(16, 16),
        channels=(8, 8),
        pools=(2, 2),
        fc_hidden=16,
        reduction_t=1,
        **kw,
    ),
    "MaxFormer": lambda **kw: model("maxformer").MaxFormer(
        **SMALL, embed_dims=32, depths=(1, 1, 1), cifar=True, **kw
    ),
    "QKFormer": lambda **kw: model("qkformer").QKFormer(
        **SMALL, embed_dims=48, num_heads=(1, 2, 2), depths=(1, 1, 1), **kw
    ),
    "SpikeDrivenTransformer": lambda **kw: model("spike_driven_transformer").SpikeDrivenTransformer(
        **SMALL, embed_dims=32, num_heads=2, depths=1, **kw
    ),
    "Spikformer": lambda **kw: model("spikformer").Spikformer(
        **SMALL,
        img_size_h=16,
        img_size_w=16,
        patch_size=4,
        embed_dims=32,
        num_heads=2,
        depths=1,
        **kw,
    ),
    "SEWResNet": lambda **kw: resnet("sew_resnet", "SEWResNet", cnf="ADD", **kw),
    "SpikingResNet": lambda **kw: resnet("spiking_resnet", "SpikingResNet", **kw),
    # Without its classifier, of 120 million weights.
    "SpikingVGG": lambda spiking_neuron, **kw: model("spiking_vgg").SpikingVGG.make_layers(
        [8, "M", 8], True, neuron=spiking_neuron, **kw
    ),
}
NEEDING_TORCHVISION = ("sew_resnet", "spiking_resnet", "spiking_vgg")


@pytest.fixture
def torchvision(monkeypatch):
    """Stands in for torchvision, of which the models import only a download of weights."""
    download = ModuleType("torchvision._internally_replaced_utils")
    download.load_state_dict_from_url = None
    package = ModuleType("torchvision")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, download.__name__, download)
    yield
    for name in NEEDING_TORCHVISION:
        sys.modules.pop(f"spikingjelly.activation_based.model.{name}", None)


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_the_models_of_spikingjelly_take_our_class_as_spiking_neuron(build):
    """H 38: spikes and outputs equal to the last bit, gradients but for rounding."""
    found = []
    for cls in (loom.LIFNode, neuron.LIFNode):
        torch.manual_seed(0)
        settings = {"tau": 1.7, "v_threshold": 0.05, "surrogate_function": surrogate.ATan()}
        net = build(spiking_neuron=cls, **settings)
        functional.set_step_mode(net, "m")
        spikes = monitor.OutputMonitor(net, cls)
        x = torch.rand(2, 2, 3, 16, 16, requires_grad=True)
        y = net(x)
        (y * weight(y)).sum().backward()
        found.append((y.detach(), [s.detach() for s in spikes.records], x.grad))
    (y, spikes, grad), (expected, theirs, reference) = found
    assert any(bool(s.any()) for s in spikes)
    same(spikes, theirs)
    same(y, expected)
    close = 1e-5 * float(reference.abs().max())
    torch.testing.assert_close(grad, reference, rtol=0, atol=close)


def relu_network():
    torch.manual_seed(0)
    layers = nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)
    return nn.Sequential(*layers).eval(), torch.rand(64, 8)


def rate(net, x, steps):
    """The mean output over steps from rest."""
    functional.set_step_mode(net, "s")
    functional.reset_net(net)
    return torch.stack([net(x) for _ in range(steps)]).mean(0)


@pytest.mark.parametrize(
    "factory",
    [
        lambda scale: loom.IFNode(v_reset=None),
        lambda scale: loom.IFNode(v_threshold=scale, v_reset=None, step_mode="m"),
    ],
    ids=["unit threshold", "threshold of the layer"],
)
@torch.no_grad()
def test_rate_coding_converts_to_our_neurons_with_an_error_that_shrinks(factory):
    """H 34: as it does to its own, and the ANN stays as it was."""
    ann, x = relu_network()
    before = copy.deepcopy(ann.state_dict())
    own, host = (
        ann2snn.FXConverter(ann2snn.RateCodingRecipe([x], neuron_factory=make)).convert(ann)
        for make in (factory, None)
    )
    nodes = [module for module in own.modules() if isinstance(module, loom.IFNode)]
    assert len(nodes) == 2
    same(dict(ann.state_dict()), dict(before))
    error, theirs = (
        [float((rate(net, x, steps) - ann(x)).abs().mean()) for steps in (4, 32, 256)]
        for net in (own, host)
    )
    assert error[0] > 2 * error[1] > 4 * error[2]
    assert error[2] == pytest.approx(theirs[2], rel=0.1)
    if nodes[0].v_threshold == 1.0:
        same(rate(own, x, 32), rate(host, x, 32))
    functional.reset_net(own)
    assert all(node.v == 0.0 for node in nodes)
