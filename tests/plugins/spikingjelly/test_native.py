"""to_host: SpikingJelly's own neurons in the place of ours, and its exporters on the result."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import nir
import pytest
import torch
from spikingjelly.activation_based import (
    functional,
    lava_exchange,
    layer,
    lynxi_exchange,
    surrogate,
)
from spikingjelly.activation_based import neuron as host
from spikingjelly.activation_based.nir_exchange import export_to_nir
from torch import nn

from spikeloom import neurons
from spikeloom.modules import neuron_of
from spikeloom.neurons import surrogate as ours
from spikeloom.plugins import NoCounterpart
from spikeloom.plugins import spikingjelly as loom
from spikeloom.plugins.contract import same, weight
from tests.export.readers import with_spikingjelly
from tests.plugins.exchange import sample, weighted

BINARY = [2.0**-k for k in range(1, 6)]


def spikes_and_gradients(node, x):
    x = x.clone().requires_grad_()
    node.step_mode = "m"
    y = node(x)
    (y * weight(y)).sum().backward()
    return y.detach(), [x.grad, *(p.grad for p in node.parameters())]


@pytest.mark.parametrize(
    ("node", "cls"),
    [
        (loom.LIFNode(1.7, False, 0.6, None, surrogate.ATan(3.0), True), host.LIFNode),
        (loom.LIFNode(tau=torch.tensor(4.0), v_threshold=torch.tensor(0.5)), host.LIFNode),
        (loom.LIFNode(v_reset=-0.25, surrogate_function=surrogate.Rect()), host.LIFNode),
        (loom.LIFNode(surrogate_function=ours.Erf(1.5), store_v_seq=True), host.LIFNode),
        (loom.IFNode(0.8, None, detach_reset=True), host.IFNode),
        (loom.make(neurons.IF(v_reset=0.1, surrogate=ours.SoftSign())), host.IFNode),
        (loom.make(neurons.LIF(tau=None)), host.IFNode),
        (loom.make(neurons.LIF(3.0, decay_input=False), step_mode="s"), host.LIFNode),
        (loom.ParametricLIFNode(2.0, False, v_reset=None), host.ParametricLIFNode),
        (loom.ParametricLIFNode(3.3, surrogate_function=ours.ATan()), host.ParametricLIFNode),
        (
            loom.ParametricLIFNode(1.2, v_reset=0.1, surrogate_function=surrogate.Rect()),
            host.ParametricLIFNode,
        ),
        (
            loom.ElasticBiSpikeNode(1.0, decay=0.75, reset="symmetric", grad_scale=False),
            host.TernaryLIFNode,
        ),
        (loom.ElasticBiSpikeNode(1.0, decay=1.0, reset="symmetric"), host.TernaryIFNode),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_spikes_and_gradients_are_those_of_the_neuron_replaced(node, cls):
    native = loom.to_host(node)
    assert type(native) is cls
    assert (native.step_mode, native.store_v_seq) == (node.step_mode, node.store_v_seq)
    x = torch.randn(30, 4, 16) + 0.3
    (y, grads), (z, expected) = spikes_and_gradients(native, x), spikes_and_gradients(node, x)
    assert y.any()
    same(y, z)
    for own, reference in zip(grads, expected, strict=True):
        torch.testing.assert_close(own, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("node", "cls"),
    [
        (loom.OATNode(5, 1.0, 8.0, tie="ge"), host.OutlierAwareThresholdNode),
        (loom.OATNode(6, torch.tensor(0.7), tie="ge"), host.OutlierAwareThresholdNode),
        (loom.HGNode([0.5], [neurons.FewSpike(*[BINARY] * 3)] * 2, tie="ge"), host.HGNode),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_few_spike_neurons_send_the_same_spikes(node, cls):
    native = loom.to_host(node)
    assert type(native) is cls and native.step_mode == node.step_mode
    x = torch.cat([torch.randn(200) * 3, torch.arange(-40, 41) / 4])
    for module in (node, native):
        module.step_mode = "s"
    assert torch.equal(native(x), node(x))


@pytest.mark.parametrize(
    "node",
    [
        loom.LIFNode(3.0, v_reset=None, v_threshold=0.7),
        loom.IFNode(v_reset=0.5),
        loom.ParametricLIFNode(init_tau=4.0),
    ],
    ids=lambda node: type(node).__name__,
)
def test_the_exporter_describes_the_native_neuron_as_the_one_replaced(node):
    found, expected = neuron_of(loom.to_host(node)).settings(), node.neuron.settings()
    assert set(found) <= set(expected)
    for name in set(found) - {"surrogate", "detach_reset"}:
        assert found[name] == expected[name], name


def test_a_plain_rate_becomes_the_w_of_which_it_is_the_sigmoid():
    native = loom.to_host(loom.make(neurons.ParametricLIF(0.25, decay_input=False)))
    assert type(native) is host.ParametricLIFNode and not native.decay_input
    assert native.w.sigmoid().item() == 0.25


def test_a_learned_time_constant_goes_on_learning_and_stays_tied():
    first, second = loom.ParametricLIFNode(), loom.ParametricLIFNode()
    second.w = first.w
    with torch.no_grad():
        first.w.fill_(-0.7)
    net = loom.to_host(nn.Sequential(first, nn.Linear(3, 3), second))
    assert net[0].w is net[2].w and net[0].w is not first.w
    assert isinstance(net[0].w, nn.Parameter) and net[0].w.item() == first.w.item()


REFUSED = {
    "tau is learned": lambda: loom.LIFNode(tau=nn.Parameter(torch.tensor(2.0))),
    "tau is not one number": lambda: loom.LIFNode(tau=torch.full((4,), 2.0)),
    "threshold is learned": lambda: loom.IFNode(v_threshold=nn.Parameter(torch.tensor(1.0))),
    "rate is learned": lambda: loom.make(neurons.ParametricLIF(nn.Parameter(torch.tensor(0.5)))),
    "its rate is 1.0": lambda: loom.make(neurons.ParametricLIF(1.0)),
    "tau is 1.0": lambda: loom.LIFNode(tau=1.0),
    "fires above": lambda: loom.make(neurons.LIF(fires_at_threshold=False)),
    "no surrogate function": lambda: loom.LIFNode(surrogate_function=ours.Triangle()),
    "has no Leaky": lambda: loom.make(neurons.Leaky(0.5)),
    "has no LIFBox": lambda: loom.make(neurons.LIFBox()),
    "has no Trace": lambda: loom.make(neurons.Trace(0.5)),
    "has no SignGD": lambda: loom.SignGDNode(),
    "reset after both": lambda: loom.ElasticBiSpikeNode(1.0),
    "its alpha is 0.5": lambda: loom.ElasticBiSpikeNode(0.5, decay=0.5, reset="symmetric"),
    "its decay is 0.3": lambda: loom.ElasticBiSpikeNode(1.0, decay=0.3, reset="symmetric"),
    "its decay is 0.0": lambda: loom.ElasticBiSpikeNode(1.0, decay=0.0, reset="symmetric"),
    "alpha is learned": lambda: loom.ElasticBiSpikeNode(
        nn.Parameter(torch.tensor(1.0)), reset="symmetric"
    ),
    "alpha is not one number": lambda: loom.ElasticBiSpikeNode([1.0, 1.0], reset="symmetric"),
    'tie="ge"': lambda: loom.OATNode(),
    "rounding='truncate'": lambda: loom.OATNode(tie="ge", rounding="nearest"),
    "spikes='weighted'": lambda: loom.OATNode(tie="ge", spikes="unit"),
    "it has 3": lambda: loom.OATNode(tie="ge", normal=1.0, between=[2.0], outlier=4.0),
    "ranges have no end": lambda: loom.make(neurons.HG([], [table()], low=0.0, tie="ge")),
    "neither origins": lambda: loom.make(neurons.HG([], [table()], constants=[1.0], tie="ge")),
    "FewSpikeNode forgets": lambda: loom.make(neurons.FewSpike(*[BINARY] * 3, tie="ge")),
    "has no LinearHG": lambda: loom.make(neurons.fit_hg("gelu", -4, 4, 8)),
}


def table():
    return neurons.FewSpike(*[BINARY] * 3)


@pytest.mark.parametrize("reason", REFUSED)
def test_what_spikingjelly_has_not_is_refused(reason):
    with pytest.raises(NoCounterpart) as caught:
        loom.to_host(nn.Sequential(nn.Linear(2, 4), REFUSED[reason]()))
    (neuron,) = caught.value.neurons
    assert neuron.module == "1" and reason in neuron.reason


def test_a_frozen_value_becomes_a_number():
    node = loom.IFNode(v_threshold=nn.Parameter(torch.tensor(0.7)))
    node.v_threshold.requires_grad_(False)
    assert loom.to_host(node).v_threshold == pytest.approx(0.7)


def test_a_subclass_that_computes_its_own_step_is_noticed():
    class Doubled(loom.LIFNode):
        def single_step_functional_forward(self, inputs, states):
            (y,), states = super().single_step_functional_forward(inputs, states)
            return (2 * y,), states

    with pytest.raises(NoCounterpart, match="spikes differ"):
        loom.to_host(Doubled())


def net_of(step_mode="m", bias=True, **settings):
    net = nn.Sequential(
        layer.Linear(6, 20, bias=bias),
        loom.LIFNode(tau=2.0, **settings),
        layer.Linear(20, 12, bias=False),
        loom.LIFNode(tau=4.0, decay_input=False),
        layer.Linear(12, 4, bias=bias),
        loom.IFNode(),
    )
    functional.set_step_mode(net, step_mode)
    return net


@pytest.mark.readers
@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("grid", [False, True], ids=["float", "grid"])
def test_spikingjelly_exports_and_reads_the_same_spikes(grid, step_mode):
    net, x = weighted(net_of(step_mode), grid), sample(4, 6, grid=grid)
    native = loom.to_host(net, x if step_mode == "m" else x[0])
    with torch.no_grad():
        spikes = net(x) if step_mode == "m" else torch.stack([net(now) for now in x])
    assert 0.02 < spikes.mean() < 0.98
    graph = export_to_nir(native, x if step_mode == "m" else x[0])
    assert sum(isinstance(node, (nir.LIF, nir.IF)) for node in graph.nodes.values()) == 3
    assert torch.equal(with_spikingjelly(graph, x), spikes)


def test_the_copy_is_at_rest_and_obeys_the_host():
    net, x = weighted(net_of(), True), sample(4, 6, grid=True)
    net[3] = host.LIFNode(step_mode="m")
    with torch.no_grad():
        spikes = net(x)
        native = loom.to_host(net)
        assert torch.equal(native(x), spikes)
        functional.reset_net(native)
        assert torch.equal(native(x), spikes)


class Recorder:
    """Stands in for lava-dl's blocks, which are not installed: it keeps what it is made of."""

    def __init__(self, neuron=None, *args, **kwargs):
        self.neuron, self.args = neuron, args
        self.synapse = SimpleNamespace(weight=nn.Parameter(torch.zeros(*args[1::-1], 1, 1, 1)))


@pytest.fixture
def lava(monkeypatch):
    """SpikingJelly's Lava exchange as it is where lava-dl is installed."""
    blocks = SimpleNamespace(Dense=Recorder)
    slayer = ModuleType("lava.lib.dl.slayer")
    slayer.block = SimpleNamespace(cuba=blocks)
    parts = slayer.__name__.split(".")
    for i in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), ModuleType(".".join(parts[:i])))
    monkeypatch.setitem(sys.modules, slayer.__name__, slayer)
    sys.modules["lava.lib.dl"].slayer = slayer
    name = "spikingjelly.activation_based._lava_exchange_with_lava"
    spec = importlib.util.spec_from_file_location(name, lava_exchange.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lava_net(tau):
    net = nn.Sequential(
        nn.Linear(6, 5, bias=False), loom.LIFNode(tau, decay_input=False, step_mode="m")
    )
    net.extend([nn.Linear(5, 4, bias=False), loom.IFNode(v_threshold=0.5, step_mode="m")])
    return net


@pytest.mark.parametrize("replace", [loom.to_host, lambda net: net], ids=["native", "ours"])
def test_lava_takes_the_native_neurons_and_ours(lava, replace):
    """H 33."""
    net = replace(lava_net(4.0))
    first, second = lava.to_lava_blocks(net)
    assert first.neuron["voltage_decay"] == 0.25 and first.neuron["threshold"] == 1.0
    assert second.neuron["voltage_decay"] == 0.0 and second.neuron["threshold"] == 0.5
    assert torch.equal(first.synapse.weight.squeeze(), net[0].weight)
    with pytest.raises(ValueError, match="decay_input"):
        lava.to_lava_blocks(replace(net_of(bias=False)))


def test_lynxi_takes_our_values_for_each_neuron_too():
    """H 33: what SpikingJelly's own neuron could not hold."""
    tau, threshold = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0.5, 1.0, 1.0, 2.0])
    node = loom.LIFNode(tau, v_threshold=threshold, step_mode="m")
    x = sample(6, 4, grid=True)
    (module,) = lynxi_exchange.to_lynxi_supported_modules(nn.Sequential(node), len(x))
    assert type(module) is lynxi_exchange.LIFNode
    spikes = node(x)
    assert spikes.any()
    assert torch.equal(module(x.flatten(0, 1)).reshape(spikes.shape), spikes)


@pytest.mark.parametrize("replace", [loom.to_host, lambda net: net], ids=["native", "ours"])
@pytest.mark.parametrize("v_reset", [0.0, None])
def test_lynxi_takes_the_native_neurons_and_ours(v_reset, replace):
    """H 33."""
    net, x = weighted(net_of(v_reset=v_reset), True), sample(4, 6, grid=True)
    modules = lynxi_exchange.to_lynxi_supported_modules(replace(net), len(x))
    assert [type(m).__module__ for m in modules[1::2]] == [lynxi_exchange.__name__] * 3
    with torch.no_grad():
        spikes = net(x)
        found = x.flatten(0, 1)
        for module in modules:
            found = module(found)
    assert torch.equal(found.reshape(spikes.shape), spikes)
