"""A graph that states no time step and moves nothing at the default one."""

import warnings

import nir
import numpy as np
import pytest
import torch

from spikeloom.export import from_nir, run_nir

ONE = np.ones(2, np.float32)
WEIGHTS = nir.Affine(np.eye(2, dtype=np.float32), 0 * ONE)
CUBA = {"v_leak": 0 * ONE, "w_in": ONE, "r": ONE}
# As they are meant in steps: an input of 1 adds 1, or 1 / tau.
IN_STEPS = {
    "IF": nir.IF(r=ONE, v_threshold=ONE),
    "I": nir.I(r=ONE),
    "LIF": nir.LIF(tau=2 * ONE, r=ONE, v_leak=0 * ONE, v_threshold=ONE),
    "LI": nir.LI(tau=2 * ONE, r=ONE, v_leak=0 * ONE),
    "CubaLIF": nir.CubaLIF(tau_syn=2 * ONE, tau_mem=2 * ONE, v_threshold=ONE, **CUBA),
    "CubaLI": nir.CubaLI(tau_syn=2 * ONE, tau_mem=2 * ONE, **CUBA),
}
# The same in seconds.
MS = np.float32(1e-3)
IN_SECONDS = {
    "IF": nir.IF(r=1e4 * ONE, v_threshold=ONE),
    "I": nir.I(r=1e4 * ONE),
    "LIF": nir.LIF(tau=20 * MS * ONE, r=ONE, v_leak=0 * ONE, v_threshold=ONE),
    "LI": nir.LI(tau=20 * MS * ONE, r=ONE, v_leak=0 * ONE),
    "CubaLIF": nir.CubaLIF(tau_syn=5 * MS * ONE, tau_mem=20 * MS * ONE, v_threshold=ONE, **CUBA),
    "CubaLI": nir.CubaLI(tau_syn=5 * MS * ONE, tau_mem=20 * MS * ONE, **CUBA),
}


def graph(*neurons: nir.NIRNode, **metadata: float) -> nir.NIRGraph:
    made = nir.NIRGraph.from_list(*(node for neuron in neurons for node in (WEIGHTS, neuron)))
    made.metadata = metadata
    return made


@pytest.fixture
def loud():
    """What would be a warning is an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("kind", IN_STEPS)
def test_a_graph_thought_in_steps_is_noticed(kind):
    with pytest.warns(UserWarning, match=r"states no time step.*1e-04 s.*dt=1") as caught:
        network = from_nir(graph(IN_STEPS[kind]))
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="states no time step"):
        run_nir(graph(IN_STEPS[kind]), torch.ones(3, 1, 2))
    assert network(torch.ones(20, 1, 2)).abs().max() < 0.1  # nothing comes out, as was said


@pytest.mark.parametrize("kind", IN_STEPS)
def test_a_time_step_that_is_given_is_believed(kind, loud):
    assert run_nir(graph(IN_STEPS[kind]), torch.full((20, 1, 2), 3.0), dt=1.0).any()
    from_nir(graph(IN_STEPS[kind], dt=1e-4))
    from_nir(graph(IN_STEPS[kind]), dt=1e-4)


@pytest.mark.parametrize("kind", IN_SECONDS)
def test_a_graph_in_seconds_is_no_cause_to_warn(kind, loud):
    from_nir(graph(IN_SECONDS[kind]))


def test_one_neuron_that_moves_is_enough(loud):
    from_nir(graph(IN_STEPS["IF"], IN_SECONDS["LIF"]))


def test_a_graph_without_neurons_is_no_cause_to_warn(loud):
    from_nir(nir.NIRGraph.from_list(WEIGHTS, nir.Threshold(ONE)))
