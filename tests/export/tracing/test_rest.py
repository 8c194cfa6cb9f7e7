"""Where potentials begin: states of a NIR file begin at 0, so what begins elsewhere is shifted.

The models are exported on zeros, which show nothing of it, and compared on data of another kind.
"""

import pytest
import torch
from torch import Tensor, nn

from spikeloom import SpikingLayer, neurons, plugins
from spikeloom.export import NotExpressible, run_nir, to_nir
from spikeloom.hosted import output_of, to_rest

T, B, N = 12, 3, 4
LEAKS = {"number": 0.5, "scalar": torch.tensor(0.5), "each": torch.tensor([-0.5, 0.0, 0.25, 0.5])}


def data() -> Tensor:
    # Faint, so that the beginning decides; on no grid, where a shifted threshold may be a tie.
    return torch.rand(T, B, N, generator=torch.Generator().manual_seed(1)).mul(2)


def written(model: nn.Module) -> Tensor:
    """What the file computes that was made on zeros."""
    graph, _ = to_nir(model, torch.zeros(T, B, N), on_inexact="subgraph", target="nir")
    return run_nir(graph, data())


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("reset", ["value", "subtract"])
def test_a_box_begins_at_its_leak_potential(leak, reset):
    box = neurons.LIFBox(500.0, LEAKS[leak], v_reset=0.25, reset_method=reset)
    model = SpikingLayer(box)
    assert torch.equal(written(model), model(data()))


@pytest.mark.parametrize("leak", ["scalar", "each"])
@pytest.mark.parametrize("native", [False, True])
def test_norse_begins_at_the_leak_potential(leak, native):
    host = pytest.importorskip("norse.torch")
    p = host.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0), v_leak=LEAKS[leak])
    model = host.LIFBoxCell(p) if native else plugins.norse.LIFBox(p)
    spikes = host.Lift(model)(data())[0] if native else model(data())[0]
    assert torch.equal(written(model), spikes)


@pytest.mark.parametrize("settings", [{}, {"v_reset": None}, {"v_reset": -0.5}, {"tau": 4.0}])
@pytest.mark.parametrize("native", [False, True])
def test_spikingjelly_begins_where_it_was_told_to(native, settings):
    host = pytest.importorskip("spikingjelly.activation_based.neuron")
    node = (host if native else plugins.spikingjelly).LIFNode(step_mode="m", **settings)
    node.set_reset_value("v", 0.75)
    to_rest(node)
    assert torch.equal(written(node), output_of(node(data())))


def test_an_undivided_input_is_shifted_in_its_own_unit():
    pytest.importorskip("spikingjelly")
    node = plugins.spikingjelly.LIFNode(tau=4.0, decay_input=False, step_mode="m")
    node.set_reset_value("v", 0.75)
    to_rest(node)
    assert torch.equal(written(node), node(data()))


def test_what_is_no_membrane_must_begin_where_its_neuron_does():
    pytest.importorskip("spikingjelly")
    node = plugins.spikingjelly.make(neurons.Trace(0.5))
    node.set_reset_value("v", 0.5)
    with pytest.raises(NotExpressible, match=r"its potential begins at 0\.5, its neuron's at 0"):
        written(node)
