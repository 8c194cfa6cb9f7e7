"""Norse's own classes beside ours, over random settings."""

import norse.torch as host
import pytest
import torch
from norse.torch.module.snn import SNN
from torch import nn

from spikeloom import neurons
from spikeloom.modules import neuron_of, response_of
from spikeloom.plugins import norse as loom
from tests.plugins.drop_ins import WIDTH, DropIn, cases_over, check

METHODS = {"super": 100.0, "triangle": 0.3, "tanh": 2.0, "circ": 0.7, "heavi_erfc": 1.5}


def per_neuron(draw, value, spread, dtype):
    """A value, one for each neuron in a third of the draws."""
    if draw.random() < 0.67:
        return torch.tensor(value, dtype=dtype)
    return torch.tensor([value * (1 + spread * draw.random()) for _ in range(WIDTH)], dtype=dtype)


def drawn(tuple_of, fires=True, synapse=True, leaks=True):
    def draw_settings(draw, dtype):
        dt = draw.choice([0.001, 0.002, 0.0005])
        rates = ["tau_mem_inv"] * leaks + ["tau_syn_inv"] * synapse
        values = {
            name: per_neuron(draw, draw.choice([0.1, 0.3, 0.5, 0.8]) / dt, 0.2, dtype)
            for name in rates
        }
        if leaks:
            # Numbers of float32, to which Norse rounds where some of its modules begin.
            values["v_leak"] = torch.tensor(draw.choice([0.0, 0.0, 0.25, -0.375]), dtype=dtype)
        if fires:
            method = draw.choice([*METHODS])
            values["v_th"] = per_neuron(draw, draw.choice([0.5, 1.0, 0.7]), 0.5, dtype)
            reset = torch.tensor(draw.choice([0.0, 0.0, -0.5, 0.1]), dtype=dtype)
            values |= {"v_reset": reset, "method": method, "alpha": METHODS[method]}
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                values[name] = value.requires_grad_()
        return (tuple_of(**values),), {"dt": dt}

    return draw_settings


def adaptive(draw, dtype):
    (p,), named = drawn(host.LIFParameters)(draw, dtype)
    own = {
        "adaptation_current": draw.choice([4.0, 1.0]),
        "adaptation_spike": draw.choice([0.02, 0.25]),
        "delta_T": draw.choice([0.5, 1.0]),
        "tau_ada_inv": draw.choice([2.0, 50.0]),
    }
    tensors = {
        name: torch.tensor(value, dtype=dtype).requires_grad_() for name, value in own.items()
    }
    return (host.LIFAdExParameters(**tensors, **p._asdict()),), named


def by_steps(module, x):
    state, outputs = None, []
    for now in x:
        y, state = module(now, state)
        outputs.append(y)
    return torch.stack(outputs), state


def run(module, x):
    over_time = isinstance(module, (loom.SpikeloomSequence, SNN))
    return module(x) if over_time else by_steps(module, x)


LIF = drawn(host.LIFParameters)
LI = drawn(host.LIParameters, fires=False)
BOX = drawn(host.LIBoxParameters, fires=False, synapse=False)
IAF = drawn(host.IAFParameters, synapse=False, leaks=False)
ADEX = ("adaptation_current", "adaptation_spike", "delta_T", "tau_ada_inv")
RATES = ("tau_syn_inv", "tau_mem_inv", "v_leak")
CASES = {
    "LIF": DropIn(loom.LIF, host.LIF, LIF, (*RATES, "v_th", "v_reset")),
    "LIFCell": DropIn(loom.LIFCell, host.LIFCell, LIF, (*RATES, "v_th", "v_reset")),
    "LI": DropIn(loom.LI, host.LI, LI, RATES),
    "LICell": DropIn(loom.LICell, host.LICell, LI, RATES),
    "LIBoxCell": DropIn(loom.LIBoxCell, host.LIBoxCell, BOX, ("tau_mem_inv", "v_leak")),
    "LIBox": DropIn(loom.LIBox, host.LIBoxCell, BOX, ("tau_mem_inv", "v_leak")),
    "LIFAdEx": DropIn(loom.LIFAdEx, host.LIFAdEx, adaptive, ADEX, margin=2e-4, limit=4.0),
    "LIFAdExCell": DropIn(
        loom.LIFAdExCell, host.LIFAdExCell, adaptive, ADEX, margin=2e-4, limit=4.0
    ),
    "IAF": DropIn(loom.IAF, host.IAF, IAF, ("v_th", "v_reset")),
    "IAFCell": DropIn(loom.IAFCell, host.IAFCell, IAF, ("v_th", "v_reset")),
}


@cases_over(CASES)
def test_a_drop_in_equals_norses_own_over_random_settings(case, seeds):
    check(case, run, seeds)


@pytest.mark.parametrize("name", CASES)
def test_defaults_are_norses_own(name):
    x = 3 * torch.randn(20, 3, 4, generator=torch.Generator().manual_seed(0))
    (y, states), (expected, their_states) = (
        run(make(), x) for make in (CASES[name].ours, CASES[name].theirs)
    )
    assert type(states) is type(their_states)
    margin = CASES[name].margin
    for found, wanted in zip((y, *states), (expected, *their_states), strict=True):
        torch.testing.assert_close(found, wanted, rtol=margin, atol=margin)


@pytest.mark.parametrize("name", CASES)
def test_a_drop_in_has_a_fused_kernel(name):
    module = CASES[name].ours()
    assert module.neuron.program is not None, module.neuron.reason


@pytest.mark.parametrize("name", [name for name in CASES if name != "LIBox"])
def test_a_network_goes_to_norses_own_and_keeps_its_class(name):
    native = loom.to_host(nn.Sequential(CASES[name].ours(dt=0.002)))
    assert type(native[0]) is CASES[name].theirs
    assert native[0].dt == 0.002


@pytest.mark.parametrize("name", ["LIF", "LI", "IAF", "LIBox"])
def test_a_sequence_goes_to_a_cell_on_request(name):
    native = loom.to_host(nn.Sequential(CASES[name].ours()), cells=True)
    assert type(native[0]) is getattr(host, f"{name}Cell")


def test_norse_has_no_leaky_integrator_over_time_without_a_synapse():
    with pytest.raises(ValueError, match="no LI over time; make it with LIBoxCell"):
        loom.to_host(loom.LIBox())


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (host.LIFCell(), neurons.CubaLIF),
        (host.LIF(), neurons.CubaLIF),
        (host.LICell(), neurons.CubaLI),
        (host.LI(), neurons.CubaLI),
        (host.LIBoxCell(), neurons.LI),
        (host.IAFCell(), neurons.IAF),
        (host.IAF(), neurons.IAF),
    ],
)
def test_norses_own_have_descriptions_and_decays(module, kind):
    neuron = neuron_of(module)
    assert type(neuron) is kind
    response = response_of(module)
    if kind is neurons.IAF:
        assert response.decay == 1.0
    else:
        assert response.decay == pytest.approx(0.9)
        synaptic = response.synaptic_decay
        assert synaptic is None if kind is neurons.LI else synaptic == pytest.approx(0.8)


def test_a_state_may_be_handed_over_and_learned_leaks_begin_where_they_are_now():
    lif = loom.LIF(host.LIFParameters(v_leak=torch.tensor(0.5, requires_grad=True)))
    with torch.no_grad():
        lif.v_leak.fill_(0.25)
    _, state = lif(torch.zeros(1, 2, 3))
    assert torch.equal(state.v, torch.full((2, 3), 0.25))
    x = torch.ones(6, 2, 3)
    whole, last = lif(x)
    first, state = lif(x[:3])
    second, state = lif(x[3:], state)
    assert torch.equal(whole, torch.cat([first, second]))
    assert torch.equal(state.i, last.i)


def test_another_tuple_is_refused():
    with pytest.raises(TypeError, match="p: must be Norse's LIFParameters, got LIParameters"):
        loom.LIF(host.LIParameters())


def test_a_default_that_norse_let_require_grad_is_no_learned_parameter():
    host.IAF()(torch.ones(2, 1))
    assert host.IAFParameters().v_reset.requires_grad  # shared by all tuples
    assert not list(loom.IAF().parameters())
    assert not loom.IAFCell()(torch.ones(1))[0].requires_grad
