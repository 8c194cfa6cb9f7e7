"""to_host: Norse's own cells in the place of ours, and its exporter on the result."""

import norse.torch as snn
import pytest
import torch
from norse.torch import LIFBoxParameters
from norse.torch.functional.reset import reset_subtract, reset_value
from torch import nn

from spikeloom import neurons
from spikeloom.modules import neuron_of
from spikeloom.neurons.surrogate import Erf, SuperSpike
from spikeloom.plugins import NoCounterpart
from spikeloom.plugins import norse as loom
from spikeloom.plugins.contract import same, weight
from spikeloom.plugins.norse.threshold import host_form, surrogate_of
from tests.plugins.exchange import sample, weighted

METHODS = ("super", "triangle", "tanh", "circ", "heavi_erfc", "heaviside")


def halved(z, v, reset, th):
    return v - z * 0.5 * th


def p_of(**changed):
    values = {"tau_mem_inv": 233.0, "v_leak": -0.3, "v_th": 0.7, "v_reset": -0.2}
    tensors = {name: torch.tensor(value) for name, value in values.items()}
    return LIFBoxParameters(**{**tensors, **changed})


def over_time(cell, x):
    x = x.clone().requires_grad_()
    state, spikes = None, []
    for now in x:
        y, state = cell(now, state)
        spikes.append(y)
    y = torch.stack(spikes)
    (y * weight(y) + state.v * weight(y[0])).sum().backward()
    return y.detach(), state.v.detach(), x.grad


@pytest.mark.parametrize("reset", [reset_value, reset_subtract, halved])
@pytest.mark.parametrize("method", METHODS)
def test_spikes_states_and_gradients_are_those_of_the_cell_replaced(method, reset):
    cell = loom.LIFBoxCell(p_of(method=method, alpha=0.3, reset_method=reset), dt=0.002)
    native = loom.to_host(cell)
    assert type(native) is snn.LIFBoxCell and native.dt == 0.002
    assert (native.p.method, native.p.alpha, native.p.reset_method) == (method, 0.3, reset)
    x = torch.randn(20, 3, 5) * 4
    (y, v, grad), (z, w, expected) = over_time(native, x), over_time(cell, x)
    assert z.any()
    same((y, v), (z, w))
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_threshold_method_travels_there_and_back(method):
    surrogate = surrogate_of(method, 0.3)
    assert surrogate_of(*host_form(surrogate)) == surrogate


def test_learned_and_per_neuron_values_are_carried_over():
    learned = nn.Parameter(torch.tensor([300.0, 400.0, 500.0]))
    cell = loom.LIFBoxCell(p_of(tau_mem_inv=learned, v_th=torch.tensor([0.5, 1.0, 2.0])))
    with torch.no_grad():
        learned.mul_(1.5)
    p = loom.to_host(cell).p
    assert isinstance(p.tau_mem_inv, nn.Parameter) and p.tau_mem_inv is not learned
    assert torch.equal(p.tau_mem_inv, learned)
    assert torch.equal(p.v_th, torch.tensor([0.5, 1.0, 2.0]))


@pytest.mark.parametrize("reset", ["value", "subtract"])
def test_a_plain_description_is_replaced_too(reset):
    neuron = neurons.LIFBox(300.0, v_th=0.5, reset_method=reset, surrogate=SuperSpike(), dt=0.002)
    native = loom.to_host(loom.make_cell(neuron))
    assert (native.dt, native.p.method) == (0.002, "super")
    assert native.p.reset_method.__name__ == f"reset_{reset}"


def test_the_exporter_describes_the_native_cell_as_the_one_replaced():
    cell = loom.LIFBoxCell(p_of(reset_method=reset_subtract), dt=0.002)
    found, expected = neuron_of(loom.to_host(cell)).settings(), cell.neuron.settings()
    for settings in (found, expected):
        settings.pop("surrogate")
    assert {k: v if isinstance(v, str) else float(v) for k, v in found.items()} == expected


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (loom.LIFBox(), "no LIFBox over time"),
        (loom.make(neurons.LIFBox()), "no LIFBox over time"),
        (loom.make_cell(neurons.LIFBox(surrogate=Erf())), "no threshold method Erf"),
        (loom.make_cell(neurons.LIF()), "has no LIF"),
        (loom.make_cell(neurons.Leaky(0.5)), "has no Leaky"),
        (loom.ElasticBiSpikeCell(1.0), "has no ElasticBiSpike"),
        (loom.OATCell(), "has no OAT"),
        (loom.SignGDCell(), "has no SignGD"),
    ],
)
def test_what_norse_has_not_is_refused(module, reason):
    with pytest.raises(NoCounterpart) as caught:
        loom.to_host(snn.SequentialState(nn.Linear(2, 4), module))
    (found,) = caught.value.neurons
    assert found.module == "1" and reason in found.reason


def net_of(lif, dt=0.001, rates=(500.0, 250.0)):
    p = [LIFBoxParameters(tau_mem_inv=torch.tensor(rate)) for rate in rates]
    return snn.SequentialState(nn.Linear(6, 20), lif(p[0], dt), nn.Linear(20, 4), lif(p[1], dt))


@pytest.mark.parametrize("grid", [False, True], ids=["float", "grid"])
def test_sequences_become_cells_if_asked_for(grid):
    net, x = weighted(net_of(loom.LIFBox), grid), sample(4, 6, grid=grid)
    native = loom.to_host(net, x, cells=True)
    with torch.no_grad():
        assert torch.equal(snn.Lift(native)(x)[0], net(x)[0])
    assert loom.to_host(net_of(loom.LIFBoxCell), x[0], cells=True)


@pytest.mark.readers
@pytest.mark.parametrize("grid", [False, True], ids=["float", "grid"])
def test_norse_exports_and_reads_the_same_spikes(grid):
    """With a step of 1 s, in which dt / tau_mem_inv, that Norse 1.1 writes, is a time constant."""
    net, x = weighted(net_of(loom.LIFBoxCell, 1.0, (0.5, 0.25)), grid), sample(4, 6, grid=grid)
    native = loom.to_host(net, x[0])
    graph = snn.to_nir(native, x[0], dt=1.0)
    read = snn.from_nir(graph, dt=1.0)
    state, spikes = None, []
    with torch.no_grad():
        expected = snn.Lift(net)(x)[0]
        for now in x:
            y, state = read(now, state)
            spikes.append(y)
    assert 0.02 < expected.mean() < 0.98
    assert torch.equal(torch.stack(spikes), expected)
