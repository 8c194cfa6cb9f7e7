"""Models with few-spike neurons: what a step of the file carries, and what becomes of biases."""

import pytest
import torch
from torch import Tensor, nn

from spikeloom import SpikingLayer, neurons, plugins
from spikeloom.export import NotExpressible, run_nir, to_nir
from tests.export.readers import with_nirtorch

X = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))


def coder() -> nn.Module:
    return SpikingLayer(neurons.OAT(6, 1.0, 4.0))


def stack(make=coder, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8, bias), make(), nn.Linear(8, 5, bias), make(), nn.Linear(5, 3, bias)
    )


def decoded(net: nn.Module, x: Tensor = X) -> Tensor:
    """The sum of the spikes that the model gives for each value alone."""
    return torch.stack([net(value[None]).sum(0) for value in x]).detach()


@pytest.mark.parametrize("bias", [True, False])
def test_a_step_of_the_file_gives_what_the_models_spikes_sum_to(bias):
    net = stack(bias=bias)
    graph, report = to_nir(net, X, on_inexact="subgraph")
    assert report.mismatch == 0
    torch.testing.assert_close(run_nir(graph, X), decoded(net), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(with_nirtorch(graph, X).detach(), run_nir(graph, X))


def test_a_bias_is_written_as_often_as_the_model_adds_it_for_a_value():
    net = stack()
    graph, _ = to_nir(net, X, on_inexact="subgraph")
    for name, times in (("0", 1), ("2", 6), ("4", 6)):
        bias = net.get_submodule(name).bias.detach()
        torch.testing.assert_close(torch.from_numpy(graph.nodes[name].bias), times * bias)


def test_the_model_is_left_as_it_was():
    net = stack()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    to_nir(net, X, on_inexact="subgraph")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net(X).shape == (6, 5, 3)


def test_a_model_of_decoders_is_written_step_by_step_with_each_bias_once():
    net = stack(lambda: SpikingLayer(neurons.OAT(6, 1.0, 4.0).decoder()))
    graph, report = to_nir(net, X, on_inexact="subgraph")
    assert report.mismatch == 0
    assert torch.equal(run_nir(graph, X), net(X).detach())
    torch.testing.assert_close(torch.from_numpy(graph.nodes["2"].bias), net[2].bias.detach())


class Summed(nn.Module):
    """Decodes its spikes itself."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.net, self.how = stack(), how

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self.net(x), self.how)(0)


def test_a_model_may_sum_its_spikes_itself():
    graph, report = to_nir(Summed("sum"), X, on_inexact="subgraph")
    torch.testing.assert_close(run_nir(graph, X), decoded(stack()), rtol=1e-5, atol=1e-5)
    assert not any("left to the reader" in note for note in report.notes)


def test_a_mean_of_spikes_is_not_what_the_file_gives_and_is_refused():
    with pytest.raises(NotExpressible, match=r"a mean over the K spikes.*use \.sum\(0\)"):
        to_nir(Summed("mean"), X, on_inexact="subgraph")


@pytest.mark.parametrize("host", ["spikingjelly", "snntorch", "norse"])
def test_a_hosts_few_spike_neuron_is_written_too(host):
    make = getattr(plugins, host).make

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.spike = nn.Linear(6, 4), make(neurons.OAT(6, 1.0, 4.0))

        def forward(self, x: Tensor) -> Tensor:
            y = self.spike(self.fc(x))
            return y[0] if isinstance(y, tuple) else y

    net = Net()
    graph, report = to_nir(net, X, on_inexact="subgraph")
    expected = SpikingLayer(neurons.OAT(6, 1.0, 4.0).decoder())(net.fc(X))
    assert report.mismatch == 0
    assert torch.equal(run_nir(graph, X), expected.detach())


def test_a_neuron_with_a_memory_has_no_place_beside_them():
    net = nn.Sequential(coder(), SpikingLayer(neurons.LIF()))
    with pytest.raises(NotExpressible, match="it needs time, beside few-spike neurons") as caught:
        to_nir(net, X, on_inexact="subgraph")
    assert [offence.module for offence in caught.value.offences] == ["1"]


def test_a_model_that_answers_with_neither_spikes_nor_values_is_named():
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = coder()

        def forward(self, x: Tensor) -> Tensor:
            y = self.net(x)
            return y if len(x) > 1 else y[:, 0]

    with pytest.raises(ValueError, match=r"answers one step of 15 values with \[6, 6\]"):
        to_nir(Last(), X, on_inexact="subgraph")
