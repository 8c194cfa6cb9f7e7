"""event_driven: layers of networks of every host, changed where they are."""

import copy
import io

import norse.torch as norse
import pytest
import snntorch
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn
from torch.nn.utils import parametrizations

from spikeloom import SpikingLayer, compress, convert, export, neurons, verify
from spikeloom.nn import SpikeLinear, dense, event_driven
from spikeloom.nn.layer import SpikeFed

T, BATCH, INPUTS, HIDDEN, CLASSES = 9, 6, 40, 50, 5


class Steps(nn.Module):
    """snnTorch's own loop."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, CLASSES)
        self.fires = snntorch.Leaky(0.9)

    def forward(self, x):
        mem, found = self.fires.reset_mem(), []
        for now in x:
            spikes, mem = self.fires(self.first(now), mem)
            found.append(self.last(spikes))
        return torch.stack(found)


class Lifted(nn.Module):
    """Norse's own sequence."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, CLASSES)
        self.fires = norse.LIF()

    def forward(self, x):
        return self.last(self.fires(40 * self.first(x))[0])


def neutral():
    fires = SpikingLayer(neurons.LIF(v_threshold=0.4))
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN), fires, nn.Linear(HIDDEN, CLASSES))


def spikingjelly():
    net = nn.Sequential(
        layer.Linear(INPUTS, HIDDEN),
        neuron.LIFNode(v_threshold=0.4),
        layer.Linear(HIDDEN, CLASSES),
    )
    functional.set_step_mode(net, "m")
    return net


NETS = {"torch": neutral, "SpikingJelly": spikingjelly, "snnTorch": Steps, "Norse": Lifted}


@pytest.fixture(params=NETS)
def net(request):
    torch.manual_seed(0)
    return NETS[request.param]()


def x():
    torch.manual_seed(1)
    return torch.randn(T, BATCH, INPUTS)


def trained(network, given):
    functional.reset_net(network)
    network.zero_grad()
    y = network(given)
    y.square().sum().backward()
    return [y, *(parameter.grad for parameter in network.parameters())]


def changed(network):
    return [name for name, module in network.named_modules() if isinstance(module, SpikeFed)]


def test_a_network_computes_what_it_did_and_keeps_its_names(net):
    plain = copy.deepcopy(net)
    parameters = list(net.parameters())
    assert event_driven(net, threshold=1.0) is net
    assert len(changed(net)) == 2
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    assert list(net.state_dict()) == list(plain.state_dict())
    for a, b in zip(trained(net, x()), trained(plain, x()), strict=True):
        torch.testing.assert_close(a, b)


def test_a_sample_tells_which_layers_are_fed_by_spikes(net):
    modules = dict(net.named_modules())
    names = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    before = copy.deepcopy(net)
    assert changed(event_driven(net, x())) == names[1:]
    for a, b in zip(net.buffers(), before.buffers(), strict=True):
        assert torch.equal(a, b)
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_it_is_undone(net):
    classes = [type(module) for module in net.modules()]
    event_driven(net, threshold=0.5)
    assert dense(net) is net
    assert [type(module) for module in net.modules()] == classes
    assert not any("_threshold" in vars(m) for m in net.modules() if isinstance(m, nn.Linear))


def test_copies_stay_event_driven(net):
    event_driven(net, threshold=1.0)
    other = copy.deepcopy(net)
    assert changed(other) == changed(net)
    assert not any(a is b for a, b in zip(net.parameters(), other.parameters(), strict=True))
    torch.testing.assert_close(trained(other, x()), trained(net, x()))


@pytest.mark.parametrize("name", ("torch", "SpikingJelly"))
def test_stored_networks_stay_event_driven(name):
    torch.manual_seed(0)
    net, file = event_driven(NETS[name](), threshold=1.0), io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    other = torch.load(file, weights_only=False)
    assert changed(other) == changed(net)
    assert [type(module) for module in dense(other).modules()] == [
        type(module) for module in dense(net).modules()
    ]


def test_a_second_call_sets_the_threshold():
    net = event_driven(event_driven(neutral()), threshold=0.25)
    assert (net[0].threshold, net[2].threshold) == (0.25, 0.25)
    assert type(net[0]) is SpikeLinear


def test_weights_inside_a_neuron_and_computed_ones_stay():
    recurrent = snntorch.RLeaky(0.9, linear_features=HIDDEN)
    net = nn.Sequential(
        nn.Linear(INPUTS, HIDDEN), recurrent, parametrizations.weight_norm(nn.Linear(HIDDEN, 3))
    )
    assert changed(event_driven(net)) == ["0"]


def test_a_layer_that_computes_something_else_stays():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Named(nn.Linear):
        """Only a name."""

    net = nn.Sequential(Doubled(3, 3), Named(3, 3), layer.WSConv2d(3, 3, 3))
    las = convert.LAS(steps=4).apply(nn.Sequential(nn.Linear(3, 3), nn.GELU()), [torch.randn(8, 3)])
    assert changed(event_driven(net)) == ["1"]
    assert isinstance(net[1], Named)
    assert changed(event_driven(las)) == []


def test_a_layer_without_sizes_is_refused():
    with pytest.raises(ValueError, match=r"'0' \(LazyLinear\).*call the network once first"):
        event_driven(nn.Sequential(nn.LazyLinear(3)))


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match="net"):
        event_driven([nn.Linear(2, 2)])


def test_tied_weights_stay_tied():
    net = neutral()
    net.append(nn.Linear(HIDDEN, CLASSES))
    net[3].weight = net[2].weight
    event_driven(net)
    assert net[3].weight is net[2].weight


# --- What else looks at layers ---


def said(report):
    """What a report says, but for the names of classes."""
    return str(report.as_dict()).replace("SpikeLinear", "Linear")


def test_energy_counts_are_those_of_the_dense_network(net):
    sample = (x() > 0.5).float()
    expected = verify.count_energy(net.eval(), sample)
    functional.reset_net(net)
    found = verify.count_energy(event_driven(net, threshold=1.0), sample)
    assert said(found) == said(expected)


def test_the_proof_of_multiplication_freedom_is_that_of_the_dense_network():
    fires = SpikingLayer(neurons.IF(v_reset=None))
    net = nn.Sequential(nn.Linear(INPUTS, HIDDEN), fires, nn.Linear(HIDDEN, CLASSES)).eval()
    expected = verify.check_mfi(net, x())
    found = verify.check_mfi(event_driven(net, threshold=1.0), x())
    assert found.ok and said(found) == said(expected)


@pytest.mark.parametrize("name", ("torch", "SpikingJelly"))
def test_nir_holds_the_same_graph(name):
    torch.manual_seed(2)
    net = NETS[name]().eval()
    expected, _ = export.to_nir(net, x())
    functional.reset_net(net)
    found, _ = export.to_nir(event_driven(net, threshold=1.0), x())
    assert list(found.nodes) == list(expected.nodes)
    for name, node in expected.nodes.items():
        assert type(found.nodes[name]) is type(node)
        if hasattr(node, "weight"):
            assert (found.nodes[name].weight == node.weight).all()


def test_osbc_compresses_the_same_weights():
    sample = (x() > 0.5).float()
    results = []
    for change in (lambda net: net, lambda net: event_driven(net, threshold=1.0)):
        torch.manual_seed(3)
        net = change(neutral().eval())
        statistics = compress.calibrate(net, [sample])
        compress.prune(net, statistics, sparsity=0.5)
        results.append(net.state_dict())
    for a, b in zip(*map(dict.values, results), strict=True):
        torch.testing.assert_close(a, b)


def test_norms_are_folded_into_them():
    torch.manual_seed(4)
    net = nn.Sequential(
        nn.Flatten(0, 1), nn.Linear(INPUTS, HIDDEN), nn.BatchNorm1d(HIDDEN),
        nn.Unflatten(0, (T, BATCH)), SpikingLayer(neurons.LIF()),
    ).eval()  # fmt: skip
    net[2].running_mean.normal_()
    expected = verify.fold_norms(net)(x())
    assert torch.equal(verify.fold_norms(event_driven(net, threshold=1.0))(x()), expected)


def test_a_second_call_without_a_threshold_keeps_what_layers_have():
    net = nn.Sequential(SpikeLinear(3, 3, threshold=0.5), nn.Linear(3, 3))
    event_driven(net)
    assert (net[0].threshold, net[1].threshold) == (0.5, None)


def test_a_subclass_of_a_users_own_is_not_stripped():
    class Mine(SpikeLinear):
        def forward(self, input):
            return 2 * super().forward(input)

    net = nn.Sequential(Mine(3, 3, threshold=0.5), SpikeLinear(3, 3))
    dense(net)
    assert type(net[0]) is Mine and net[0].threshold == 0.5
    assert type(net[1]) is nn.Linear


@pytest.mark.parametrize("name", ("torch", "SpikingJelly"))
def test_it_is_undone_after_a_parametrization_was_added(name):
    torch.manual_seed(5)
    net = event_driven(NETS[name](), threshold=1.0)
    cls = type(net[0]).dense_class
    parametrizations.weight_norm(net[0])
    given = (x() > 0.5).float()
    expected = net(given)
    functional.reset_net(net)
    torch.testing.assert_close(dense(net)(given), expected)
    assert not changed(net) and isinstance(net[0], cls)
    net[0].parametrizations.weight.original0.data.zero_()
    assert not net[0].weight.count_nonzero()
    nn.utils.parametrize.remove_parametrizations(net[0], "weight")
    assert type(net[0]) is cls


@pytest.mark.parametrize("attribute", ("threshold", "operation"))
@pytest.mark.parametrize(
    "value", (0.7, nn.Parameter(torch.ones(1)), lambda layer: 1), ids=("float", "parameter", "any")
)
def test_a_layer_whose_attributes_have_our_names_stays(attribute, value):
    class Own(nn.Linear):
        def __init__(self):
            super().__init__(3, 3)
            setattr(self, attribute, value)

    net = dense(event_driven(nn.Sequential(Own()), threshold=0.5))
    assert not changed(event_driven(net))
    assert getattr(net[0], attribute) is value


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quantize:UserWarning")
def test_undone_layers_serve_tools_that_need_torchs_own():
    torch.manual_seed(6)
    net = dense(nn.Sequential(SpikeLinear(70, 33, threshold=1.0)))
    given = (torch.rand(5, 70) < 0.1).float()
    y = net(given)
    assert torch.equal(torch.jit.script(net)(given), y)
    gradients = torch.stack([torch.ones_like(y), 2 * torch.ones_like(y)])
    (found,) = torch.autograd.grad(y, net[0].weight, gradients, is_grads_batched=True)
    torch.testing.assert_close(found[1], 2 * found[0])
    quantized = torch.ao.quantization.quantize_dynamic(net, {nn.Linear})
    assert not isinstance(quantized[0], nn.Linear)
