"""What every neuron of a framework can do here, whichever it is."""

import copy
import pickle

import pytest
import torch
from torch import nn

from spikeloom import SpikingLayer, neurons, run
from spikeloom.verify import count_energy

FIRING = {
    "CubaLIF": neurons.CubaLIF(500.0, 250.0, v_th=0.5),
    "IAF": neurons.IAF(),
    "AdEx": neurons.AdEx(1.0, 0.25, tau_mem_inv=250.0),
    "Synaptic": neurons.Synaptic(0.5, 0.75),
    "Alpha": neurons.Alpha(0.75, 0.5),
    "Lapicque": neurons.Lapicque(2.0, 2.0),
    "QIF": neurons.QIF(),
    "EIF": neurons.EIF(),
    "Izhikevich": neurons.Izhikevich(a=0.25, b=0.25),
    "KLIF": neurons.KLIF(1.5),
    "ALIF": neurons.ALIF(),
}
GRADED = {
    "LI": neurons.LI(250.0),
    "CubaLI": neurons.CubaLI(500.0, 250.0),
    "LIAF": neurons.LIAF(),
}
# Their exponential functions are the kernel's own.
ROUNDED = {"AdEx", "EIF"}


def x():
    return torch.rand(20, 3, 4, generator=torch.Generator().manual_seed(0)) * 1.5


@pytest.mark.parametrize("name", FIRING)
def test_its_spikes_are_counted(name):
    net = nn.Sequential(SpikingLayer(FIRING[name]), nn.Linear(4, 2)).eval()
    spikes, _ = run(FIRING[name], x())
    assert 0 < spikes.mean() < 1
    report = count_energy(net, x())
    assert report.spikes == float(spikes.sum()) / 3
    assert report.macs == 0 and report.accumulates == 2 * report.spikes


@pytest.mark.parametrize("name", GRADED)
def test_behind_a_graded_output_a_layer_multiplies(name):
    net = nn.Sequential(SpikingLayer(GRADED[name]), nn.Linear(4, 2)).eval()
    report = count_energy(net, x())
    assert report.macs == 20 * 8 and report.accumulates == 0


@pytest.mark.parametrize("name", {**FIRING, **GRADED})
def test_the_kernel_computes_what_the_step_does(name):
    neuron = {**FIRING, **GRADED}[name]
    assert neuron.program is not None, neuron.reason
    margin = 1e-5 if name in ROUNDED else 0.0
    found, states = run(neuron, x())
    expected, their_states = run(neuron, x(), implementation="eager")
    for one, other in zip((found, *states), (expected, *their_states), strict=True):
        torch.testing.assert_close(one, other, rtol=margin, atol=margin)


@pytest.mark.parametrize("name", {**FIRING, **GRADED})
def test_copies_and_pickles_and_what_replace_makes_are_the_same_neuron(name):
    neuron = {**FIRING, **GRADED}[name]
    expected, _ = run(neuron, x())
    for again in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron)), neuron.replace()):
        assert torch.equal(run(again, x())[0], expected)
        assert repr(again) == repr(neuron)
