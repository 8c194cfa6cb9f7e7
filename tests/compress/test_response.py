import nir
import norse.torch as norse
import numpy as np
import pytest
import snntorch
import torch
from spikingjelly.activation_based import neuron as spikingjelly
from torch import Tensor, nn

import spikeloom
from spikeloom import compress, neurons
from spikeloom.modules import is_neuron, takes_steps
from tests.compress.cases import golden

FILE = golden("osbc_filter")
HIGH = 1e30


def spikingjelly_trace(node: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([(node(step), node.v)[1] for step in x])


def snntorch_trace(cell: nn.Module, x: Tensor) -> Tensor:
    states: tuple[Tensor, ...] = ()
    trace = []
    for step in x:
        _, *states = cell(step, *states)
        trace.append(states[-1])
    return torch.stack(trace)


def norse_trace(cell: nn.Module, x: Tensor) -> Tensor:
    state, trace = None, []
    for step in x:
        _, state = cell(step, state)
        trace.append(state.v)
    return torch.stack(trace)


NEURONS = {
    "sj_lif_tau2_decay": (spikingjelly_trace, lambda: spikingjelly.LIFNode(2.0, v_threshold=HIGH)),
    "sj_lif_tau2_nodecay": (
        spikingjelly_trace,
        lambda: spikingjelly.LIFNode(2.0, decay_input=False, v_threshold=HIGH),
    ),
    "sj_if": (spikingjelly_trace, lambda: spikingjelly.IFNode(v_threshold=HIGH)),
    "sj_plif_init3": (
        spikingjelly_trace,
        lambda: spikingjelly.ParametricLIFNode(3.0, v_threshold=HIGH),
    ),
    "snn_leaky_b0p9": (snntorch_trace, lambda: snntorch.Leaky(0.9, threshold=HIGH)),
    "snn_syn_a0p8_b0p9": (snntorch_trace, lambda: snntorch.Synaptic(0.8, 0.9, threshold=HIGH)),
    "norse_lif_default": (
        norse_trace,
        lambda: norse.LIFCell(norse.LIFParameters(v_th=torch.tensor(HIGH))),
    ),
    "norse_lifbox_default": (
        norse_trace,
        lambda: norse.LIFBoxCell(norse.LIFBoxParameters(v_th=torch.tensor(HIGH))),
    ),
}


@pytest.mark.parametrize("name", NEURONS)
def test_the_filter_equals_the_real_neuron_and_the_golden_trace(name):
    membrane, make = NEURONS[name]
    x = FILE["x"]
    response = compress.linear_response(make())
    filtered, _ = spikeloom.run(response.trace(), x)
    with torch.no_grad():
        real = membrane(make(), x)
    torch.testing.assert_close(response.gain * filtered, real, rtol=0, atol=1e-6)
    torch.testing.assert_close(response.gain * filtered, FILE[name], rtol=0, atol=1e-6)


OURS = [
    neurons.LIF(tau=3.0, v_threshold=HIGH),
    neurons.LIF(tau=3.0, v_threshold=HIGH, decay_input=False),
    neurons.IF(v_threshold=HIGH),
    neurons.ParametricLIF(0.3, v_threshold=HIGH),
    neurons.ParametricLIF(0.3, v_threshold=HIGH, decay_input=False),
    neurons.Leaky(0.7, threshold=HIGH),
    neurons.Leaky(torch.tensor([0.1, 0.5, 0.9, 1.7]), threshold=HIGH),
    neurons.LIFBox(v_th=HIGH, dt=0.002),
    neurons.Trace(0.9, 0.3),
]


@pytest.mark.parametrize("neuron", OURS, ids=repr)
def test_the_filter_equals_our_own_neuron(neuron):
    x = FILE["x"].double()
    if any(isinstance(value, Tensor) for value in neuron.params.values()):
        x = x.float()
    response = compress.linear_response(neuron)
    filtered, _ = spikeloom.run(response.trace(), x.double())
    *_, real = spikeloom.run(neuron, x, record=neuron.state_names[0])
    torch.testing.assert_close(response.gain * filtered, real.double(), rtol=0, atol=1e-5)


def test_a_learned_time_constant_is_read_where_the_module_keeps_it():
    layer = spikeloom.SpikingLayer(neurons.LIF(tau=nn.Parameter(torch.tensor(2.0))))
    with torch.no_grad():
        layer.tau.fill_(5.0)
    assert compress.linear_response(layer).decay == pytest.approx(0.8)


def test_a_learned_time_constant_of_spikingjelly_is_not_its_initial_value():
    node = spikingjelly.ParametricLIFNode(2.0)
    with torch.no_grad():
        node.w.fill_(-1.0)
    expected = 1 - float(torch.tensor(-1.0).sigmoid())
    assert compress.linear_response(node).decay == pytest.approx(expected)


def test_decays_of_snntorch_are_clamped_as_snntorch_does():
    response = compress.linear_response(snntorch.Leaky(torch.tensor([-0.5, 0.5, 1.5])))
    assert response.decay.tolist() == [0.0, 0.5, 1.0]


def test_readouts_of_norse_are_read():
    assert compress.linear_response(norse.LICell()).synaptic_decay == pytest.approx(0.8)
    assert compress.linear_response(norse.LIF()).decay == pytest.approx(0.9)
    assert compress.linear_response(norse.IAFCell()).decay == 1.0


def test_units_of_nir_need_the_step():
    one = np.ones(1)
    lif = nir.LIF(tau=0.01 * one, r=2 * one, v_leak=0 * one, v_threshold=one)
    response = compress.linear_response(lif, dt=0.001)
    assert response.decay == pytest.approx(0.9) and response.gain == pytest.approx(0.2)
    with pytest.raises(ValueError, match="dt"):
        compress.linear_response(lif)
    cuba = nir.CubaLIF(
        tau_syn=0.005 * one, tau_mem=0.01 * one, r=one, v_leak=0 * one, v_threshold=one
    )
    assert compress.linear_response(cuba, dt=0.001).synaptic_decay == pytest.approx(0.8)
    assert compress.linear_response(nir.IF(r=one, v_threshold=one), dt=0.001).decay == 1.0


class Renamed(spikingjelly.LIFNode):
    def __init__(self):
        super().__init__(4.0)


class Changed(spikingjelly.LIFNode):
    def single_step_functional_forward(self, inputs, states):
        return inputs, states


def test_a_subclass_is_known_if_it_only_has_a_constructor():
    assert compress.linear_response(Renamed()).decay == 0.75


@pytest.mark.parametrize(
    "unit",
    [
        Changed(),
        spikingjelly.QIFNode(),
        snntorch.RLeaky(0.9, linear_features=3),
        norse.LIFRecurrentCell(2, 3),
        spikeloom.Neuron(lambda x, state, p: (x, state)),
        nn.ReLU(),
    ],
    ids=lambda unit: type(unit).__name__,
)
def test_the_decay_of_an_unknown_neuron_is_never_guessed(unit):
    with pytest.raises(compress.UnknownNeuron, match="traces="):
        compress.linear_response(unit)


def test_neurons_are_told_from_other_modules():
    known = [make() for _, make in NEURONS.values()]
    known += [norse.LIFRecurrentCell(2, 3), snntorch.SLSTM(2, 3), norse.LIF()]
    assert all(is_neuron(module) for module in [*known, spikeloom.SpikingLayer(neurons.LIF())])
    others = [nn.ReLU(), nn.Linear(1, 1), norse.SequentialState(), norse.Lift(nn.Linear(1, 1))]
    assert not any(is_neuron(module) for module in others)


def test_sequences_and_single_steps_are_told_apart():
    assert takes_steps(spikingjelly.LIFNode(step_mode="m")) is False
    assert takes_steps(norse.LIF()) is False and takes_steps(norse.LIFCell())
    assert takes_steps(spikingjelly.LIFNode()) and takes_steps(snntorch.Leaky(0.9))
    assert takes_steps(spikeloom.SpikingLayer(neurons.LIF())) is False
    assert takes_steps(nn.ReLU()) is None
