"""The frameworks' own exporters never write one of our neurons as something else, or drop it."""

import contextlib
import io

import nir
import pytest
import torch
from torch import nn

from spikeloom import Neuron, neurons, plugins
from spikeloom.kernel.vocabulary import fire


def integrate(x, state, p):
    """A step that is all additions, which a tracer could mistake for a sum."""
    (v,) = state
    s = fire(v + x - 1.0)
    return s, (v + x + s,)


NEURONS = {
    "hard": lambda: neurons.LIF(),
    "soft": lambda: neurons.LIF(v_reset=None),
    "leaky": lambda: neurons.Leaky(torch.full((4,), 0.5), torch.ones(4)),
    "box": lambda: neurons.LIFBox(),
    "own": lambda: Neuron(integrate),
}


def net_of(host: str, neuron: Neuron) -> nn.Module:
    module = getattr(plugins, host)
    node = module.make_cell(neuron) if host == "norse" else module.make(neuron)
    if host == "spikingjelly":
        node.step_mode = "s"
    if host == "snntorch":
        node.init_hidden = True
    layers = nn.Linear(6, 4), node
    if host == "norse":
        import norse.torch as norse

        return norse.SequentialState(*layers)
    return nn.Sequential(*layers)


def by_spikingjelly(net: nn.Module) -> nir.NIRGraph:
    from spikingjelly.activation_based.nir_exchange import export_to_nir

    return export_to_nir(net, torch.rand(2, 6), save_path=None)


def by_snntorch(net: nn.Module) -> nir.NIRGraph:
    from snntorch.export_nir import export_to_nir

    with contextlib.redirect_stdout(io.StringIO()):
        return export_to_nir(net, torch.rand(6))


def by_norse(net: nn.Module) -> nir.NIRGraph:
    from norse.torch.utils.export_nir import to_nir

    return to_nir(net, torch.rand(2, 6))


EXPORTERS = {"spikingjelly": by_spikingjelly, "snntorch": by_snntorch, "norse": by_norse}


def native(host: str) -> nn.Module:
    if host == "spikingjelly":
        from spikingjelly.activation_based import neuron

        return nn.Sequential(nn.Linear(6, 4), neuron.LIFNode())
    if host == "snntorch":
        import snntorch

        node = snntorch.Leaky(torch.full((4,), 0.5), threshold=torch.ones(4), init_hidden=True)
        return nn.Sequential(nn.Linear(6, 4), node)
    import norse.torch as norse

    return norse.SequentialState(nn.Linear(6, 4), norse.LIFBoxCell())


@pytest.mark.parametrize("host", EXPORTERS)
def test_a_host_exporter_writes_its_own_neuron(host):
    graph = EXPORTERS[host](native(host))
    assert any(isinstance(node, nir.LIF) for node in graph.nodes.values())


def refuses(host: str, net: nn.Module, path) -> bool:
    """Whether the host's exporter raises, at the latest when its graph is to be written."""
    try:
        nir.write(path, EXPORTERS[host](net))
    except Exception:
        return True
    return False


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("host", EXPORTERS)
def test_a_host_exporter_refuses_our_neurons(host, neuron, tmp_path):
    assert refuses(host, net_of(host, NEURONS[neuron]()), tmp_path / "net.nir")


@pytest.mark.parametrize("named", ["LIFNode", "IFNode", "ParametricLIFNode"])
def test_spikingjelly_refuses_our_nodes_of_its_own_names(named, tmp_path):
    net = nn.Sequential(nn.Linear(6, 4), getattr(plugins.spikingjelly, named)())
    assert refuses("spikingjelly", net, tmp_path / "net.nir")


def test_snntorch_refuses_our_leaky(tmp_path):
    node = plugins.snntorch.Leaky(torch.full((4,), 0.5), torch.ones(4), init_hidden=True)
    assert refuses("snntorch", nn.Sequential(nn.Linear(6, 4), node), tmp_path / "net.nir")


def test_norse_refuses_our_lif_box(tmp_path):
    import norse.torch as norse

    net = norse.SequentialState(nn.Linear(6, 4), plugins.norse.LIFBoxCell())
    assert refuses("norse", net, tmp_path / "net.nir")
