"""What the rest of the package makes of a host's modules."""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor, nn

import spikeloom
from spikeloom import compress, neurons, verify
from spikeloom.hosted import made, output_of, spikes_from_rest, to_rest
from spikeloom.modules import registered

from .host import Host
from .reference import adaptive, grid, lif, same

__all__ = ["CHECKS"]


class Network(nn.Module):
    """Weights, a neuron, and weights again; states stay with the neuron."""

    def __init__(self, neuron: nn.Module) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.neuron, self.second = nn.Linear(3, 6), neuron, nn.Linear(6, 2)
        for weight in (*self.first.parameters(), *self.second.parameters()):
            weight.data = torch.randint(-4, 9, weight.shape, generator=generator) / 4
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """``[T, batch, 3]`` to ``[T, batch, 2]``."""
        y: Tensor = self.second(output_of(self.neuron(self.first(x))))
        return y


def its_class_states_its_conventions(host: Host) -> None:
    """It is known how the host's modules take time and state."""
    assert registered(type(host.make(lif()))) is not None


def made_for_a_recipe_it_takes_sequences_from_rest(host: Host) -> None:
    """Recipes, models and imported graphs take ``make=`` of the host."""
    for neuron in (lif(), lif(hard=False), adaptive(), neurons.OAT(4, normal=1.0, outlier=8.0)):
        x, module = grid(7, 2, 3), made(host.make, neuron)
        expected, _ = spikeloom.run(neuron, x)
        for _ in range(2):
            same(spikes_from_rest(module, x), expected)


def a_network_is_put_back_to_rest(host: Host) -> None:
    """``to_rest`` reaches it inside a network, whatever it was called with."""
    x, module = grid(5, 2, 3), host.make(adaptive())
    first, _ = host.forward(module, x, None)
    to_rest(nn.ModuleList([module]))
    second, _ = host.forward(module, x, None)
    same(second, first)


def calibration_sees_its_steps_and_its_decay(host: Host) -> None:
    """The compressor finds steps, samples and decay, and the Hessians that belong to them."""
    x = grid(7, 5, 3)
    found, expected = (
        compress.calibrate(Network(made(make, lif(tau=4.0))), x)
        for make in (host.make, spikeloom.SpikingLayer)
    )
    assert str(found) == str(expected), f"{found}\ninstead of\n{expected}"
    for name in expected:
        for own, other in zip(found[name].spiking, expected[name].spiking, strict=True):
            torch.testing.assert_close(own.hessian, other.hessian)


def its_spikes_are_counted(host: Host) -> None:
    """The energy report has a row for it, with its spikes."""
    x = grid(7, 5, 3)
    net = Network(made(host.make, lif()))
    spikes, _ = spikeloom.run(lif(), net.first(x).detach())
    report = verify.count_energy(net, x)
    (row,) = (row for row in report.rows if row[0] == "neuron")
    assert row[1] == type(net.neuron).__name__ and row[2] == float(spikes.sum()) / 5
    assert report.steps == 7


def it_is_written_as_nir_and_read_back(host: Host) -> None:
    """The exporter takes it for its neuron, and an imported graph is made of it again."""
    export = import_module("spikeloom.export")
    x = grid(7, 5, 3)
    net = Network(made(host.make, lif()))
    graph, report = export.to_nir(net, x)
    assert report.mismatch == 0 and {"LIF"} < {type(n).__name__ for n in graph.nodes.values()}
    to_rest(net)
    expected, again = net(x), export.from_nir(graph, make=host.make)
    for _ in range(2):
        torch.testing.assert_close(output_of(again(x)), expected)


CHECKS = (
    its_class_states_its_conventions,
    made_for_a_recipe_it_takes_sequences_from_rest,
    a_network_is_put_back_to_rest,
    calibration_sees_its_steps_and_its_decay,
    its_spikes_are_counted,
    it_is_written_as_nir_and_read_back,
)
