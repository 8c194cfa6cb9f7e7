"""snnTorch's own classes beside ours, over random settings."""

import warnings

import pytest
import snntorch as host
import torch
from snntorch import surrogate
from torch import nn

from spikeloom import neurons
from spikeloom.export import NotExpressible, run_nir, to_nir
from spikeloom.modules import neuron_of, response_of
from spikeloom.plugins import NoCounterpart
from spikeloom.plugins import snntorch as loom
from tests.plugins.drop_ins import WIDTH, DropIn, cases_over, check

# Without sigmoid, whose gradient is NaN in snnTorch far below the threshold.
GRADIENTS = [
    lambda: surrogate.atan(alpha=3.0),
    lambda: surrogate.fast_sigmoid(slope=5),
    lambda: surrogate.straight_through_estimator(),
    None,
]


def decay(draw, dtype, low=0.0, high=1.0):
    """A decay, one for each neuron in a third of the draws."""
    values = [low + (high - low) * draw.choice([0.1, 0.37, 0.5, 0.75, 0.9]) for _ in range(WIDTH)]
    return torch.tensor(values[0] if draw.random() < 0.67 else values, dtype=dtype)


def common(draw, dtype, delay=True):
    spike_grad = draw.choice(GRADIENTS)
    named = {
        # snnTorch subtracts it in float32, whatever the input is.
        "threshold": torch.tensor(draw.choice([0.5, 1.0, 0.75]), dtype=dtype),
        "spike_grad": spike_grad and spike_grad(),
        "learn_threshold": True,
        "reset_mechanism": draw.choice(["subtract", "zero", "none"]),
    }
    if delay:
        named["reset_delay"] = draw.random() < 0.5
    return named


def synaptic(draw, dtype):
    named = {"learn_alpha": True, "learn_beta": True, **common(draw, dtype)}
    return (decay(draw, dtype), decay(draw, dtype)), named


def alpha(draw, dtype):
    high, low = decay(draw, dtype, 0.6, 0.95), decay(draw, dtype, 0.1, 0.5)
    return (high, low), {"learn_beta": True, **common(draw, dtype, delay=False)}


def lapicque(draw, dtype):
    def number(*choices):
        return torch.tensor(draw.choice(choices), dtype=dtype)

    circuits = (
        {"beta": number(0.9, 0.5)},
        {"beta": number(0.9, 0.5), "R": number(2.0, 5.1)},
        {"beta": number(0.9, 0.5), "C": number(3.0, 0.7)},
        {"R": number(5.1, 3.0), "C": number(1.5, 2.0), "time_step": number(1.0, 0.5)},
        {"R": 5, "C": 1} if dtype == torch.float32 else {"R": number(5.0), "C": number(1.0)},
    )
    return (), {**draw.choice(circuits), **common(draw, dtype, delay=False)}


def run(module, x):
    """Step by step, as snnTorch runs; the states in order."""
    states, outputs = (), []
    for now in x:
        y, *states = module(now, *states)
        outputs.append(y)
    return torch.stack(outputs), states


def run_sequence(module, x):
    if not isinstance(module, loom.SpikingModule):
        return run(module, x)
    y, *states = module.sequence(x)
    return y, states


CASES = {
    "Synaptic": DropIn(loom.Synaptic, host.Synaptic, synaptic, ("alpha", "beta", "threshold")),
    "Alpha": DropIn(loom.Alpha, host.Alpha, alpha, ("beta", "threshold")),
    "Lapicque": DropIn(loom.Lapicque, host.Lapicque, lapicque, ("threshold",)),
}
DEFAULTS = {
    "Synaptic": {"alpha": 0.75, "beta": 0.9},
    "Alpha": {"alpha": 0.9, "beta": 0.75},
    "Lapicque": {"beta": 0.9},
}
KINDS = {"Synaptic": neurons.Synaptic, "Alpha": neurons.Alpha, "Lapicque": neurons.Lapicque}


@cases_over(CASES)
@pytest.mark.parametrize("how", [run, run_sequence], ids=["steps", "sequence"])
def test_a_drop_in_equals_snntorchs_own_over_random_settings(case, seeds, how):
    check(case, how, seeds)


@pytest.mark.parametrize("name", CASES)
def test_state_dicts_move_between_the_two(name):
    ours = CASES[name].ours(**DEFAULTS[name], learn_threshold=True)
    theirs = CASES[name].theirs(**DEFAULTS[name], learn_threshold=True)
    assert {*ours.state_dict()} == {*theirs.state_dict()}
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        theirs.threshold.fill_(0.5)
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(9, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(run(ours, x)[0], run(theirs, x)[0])


@pytest.mark.parametrize("name", CASES)
def test_a_drop_in_has_a_fused_kernel_and_goes_to_snntorchs_own(name):
    module = CASES[name].ours(**DEFAULTS[name])
    assert module.neuron.program is not None, module.neuron.reason
    native = loom.to_host(nn.Sequential(nn.Linear(4, 3), module), torch.rand(6, 4))
    assert type(native[1]) is CASES[name].theirs


@pytest.mark.parametrize("name", CASES)
def test_snntorchs_own_has_a_description(name):
    neuron = neuron_of(CASES[name].theirs(**DEFAULTS[name]))
    assert type(neuron) is KINDS[name]


def test_calibration_knows_their_decays():
    response = response_of(loom.Synaptic(alpha=0.75, beta=0.5))
    assert (response.decay, response.synaptic_decay) == (0.5, 0.75)
    response = response_of(loom.Lapicque(R=2.0, C=4.0))
    assert (response.decay, response.gain) == pytest.approx((0.875, 0.25))
    assert response_of(loom.Alpha(0.9, 0.5)) is None


@pytest.mark.parametrize("name", CASES)
def test_functions_of_the_user_fire_and_quantise_as_in_snntorch(name):
    def quantised(state):
        return state.mul(4).round().div(4)

    x = torch.rand(12, 3, 4, generator=torch.Generator().manual_seed(0))
    settings = {**DEFAULTS[name], "state_quant": quantised, "spike_grad": surrogate.atan()}
    (y, states), (expected, their_states) = (
        run(make(**settings), x) for make in (CASES[name].ours, CASES[name].theirs)
    )
    assert torch.equal(y, expected)
    assert all(map(torch.equal, states, their_states))


def test_alpha_learns_both_decays():
    learned = {"learn_alpha": True, "learn_beta": True}
    module = loom.Alpha(0.9, 0.5, reset_mechanism="subtract", **learned)
    x = torch.rand(8, 2, 3, generator=torch.Generator().manual_seed(0))
    _, *_, mem = module.sequence(x)
    found = torch.autograd.grad(mem.sum(), (module.alpha, module.beta))
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.9, 0.5))
    exc = inh = v = torch.zeros(2, 3, dtype=torch.float64)
    for now in x.double():
        reset = (v > 1.0).double()
        before, exc, inh = inh, a * exc + now, b * inh - now
        v = (a.log() / (b.log() - a.log()) + 1) * (exc + inh) + before * reset
        exc, inh = exc - reset, inh - inh * reset
    expected = torch.autograd.grad(v.sum(), (a, b))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)
    with pytest.raises(NoCounterpart, match="alpha is learned"):
        loom.to_host(nn.Sequential(loom.Alpha(0.9, 0.5, learn_alpha=True)))


def net_of(neuron):
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3, bias=False), loom.make(neuron, time_first=True))
    net[0].weight.data = torch.randn(3, 4, generator=generator).mul(4).round().div(4)
    net[1].init_hidden = True
    return net


@pytest.mark.parametrize(
    ("neuron", "allowed"),
    [
        (neurons.Synaptic(0.5, 0.75, reset_mechanism="zero", reset_delay=False), "raise"),
        (neurons.Synaptic(0.5, 0.75), "subgraph"),
        (neurons.Synaptic(0.5, 0.75, reset_mechanism="none"), "subgraph"),
        (neurons.Lapicque(4.0, 1.0), "subgraph"),
        (neurons.Lapicque(4.0, 1.0, reset_mechanism="none"), "subgraph"),
    ],
    ids=str,
)
def test_a_file_fires_the_same_spikes(neuron, allowed):
    x = torch.randn(40, 3, 4, generator=torch.Generator().manual_seed(1)).mul(4).round().div(4)
    graph, _ = to_nir(net_of(neuron), x, on_inexact=allowed, target="nir")
    expected = net_of(neuron)(x)
    assert 0.02 < expected.mean() < 0.9
    assert torch.equal(run_nir(graph, x), expected)


def test_a_reset_that_discards_input_is_refused():
    for neuron in (
        neurons.Synaptic(0.5, 0.75, reset_mechanism="zero"),
        neurons.Lapicque(1.0, 2.0, reset_mechanism="zero"),
    ):
        with pytest.raises(NotExpressible, match="discards the input of the step after a spike"):
            to_nir(net_of(neuron), torch.rand(20, 3, 4))


def test_a_file_of_a_current_based_neuron_is_read_by_snntorch():
    from snntorch.import_nir import import_from_nir

    neuron = neurons.Synaptic(0.5, 0.75, reset_mechanism="zero", reset_delay=False)
    x = torch.randn(30, 3, 4, generator=torch.Generator().manual_seed(1)).mul(4).round().div(4)
    graph, _ = to_nir(net_of(neuron), x, target="portable")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = import_from_nir(graph)
    state, outputs = None, []
    for now in x:
        y, state = read(now, state)
        outputs.append(y)
    assert torch.equal(torch.stack(outputs), net_of(neuron)(x))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"learn_beta": True, "beta": 0.9}, "learn_beta=True learns nothing"),
        ({"R": 1.0}, "give beta, beta with one of R and C"),
        ({"beta": 0.9, "R": 1.0, "C": 1.0}, "give beta, beta with one of R and C"),
        ({}, "none of them"),
        ({"beta": 0.9, "inhibition": True}, "couples the neurons"),
    ],
)
def test_what_lapicque_cannot_honour_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        loom.Lapicque(**arguments)


def test_an_alpha_that_is_not_above_beta_is_refused():
    with pytest.raises(ValueError, match="alpha must be above beta"):
        loom.Alpha(0.5, 0.9)
