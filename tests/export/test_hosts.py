"""Nets of each framework, exported, and rebuilt in each framework."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from spikeloom import SpikingLayer, plugins
from spikeloom.export import NotExpressible, from_nir, run_nir, to_nir

T = 50


class Seeded:
    """Weights that fire, on a grid of 1/4 if asked for."""

    def __init__(self, grid: bool) -> None:
        self.grid = grid
        self.generator = torch.Generator().manual_seed(3)

    def __call__(self, net: nn.Module) -> nn.Module:
        for parameter in net.parameters():
            if parameter.dim():
                values = 2 * torch.randn(parameter.shape, generator=self.generator)
                parameter.data = (values * 4).round() / 4 if self.grid else values
        return net


def spikingjelly_net() -> nn.Module:
    from spikingjelly.activation_based import functional, layer

    loom = plugins.spikingjelly
    net = nn.Sequential(
        layer.Linear(6, 20),
        loom.LIFNode(tau=2.0),
        layer.Linear(20, 12, bias=False),
        loom.LIFNode(tau=4.0, decay_input=False),
        layer.Linear(12, 4),
        loom.ParametricLIFNode(init_tau=2.0),
    )
    functional.set_step_mode(net, "m")
    return net


def snntorch_net() -> nn.Module:
    loom = plugins.snntorch
    hidden = {"init_hidden": True, "reset_mechanism": "zero"}
    return nn.Sequential(
        nn.Linear(6, 20),
        loom.Leaky(beta=0.5, **hidden),
        nn.Linear(20, 12, bias=False),
        loom.Leaky(beta=0.75, learn_beta=True, **hidden),
        nn.Linear(12, 4),
        loom.Leaky(beta=0.5, threshold=2.0, output=True, **hidden),
    )


def norse_net() -> nn.Module:
    import norse.torch as snn

    loom = plugins.norse
    parameters = [snn.LIFBoxParameters(tau_mem_inv=torch.tensor(rate)) for rate in (500.0, 250.0)]
    return snn.SequentialState(
        nn.Linear(6, 20),
        loom.LIFBox(parameters[0]),
        nn.Linear(20, 12, bias=False),
        loom.LIFBox(parameters[1]),
        nn.Linear(12, 4),
        loom.LIFBox(parameters[0]),
    )


NETS = {"spikingjelly": spikingjelly_net, "snntorch": snntorch_net, "norse": norse_net}


def spikes_of(host: str, net: nn.Module, x: Tensor) -> Tensor:
    """What the host's net answers, in the host's own way of running it, from rest."""
    with torch.no_grad():
        if host == "spikingjelly":
            from spikingjelly.activation_based import functional

            functional.reset_net(net)
            return net(x)
        if host == "snntorch":
            plugins.snntorch.reset(net)
            return torch.stack([net(now)[0] for now in x])
        return net(x)[0]


def sample(grid: bool = False) -> Tensor:
    values = torch.rand(T, 4, 6, generator=torch.Generator().manual_seed(4)) * 3
    return (values * 4).round() / 4 if grid else values


@pytest.mark.parametrize("grid", [False, True], ids=["float", "grid"])
@pytest.mark.parametrize("end", NETS)
@pytest.mark.parametrize("start", NETS)
def test_a_net_moves_from_any_host_to_any_other(start, end, grid, tmp_path):
    net, x = Seeded(grid)(NETS[start]()), sample(grid)
    expected = spikes_of(start, net, x)
    assert 0.02 < expected.mean() < 0.98
    graph, report = to_nir(net, x, path=tmp_path / "net.nir")
    assert report.mismatch == 0
    moved = from_nir(graph, make=getattr(plugins, end).make)
    nodes = [m for m in moved.modules() if type(m).__module__.startswith("spikeloom.plugins.")]
    assert len(nodes) == 3
    assert torch.equal(moved(x), expected)
    assert torch.equal(moved(x), expected)  # from rest again


@pytest.mark.parametrize("host", NETS)
def test_a_moved_net_trains_and_is_exported_again(host):
    x = sample()
    graph, _ = to_nir(Seeded(False)(spikingjelly_net()), x)
    net = from_nir(graph, make=getattr(plugins, host).make)
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    losses = []
    for _ in range(3):
        loss = (net(x).mean(0) - 0.5).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    again, report = to_nir(net, x)
    assert report.mismatch == 0
    assert torch.equal(run_nir(again, x), net(x).detach())


@pytest.mark.parametrize("host", NETS)
def test_modules_are_called_by_the_names_of_the_users_model(host):
    graph, report = to_nir(NETS[host](), sample())
    assert report.column("module") == list("012345")
    assert set(graph.nodes) == {*"012345", "input", "output"}


def test_spikingjelly_in_single_steps_gives_the_same_graph():
    from spikingjelly.activation_based import functional

    net, x = Seeded(True)(spikingjelly_net()), sample(True)
    many, _ = to_nir(net, x)
    functional.set_step_mode(net, "s")
    single, _ = to_nir(net, x)
    assert torch.equal(run_nir(single, x), run_nir(many, x))
    assert single.edges == many.edges


def test_a_state_left_in_the_model_neither_disturbs_nor_is_disturbed():
    net, x = Seeded(True)(spikingjelly_net()), sample(True)
    expected = spikes_of("spikingjelly", net, x)
    v = net[1].v.clone()
    graph, report = to_nir(net, x)
    assert report.mismatch == 0
    assert torch.equal(run_nir(graph, x), expected)
    assert torch.equal(net[1].v, v)


def test_norse_cells_are_driven_step_by_step():
    import norse.torch as snn

    loom = plugins.norse
    p = snn.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0))
    cells = loom.LIFBoxCell(p), loom.LIFBoxCell(p)
    net = snn.SequentialState(nn.Linear(6, 20), cells[0], nn.Linear(20, 4), cells[1])
    net, x = Seeded(False)(net), sample()
    graph, report = to_nir(net, x)
    assert report.mismatch == 0
    state, spikes = None, []
    with torch.no_grad():
        for now in x:
            y, state = net(now, state)
            spikes.append(y)
    assert torch.equal(run_nir(graph, x), torch.stack(spikes))


def test_a_convolutional_spikingjelly_net():
    from spikingjelly.activation_based import functional, layer

    loom = plugins.spikingjelly
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Conv2d(1, 4, 3, padding=1),
        layer.BatchNorm2d(4),
        loom.LIFNode(),
        layer.AvgPool2d(2, 2),
        layer.Flatten(),
        layer.Linear(16, 3),
        loom.LIFNode(),
    )
    functional.set_step_mode(net, "m")
    Seeded(False)(net)
    x = torch.rand(T, 3, 1, 4, 4)
    graph, report = to_nir(net, x)
    assert report.mismatch == 0
    assert spikes_of("spikingjelly", net.eval(), x).any()
    assert any("norse does not read the file as meant: AvgPool2d" in note for note in report.notes)
    moved = from_nir(graph, make=plugins.norse.make)
    assert torch.equal(moved(x), spikes_of("spikingjelly", net, x))


class Explicit(nn.Module):
    """snnTorch as its tutorials write it: a time loop with explicit potentials."""

    def __init__(self, leaky) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 4)
        self.lif1, self.lif2 = leaky(), leaky()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        spikes, potentials = [], []
        for step in range(x.size(0)):
            s, mem1 = self.lif1(self.fc1(x[step]), mem1)
            s, mem2 = self.lif2(self.fc2(s), mem2)
            spikes.append(s)
            potentials.append(mem2)
        return torch.stack(spikes, dim=0), torch.stack(potentials, dim=0)


def ours():
    return plugins.snntorch.Leaky(0.5, reset_mechanism="zero")


def theirs():
    import snntorch

    return snntorch.Leaky(0.5, reset_mechanism="zero")


@pytest.mark.parametrize("leaky", [ours, theirs])
def test_a_time_loop_of_snntorch(leaky):
    net = Seeded(True)(Explicit(leaky))
    x = sample(True)
    graph, report = to_nir(net, x)
    assert report.mismatch == 0
    assert torch.equal(run_nir(graph, x), net(x)[0])
    assert set(graph.nodes) == {"fc1", "lif1", "fc2", "lif2", "input", "output"}


def test_the_membrane_potential_as_output_is_refused():
    class Potential(Explicit):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[1]

    with pytest.raises(NotExpressible, match="a neuron's state leaves the neuron"):
        to_nir(Potential(ours), sample())


def test_fused_sequences_of_snntorch_are_followed():
    class Fused(Explicit):
        def forward(self, x: Tensor) -> Tensor:
            s, _ = self.lif1.sequence(self.fc1(x))
            return self.lif2.sequence(self.fc2(s))[0]

    net = Seeded(True)(Fused(ours))
    x = sample(True)
    graph, report = to_nir(net, x)
    assert report.mismatch == 0
    assert torch.equal(run_nir(graph, x), net(x))


def test_native_neurons_of_the_hosts_are_exported_too():
    import norse.torch as norse
    import snntorch
    from spikingjelly.activation_based import functional, neuron

    x = sample(True)
    sj = nn.Sequential(nn.Linear(6, 8), neuron.LIFNode(), nn.Linear(8, 4), neuron.IFNode())
    functional.set_step_mode(sj, "m")
    hidden = {"init_hidden": True, "reset_mechanism": "zero"}
    st = nn.Sequential(nn.Linear(6, 8), snntorch.Leaky(0.5, **hidden))
    p = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0))
    no = norse.SequentialState(nn.Linear(6, 8), norse.LIFBoxCell(p))
    for net in (sj, st, no):
        _, report = to_nir(Seeded(True)(net), x)
        assert report.mismatch == 0
        assert set(report.column("verdict")) == {"EXACT"}


def test_native_soft_resets_are_refused_where_the_hosts_write_hard_ones():
    import snntorch

    net = nn.Sequential(nn.Linear(6, 8), snntorch.Leaky(0.5, init_hidden=True))
    with pytest.raises(NotExpressible, match="SUBGRAPH"):
        to_nir(Seeded(False)(net), sample())


def test_a_surrogate_of_the_host_changes_nothing():
    from spikingjelly.activation_based import surrogate

    class Own(surrogate.Sigmoid):
        """A surrogate for which spikeloom has no kernel form."""

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        node = plugins.spikingjelly.LIFNode(surrogate_function=Own(), step_mode="m")
    net = Seeded(True)(nn.Sequential(nn.Linear(6, 8), node))
    assert to_nir(net, sample(True))[1].mismatch == 0


def test_the_neutral_layer_is_one_more_host():
    graph, _ = to_nir(Seeded(False)(norse_net()), sample())
    neutral = from_nir(graph)
    assert sum(isinstance(m, SpikingLayer) for m in neutral.modules()) == 3
