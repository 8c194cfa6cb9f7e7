"""The frameworks' own recurrent layers, and ours, as graphs with an edge back."""

import norse.torch as norse
import pytest
import snntorch
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from spikeloom import export, plugins
from spikeloom.hosted import to_rest
from spikeloom.modules import circuit_of

T, BATCH, FEATURES, N = 100, 2, 6, 8


def eighths(module, seed=0):
    """The module, its weights in eighths, so that sums do not depend on their order."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.dim():
            parameter.data = torch.randint(-12, 17, parameter.shape, generator=generator) / 8
    return module


def drive(*shape):
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(T, BATCH, *shape, generator=generator) < 0.4).float()


class Stepwise(nn.Module):
    """A network of snnTorch's manner: a loop over time, in which every state is handed on."""

    def __init__(self, neuron_module, features=N):
        super().__init__()
        self.fc = nn.Linear(FEATURES, features)
        self.rlif = neuron_module
        self.readout = nn.Linear(features, 3)

    def forward(self, x):
        state, found = self.rlif.reset_mem(), []
        for now in x:
            spk, *others = self.rlif(self.fc(now), *state)
            state = (spk, *others)
            found.append(self.readout(spk))
        return torch.stack(found)


class OverTime(nn.Module):
    """A network of Norse's manner: a layer over time that returns its last state."""

    def __init__(self, recurrent):
        super().__init__()
        self.recurrent, self.readout = recurrent, nn.Linear(N, 3)

    def forward(self, x):
        spikes, _ = self.recurrent(x)
        return self.readout(spikes)


class ByCells(nn.Module):
    """The same by single steps."""

    def __init__(self, cell):
        super().__init__()
        self.cell, self.readout = cell, nn.Linear(N, 3)

    def forward(self, x):
        state, found = None, []
        for now in x:
            spikes, state = self.cell(now, state)
            found.append(self.readout(spikes))
        return torch.stack(found)


def parameters():
    return norse.LIFParameters(tau_mem_inv=500.0, tau_syn_inv=250.0, v_leak=0.25, v_reset=0.25)


def contained(inner, module=layer):
    return module.LinearRecurrentContainer(inner, N, N, bias=True)


def snntorchs(make, **settings):
    return lambda: Stepwise(eighths(make(linear_features=N, **settings)))


ZERO = {"reset_mechanism": "zero"}
NETWORKS = {
    "snntorch.RLeaky": snntorchs(snntorch.RLeaky, beta=0.5),
    "snntorch.RLeaky none": snntorchs(snntorch.RLeaky, beta=0.5, reset_mechanism="none"),
    "snntorch.RLeaky zero at once": snntorchs(snntorch.RLeaky, beta=0.5, reset_delay=False, **ZERO),
    "snntorch.RSynaptic": snntorchs(snntorch.RSynaptic, alpha=0.5, beta=0.5),
    "snntorch.RLeaky one to one": lambda: Stepwise(
        snntorch.RLeaky(0.5, V=torch.linspace(-1, 0.75, N), all_to_all=False)
    ),
    "snntorch.RLeaky one weight": lambda: Stepwise(snntorch.RLeaky(0.5, -0.5, all_to_all=False)),
    "ours RLeaky": snntorchs(plugins.snntorch.RLeaky, beta=0.5),
    "ours RLeaky zero at once": snntorchs(
        plugins.snntorch.RLeaky, beta=0.5, reset_delay=False, **ZERO
    ),
    "ours RLeaky one to one": lambda: Stepwise(
        plugins.snntorch.RLeaky(0.5, V=torch.linspace(-1, 0.75, N), all_to_all=False)
    ),
    "norse.LIFRecurrent": lambda: OverTime(norse.LIFRecurrent(FEATURES, N, parameters())),
    "norse.LIFRecurrentCell": lambda: ByCells(norse.LIFRecurrentCell(FEATURES, N, parameters())),
    "spikingjelly": lambda: nn.Sequential(
        layer.SeqToANNContainer(nn.Linear(FEATURES, N)),
        contained(neuron.LIFNode(tau=2.0)),
    ),
    "spikingjelly over ours": lambda: nn.Sequential(
        layer.SeqToANNContainer(nn.Linear(FEATURES, N)),
        contained(plugins.spikingjelly.LIFNode(tau=2.0)),
    ),
    "ours over ours": lambda: nn.Sequential(
        layer.SeqToANNContainer(nn.Linear(FEATURES, N)),
        contained(plugins.spikingjelly.LIFNode(tau=2.0), plugins.spikingjelly),
    ),
}


def network(name):
    torch.manual_seed(0)
    net = eighths(NETWORKS[name]()).eval()
    for module in net.modules():
        if isinstance(module, layer.LinearRecurrentContainer):
            module.step_mode = "m"
        if hasattr(module, "recurrent_weights"):
            module.recurrent_weights.data.fill_diagonal_(0.0)
    return net


def weights_that_return(net):
    for module in net.modules():
        if isinstance(module, layer.LinearRecurrentContainer):
            return module.rc.weight[:, -N:]
        for name in ("V", "recurrent_weights"):
            if isinstance(getattr(module, name, None), torch.Tensor):
                return getattr(module, name)
    return net.rlif.recurrent.weight


@pytest.mark.parametrize("name", NETWORKS)
def test_a_recurrent_layer_is_written_with_one_edge_back_and_fires_alike(name, tmp_path):
    net, x = network(name), drive(FEATURES)
    graph, report = export.to_nir(net, x, on_inexact="subgraph")
    assert sum(target.endswith(".recurrent") for _, target in graph.edges) == 1
    assert report.mismatch == 0.0
    export.write(tmp_path / "net.nir", graph)
    found = export.run_nir(export.read(tmp_path / "net.nir"), x)
    to_rest(net)
    with torch.no_grad():
        expected = net(x)
        to_rest(net)
        weights_that_return(net).zero_()
        assert not torch.equal(net(x), expected)
    assert torch.equal(found, expected)


def test_a_convolution_may_return_too():
    lif = snntorch.RLeaky(0.5, conv2d_channels=3, kernel_size=3, init_hidden=True)
    net = eighths(nn.Sequential(nn.Conv2d(2, 3, 3), lif, nn.Flatten(), nn.Linear(48, 4))).eval()
    x = drive(2, 6, 6)
    graph, report = export.to_nir(net, x, on_inexact="subgraph")
    assert report.mismatch == 0.0
    assert type(graph.nodes["1.recurrent"]).__name__ == "Conv2d"
    with torch.no_grad():
        to_rest(net)
        assert torch.equal(export.run_nir(graph, x), torch.stack([net(now) for now in x]))


def test_a_linear_layer_before_the_node_of_a_container_is_merged_with_its_weights():
    inner = nn.Sequential(nn.Linear(N, 5), neuron.LIFNode(tau=2.0))
    net = nn.Sequential(
        nn.Linear(FEATURES, N), layer.LinearRecurrentContainer(inner, N, 5), nn.Linear(5, 3)
    )
    net, x = eighths(net).eval(), drive(FEATURES)
    graph, report = export.to_nir(net, x)
    assert report.mismatch == 0.0
    assert graph.nodes["1.into"].weight.shape == (5, N)
    assert graph.nodes["1.recurrent"].weight.shape == (5, 5)


class Forgetful(Stepwise):
    """Hands the potential on, and zeros for what fired."""

    def forward(self, x):
        state, found = self.rlif.reset_mem(), []
        for now in x:
            spk, *others = self.rlif(self.fc(now), *state)
            state = (torch.zeros_like(spk), *others)
            found.append(self.readout(spk))
        return torch.stack(found)


def test_a_loop_that_does_not_hand_on_what_fired_is_refused():
    net = Forgetful(eighths(plugins.snntorch.RLeaky(0.5, linear_features=N)))
    with pytest.raises(export.NotExpressible, match="hand it the state that it returned"):
        export.to_nir(eighths(net), drive(FEATURES), on_inexact="subgraph")


@pytest.mark.parametrize("make", [snntorch.RLeaky, plugins.snntorch.RLeaky])
def test_a_delayed_reset_to_zero_is_refused_because_it_discards_an_input(make):
    net = Stepwise(make(0.5, linear_features=N, reset_mechanism="zero"))
    with pytest.raises(export.NotExpressible, match="discards the input of the step after a spike"):
        export.to_nir(eighths(net), drive(FEATURES), on_inexact="subgraph")


def test_another_module_in_a_container_is_refused_with_what_can_be_written():
    inner = nn.Sequential(nn.Linear(N, N), nn.Linear(N, N), neuron.LIFNode())
    net = nn.Sequential(nn.Linear(FEATURES, N), layer.LinearRecurrentContainer(inner, N, N))
    with pytest.raises(export.NotExpressible, match=r"a node inside, or Sequential\(Linear, node"):
        export.to_nir(net, drive(FEATURES))


INTEGRATORS = {
    "LIBoxCell": lambda: norse.SequentialState(nn.Linear(FEATURES, N), norse.LIBoxCell()),
    "LICell": lambda: norse.SequentialState(nn.Linear(FEATURES, N), norse.LICell()),
    "LILinearCell": lambda: norse.SequentialState(norse.LILinearCell(FEATURES, N)),
}


@pytest.mark.parametrize("name", INTEGRATORS)
def test_norses_integrators_go_out_by_single_steps(name):
    net, x = eighths(INTEGRATORS[name]()), drive(FEATURES)
    graph, report = export.to_nir(net, x)
    assert report.mismatch == 0.0
    state, expected = None, []
    with torch.no_grad():
        for now in x:
            y, state = net(now, state)
            expected.append(y)
    torch.testing.assert_close(export.run_nir(graph, x), torch.stack(expected))


def test_a_reset_that_snntorchs_rsynaptic_loses_is_not_described():
    assert circuit_of(snntorch.RSynaptic(0.5, 0.5, linear_features=N, reset_delay=False)) is None
    assert circuit_of(snntorch.RSynaptic(0.5, 0.5, linear_features=N)) is not None
