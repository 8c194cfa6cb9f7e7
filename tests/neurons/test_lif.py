"""LIF, IF, ParametricLIF, Leaky, LIFBox against independent float64 loops; their arguments."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import spikeloom
from spikeloom import plugins
from spikeloom.neurons import IF, LIF, Leaky, LIFBox, ParametricLIF, surrogate

GRID = torch.randint(-8, 16, (60, 50), generator=torch.Generator().manual_seed(1)).double() / 8.0


class AtanSpike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, strict):
        ctx.save_for_backward(u)
        return (u > 0 if strict else u >= 0).to(u)

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        return grad / (1 + (math.pi * u) ** 2), None


def lif_loop(x, v, tau, threshold, v_reset, decay_input, detach_reset, strict, rate=None):
    spikes, rest = [], 0.0 if v_reset is None else v_reset
    for now in x:
        if rate is not None:
            h = v + (now - (v - rest)) * rate if decay_input else v - (v - rest) * rate + now
        elif tau is None:
            h = v + now
        elif decay_input:
            h = v + (now - (v - rest)) / tau
        else:
            h = v - (v - rest) / tau + now
        s = AtanSpike.apply(h - threshold, strict)
        reset = s.detach() if detach_reset else s
        v = h - reset * threshold if v_reset is None else (1 - reset) * h + reset * v_reset
        spikes.append(s)
    return torch.stack(spikes), v


OPTIONS = list(
    itertools.product(
        [2.0, 3.7, None],  # tau
        [None, 0.0, -0.3],  # v_reset
        [True, False],  # decay_input
        [True, False],  # detach_reset
        [True, False],  # fires_at_threshold
    )
)


@pytest.mark.parametrize("implementation", ["eager", "llvm"])
@pytest.mark.parametrize("tau, v_reset, decay_input, detach_reset, at", OPTIONS)
def test_lif_equals_a_float64_loop(tau, v_reset, decay_input, detach_reset, at, implementation):
    leaves = [GRID[:8].clone(), torch.zeros(50).double() + 0.1]
    if tau is not None:
        leaves.append(torch.tensor(tau).double())
    leaves.append(torch.linspace(0.8, 1.2, 50).double())
    x, v, *values = (leaf.requires_grad_() for leaf in leaves)
    neuron = LIF(
        values[0] if tau else None,
        values[-1],
        v_reset,
        decay_input,
        detach_reset,
        surrogate.ATan(),
        at,
    )
    y, (w,) = spikeloom.run(neuron, x, (v,), implementation=implementation)
    arguments = (values[0] if tau else None, values[-1], v_reset, decay_input, detach_reset, not at)
    expected, expected_w = lif_loop(x, v, *arguments)
    assert torch.equal(y, expected)
    torch.testing.assert_close(w, expected_w, rtol=1e-12, atol=1e-12)
    weights = torch.linspace(-1, 1, 400).double().reshape(8, 50)
    found = torch.autograd.grad((y * weights).sum() + (w**2).sum(), (x, v, *values))
    wanted = torch.autograd.grad(
        (expected * weights).sum() + (expected_w**2).sum(), (x, v, *values)
    )
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("implementation", ["eager", "llvm"])
@pytest.mark.parametrize("v_reset", [None, 0.0, -0.3])
@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("per_neuron", [True, False])
def test_parametric_lif_equals_a_float64_loop(per_neuron, decay_input, v_reset, implementation):
    rate = torch.linspace(0.05, 1.0, 50).double() if per_neuron else torch.tensor(0.3).double()
    threshold = torch.tensor(0.7).double()
    x, v, rate, threshold = (
        leaf.requires_grad_()
        for leaf in (GRID[:8].clone(), torch.zeros(50).double() + 0.1, rate, threshold)
    )
    neuron = ParametricLIF(rate, threshold, v_reset, decay_input, surrogate=surrogate.ATan())
    y, (w,) = spikeloom.run(neuron, x, (v,), implementation=implementation)
    arguments = (None, threshold, v_reset, decay_input, False, False, rate)
    expected, expected_w = lif_loop(x, v, *arguments)
    assert torch.equal(y, expected) and torch.equal(w, expected_w)
    leaves, weights = (x, v, rate, threshold), torch.linspace(-1, 1, 400).double().reshape(8, 50)
    found, wanted = (
        torch.autograd.grad((spikes * weights).sum() + (last**2).sum(), leaves)
        for spikes, last in ((y, w), (expected, expected_w))
    )
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("implementation", ["eager", "llvm"])
@pytest.mark.parametrize("delay", [True, False])
@pytest.mark.parametrize("mechanism", ["subtract", "zero", "none"])
def test_leaky_equals_a_float64_loop(mechanism, delay, implementation):
    beta, threshold = 0.8, 0.9
    x, mem, spikes = GRID, torch.zeros(50).double(), []
    for now in x:
        reset = (mem > threshold).double()
        kept = (1 - reset) * mem if mechanism == "zero" else mem
        mem = beta * kept + now
        if mechanism == "subtract":
            mem = mem - reset * threshold
        s = (mem > threshold).double()
        spikes.append(s)
        if not delay:
            # Reset now, except what the next step would reset twice.
            due = s - reset
            mem = mem - {"subtract": due * threshold, "zero": due * mem, "none": 0.0}[mechanism]
    neuron = Leaky(beta, threshold, mechanism, delay)
    y, (last,) = spikeloom.run(neuron, x, implementation=implementation)
    assert torch.equal(y, torch.stack(spikes))
    torch.testing.assert_close(last, mem, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("implementation", ["eager", "llvm"])
@pytest.mark.parametrize("method", ["value", "subtract"])
def test_lif_box_equals_a_float64_loop(method, implementation):
    v, spikes = torch.full((50,), 0.05).double(), []  # rest is the leak potential
    for now in GRID:
        h = v + 0.001 * 300.0 * (now + 0.05 - v)
        s = (h > 0.4).double()
        v = (1 - s) * h + s * (-0.1 if method == "value" else h - 0.4)
        spikes.append(s)
    neuron = LIFBox(300.0, 0.05, 0.4, -0.1, method)
    y, (last,) = spikeloom.run(neuron, GRID, implementation=implementation)
    assert torch.equal(y, torch.stack(spikes))
    torch.testing.assert_close(last, v, rtol=1e-12, atol=1e-12)


def test_if_is_lif_without_leak():
    x = torch.rand(6, 9)
    assert torch.equal(spikeloom.run(IF(), x)[0], spikeloom.run(LIF(tau=None), x)[0])


def test_a_hard_reset_neuron_rests_at_its_reset_potential():
    _, (v,) = spikeloom.run(LIF(v_reset=-0.5), torch.zeros(0, 3))
    assert v.tolist() == [-0.5] * 3


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: LIF(tau=0.0), ValueError, "LIF: tau is in steps and must be at least 1, got 0.0"),
        (lambda: LIF(tau=0.99), ValueError, "LIF: tau"),
        (lambda: LIF(tau=-3.0), ValueError, "LIF: tau"),
        (lambda: LIF(tau=math.nan), ValueError, "LIF: tau"),
        (lambda: LIF(tau="2"), TypeError, "LIF: tau must be a number or a tensor, got '2'"),
        (lambda: LIF(tau=torch.tensor([2.0, 0.5])), ValueError, "got 0.5 to 2$"),
        (lambda: ParametricLIF(0.0), ValueError, r"ParametricLIF: rate must lie in \(0, 1\]"),
        (lambda: ParametricLIF(torch.tensor(1.5)), ValueError, r"rate .*, got 1.5"),
        (lambda: ParametricLIF(v_reset="0"), TypeError, "ParametricLIF: v_reset"),
        (lambda: IF(v_threshold=-1.0), ValueError, "IF: v_threshold must be positive"),
        (lambda: LIF(v_threshold=0.0), ValueError, "LIF: v_threshold must be positive"),
        (lambda: LIF(v_threshold=math.inf), ValueError, "LIF: v_threshold"),
        (lambda: LIF(v_reset=math.nan), ValueError, "LIF: v_reset"),
        (lambda: LIF(v_reset=True), TypeError, "LIF: v_reset must be a number, got True"),
        (lambda: LIFBox(v_th="1"), TypeError, "LIFBox: v_th must be a number or a tensor, got '1'"),
        (lambda: Leaky(0.9, threshold=-1.0), ValueError, "Leaky: threshold must be positive"),
        (lambda: Leaky(0.9, reset_mechanism="soft"), ValueError, "'subtract', 'zero' or 'none'"),
        (lambda: Leaky(math.inf), ValueError, "Leaky: beta must be finite"),
        (lambda: LIFBox(tau_mem_inv=0.0), ValueError, "LIFBox: tau_mem_inv must be positive"),
        (lambda: LIFBox(dt=-0.001), ValueError, "LIFBox: dt must be positive"),
        (
            lambda: LIFBox(reset_method="zero"),
            ValueError,
            "must be one of 'value' or 'subtract', got 'zero'",
        ),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "v_reset",
    [torch.tensor(0.0), nn.Parameter(torch.tensor(0.0)), torch.zeros(3)],
    ids=["tensor", "parameter", "vector"],
)
@pytest.mark.parametrize("make", [LIF, IF, plugins.spikingjelly.LIFNode])
def test_a_reset_potential_that_would_not_learn_is_refused(make, v_reset):
    with pytest.raises(
        TypeError, match=r"v_reset must be a number or None.* Give float\(v_reset\)"
    ):
        make(v_reset=v_reset)


NUMBERS = [
    (LIF, {"tau": 3, "v_threshold": 2, "v_reset": -1}),
    (ParametricLIF, {"rate": 1, "v_threshold": 2, "v_reset": -1}),
    (Leaky, {"beta": 1, "threshold": 2, "graded_spikes_factor": 3}),
    (LIFBox, {"tau_mem_inv": 200, "v_leak": 1, "v_th": 2, "v_reset": -1, "dt": 1}),
]


@pytest.mark.parametrize("number", [int, np.float32, np.float64, np.int64])
@pytest.mark.parametrize("make, settings", NUMBERS, ids=["LIF", "ParametricLIF", "Leaky", "LIFBox"])
def test_a_number_may_be_of_any_type(make, settings, number):
    given = make(**{name: number(value) for name, value in settings.items()})
    wanted = make(**{name: float(value) for name, value in settings.items()})
    assert repr(given) == repr(wanted) and given.program == wanted.program


@pytest.mark.parametrize("neuron", [LIF(), IF(), ParametricLIF(), Leaky(0.9), LIFBox()], ids=repr)
def test_neurons_copy_and_pickle(neuron):
    for other in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
        assert repr(other) == repr(neuron) and other.program == neuron.program
        assert torch.equal(
            spikeloom.run(other, GRID.float())[0], spikeloom.run(neuron, GRID.float())[0]
        )


def test_settings_make_the_same_neuron_again():
    made = [LIF(tau=3.0, v_reset=None), IF(), ParametricLIF(0.3), Leaky(0.7, 0.5), LIFBox(200.0)]
    for neuron in made:
        assert repr(type(neuron)(**neuron.settings())) == repr(neuron)
