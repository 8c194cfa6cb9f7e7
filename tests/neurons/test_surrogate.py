"""Surrogates: the formulas, names and defaults of the frameworks, checked against them."""

import math
from dataclasses import dataclass

import norse.torch.functional.superspike as norse_superspike
import numpy as np
import pytest
import snntorch.surrogate as snntorch_surrogate
import torch
from spikingjelly.activation_based import surrogate as sj_surrogate

import spikeloom
from spikeloom.kernel.vocabulary import absolute, where
from spikeloom.neurons import HG, IF, LIF, OAT, FewSpike, Leaky, LIFBox, LinearHG, surrogate
from tests.ids import without_address

SPIKINGJELLY = [
    "Sigmoid",
    "ATan",
    "PiecewiseQuadratic",
    "PiecewiseExp",
    "SoftSign",
    "SuperSpike",
    "Erf",
]
U = torch.cat([torch.linspace(-3, 3, 121), torch.tensor([0.0, 1e-6, -1e-6, 40.0, -40.0])]).double()


def host_derivative(function):
    u = U.clone().requires_grad_()
    return torch.autograd.grad(function(u).double().sum(), u)[0]


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", [None, 0.7, 3.0])
@pytest.mark.parametrize("name", SPIKINGJELLY)
def test_spikingjelly_formula_and_default(name, alpha):
    arguments = {} if alpha is None else {"alpha": alpha}
    ours, host = (getattr(module, name)(**arguments) for module in (surrogate, sj_surrogate))
    assert ours.alpha == host.alpha
    close(ours.derivative(U), host_derivative(host))


@pytest.mark.parametrize(
    "ours, host",
    [
        (surrogate.FastSigmoid(), snntorch_surrogate.fast_sigmoid()),
        (surrogate.FastSigmoid(5.0), snntorch_surrogate.fast_sigmoid(5)),
        (surrogate.ATan(), snntorch_surrogate.atan()),
        (surrogate.ATan(0.5), snntorch_surrogate.atan(0.5)),
        (surrogate.Sigmoid(3.0), snntorch_surrogate.sigmoid(3)),
        (surrogate.StraightThrough(), snntorch_surrogate.straight_through_estimator()),
    ],
    ids=without_address,
)
def test_snntorch_formula_and_default(ours, host):
    close(ours.derivative(U), host_derivative(host))


def test_norse_superspike_ignores_its_alpha_as_ours_says():
    for alpha in (1.0, 100.0):
        wanted = host_derivative(lambda u, a=alpha: norse_superspike.super_fn(u, a))
        close(surrogate.SuperSpike().derivative(U), wanted)


@pytest.mark.parametrize("name", ["ATan", "Sigmoid", "PiecewiseQuadratic", "PiecewiseExp", "Erf"])
def test_a_density_has_area_one(name):
    u = torch.linspace(-400, 400, 4_000_001, dtype=torch.float64)
    area = torch.trapezoid(getattr(surrogate, name)().derivative(u), u)
    assert float(area) == pytest.approx(1.0, abs=2e-3)


def test_triangle_has_area_one_and_the_stated_width():
    u = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    values = surrogate.Triangle(2.0).derivative(u)
    assert float(torch.trapezoid(values, u)) == pytest.approx(1.0, abs=1e-6)
    assert values[u.abs() > 2.0].sum() == 0
    assert float(values.max()) == pytest.approx(0.5)


@pytest.mark.parametrize("name", surrogate.__all__)
def test_every_surrogate_gives_the_kernel_the_eager_gradient(name):
    neuron = LIF(tau=2.0, surrogate=getattr(surrogate, name)())
    x = (torch.randint(-4, 12, (9, 40)) / 4.0).requires_grad_()
    grads = []
    for implementation in ("llvm", "eager"):
        y, _ = spikeloom.run(neuron, x, implementation=implementation)
        grads.append(torch.autograd.grad((y * torch.linspace(0, 1, 40)).sum(), x)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-6)
    assert grads[0].abs().sum() > 0


def test_a_surrogate_of_ones_own_takes_a_few_lines():
    @dataclass(frozen=True)
    class Boxcar:
        width: float

        def derivative(self, u):
            return where(absolute(u) < self.width / 2, 1.0 / self.width + 0.0 * u, 0.0)

    x = torch.linspace(0.0, 2.0, 9, requires_grad=True)
    y, _ = spikeloom.run(LIF(tau=None, surrogate=Boxcar(1.0)), x[None], implementation="llvm")
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]


WITH_SURROGATE = [
    LIF,
    IF,
    lambda **kw: Leaky(0.9, **kw),
    LIFBox,
    OAT,
    lambda **kw: FewSpike([1.0], [1.0], [1.0], **kw),
    lambda **kw: HG([], [FewSpike([1.0], [1.0], [1.0])], **kw),
    lambda **kw: LinearHG([0.0, 1.0], [1.0], [0.0], **kw),
]


@pytest.mark.parametrize("make", WITH_SURROGATE)
@pytest.mark.parametrize(
    "given, message",
    [
        ("atan", "got 'atan', which has no derivative"),
        (torch.sigmoid, "got .*sigmoid.*, which has no derivative"),
        (surrogate.ATan, r"got the class ATan; call it: ATan\(\)"),
        (sj_surrogate.ATan(), r"got ATan\(.*, which has no derivative"),
    ],
)
def test_what_is_no_surrogate_is_refused_at_once(make, given, message):
    with pytest.raises(TypeError, match=rf"surrogate must be .*ATan\(alpha=2.0\), {message}"):
        make(surrogate=given)


@pytest.mark.parametrize("make", WITH_SURROGATE)
def test_none_is_the_default_surrogate(make):
    assert make(surrogate=None).surrogate == make().surrogate


def test_a_parameter_may_be_a_number_of_any_type():
    for number in (np.float32(3), np.int64(3), 3):
        assert repr(surrogate.ATan(number)) == "ATan(alpha=3.0)"


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan, "2", True])
def test_a_parameter_that_makes_no_sense_is_named(value):
    with pytest.raises(ValueError, match="ATan: alpha must be a positive finite number, got"):
        surrogate.ATan(value)
