"""The frameworks' own exporters never write one of our neurons as something else, or drop it."""

import contextlib
import io

import nir
import pytest
import torch
from torch import nn

from spikeloom import Neuron, SpikingLayer, neurons, plugins
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
    "if": lambda: neurons.IF(),
    "trace": lambda: neurons.Trace(0.5),
    "ternary": lambda: neurons.ElasticBiSpike(1.0),
    "quantiser": lambda: neurons.ElasticBiSpike(0.5, decay=0.0),
    "signgd": lambda: neurons.SignGD(),
    "oat": lambda: neurons.OAT(4, 1.0, 8.0),
    "hg": lambda: neurons.HG([], [neurons.FewSpike([0.5], [0.5], [0.5])]),
    "few-spike": lambda: neurons.FewSpike([0.5, 0.25], [0.5, 0.25], [0.5, 0.25]),
}


def single(host: str, neuron: Neuron) -> nn.Module:
    """A module that takes one step at each call, unless its neuron has none."""
    module = getattr(plugins, host)
    if host == "norse":
        return module.make_cell(neuron)
    return module.make(neuron, **({"step_mode": "s"} if host == "spikingjelly" else HIDDEN))


def over_time(host: str, neuron: Neuron) -> nn.Module:
    """A module that takes sequences."""
    module = getattr(plugins, host)
    return module.make(neuron, **({"time_first": True, **HIDDEN} if host == "snntorch" else {}))


HIDDEN = {"init_hidden": True}
FORMS = {"single": single, "over time": over_time}


def net_of(host: str, node: nn.Module, nested: bool = False) -> nn.Module:
    if host == "norse":
        import norse.torch as norse

        container: type[nn.Module] = norse.SequentialState
    else:
        container = nn.Sequential
    if nested:
        return container(container(nn.Linear(6, 4), node), nn.Linear(4, 4))
    return container(nn.Linear(6, 4), node)


def by_spikingjelly(net: nn.Module, x: torch.Tensor | None = None) -> nir.NIRGraph:
    from spikingjelly.activation_based.nir_exchange import export_to_nir

    return export_to_nir(net, torch.rand(2, 6) if x is None else x, save_path=None)


def by_snntorch(net: nn.Module, x: torch.Tensor | None = None) -> nir.NIRGraph:
    from snntorch.export_nir import export_to_nir

    with contextlib.redirect_stdout(io.StringIO()):
        return export_to_nir(net, torch.rand(6) if x is None else x)


def by_norse(net: nn.Module, x: torch.Tensor | None = None) -> nir.NIRGraph:
    from norse.torch.utils.export_nir import to_nir

    return to_nir(net, torch.rand(2, 6) if x is None else x)


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


def refuses(host: str, net: nn.Module, path, x: torch.Tensor | None = None) -> bool:
    """Whether the host's exporter raises, at the latest when its graph is to be written."""
    try:
        nir.write(path, EXPORTERS[host](net, x))
    except Exception:
        return True
    return False


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("host", EXPORTERS)
def test_a_host_exporter_refuses_our_neurons(host, neuron, form, nested, tmp_path):
    net = net_of(host, FORMS[form](host, NEURONS[neuron]()), nested)
    x = torch.rand(*((3, 2) if form == "over time" else (2,)), 6)
    net(x)  # it is not because the network does not run
    assert refuses(host, net, tmp_path / "net.nir", x)


@pytest.mark.parametrize("host", EXPORTERS)
def test_a_host_exporter_refuses_the_neutral_layer(host, tmp_path):
    net = net_of(host, SpikingLayer(neurons.LIF()))
    assert refuses(host, net, tmp_path / "net.nir", torch.rand(3, 2, 6))


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
