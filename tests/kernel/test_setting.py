"""Surrogates' numbers are given to a kernel at each call, so a schedule compiles nothing."""

import math
from types import SimpleNamespace

import pytest
import torch

import spikeloom
from spikeloom import Neuron
from spikeloom.kernel import compile_cpu
from spikeloom.kernel.setting import Setting, with_settings
from spikeloom.kernel.vocabulary import exp, fire, sqrt
from spikeloom.neurons import LIF, surrogate

SURROGATES = [
    surrogate.ATan,
    surrogate.Sigmoid,
    surrogate.PiecewiseQuadratic,
    surrogate.PiecewiseExp,
    surrogate.SoftSign,
    surrogate.SuperSpike,
    surrogate.Erf,
    surrogate.FastSigmoid,
    surrogate.Triangle,
]


@pytest.fixture
def compiled(monkeypatch):
    """The texts that are compiled, none known before."""
    texts = []

    class Noted(compile_cpu.Kernel):
        def __init__(self, text, name):
            texts.append(text)
            super().__init__(text, name)

    monkeypatch.setattr(compile_cpu, "Kernel", Noted)
    compile_cpu.forward_kernel.cache_clear()
    compile_cpu.backward_kernel.cache_clear()
    return texts


def gradient(neuron, x, **options):
    leaf = x.clone().requires_grad_()
    y, _ = spikeloom.run(neuron, leaf, **options)
    return torch.autograd.grad(y.square().sum(), leaf)[0]


@pytest.mark.parametrize("form", SURROGATES, ids=lambda form: form.__name__)
def test_a_schedule_compiles_nothing_after_its_first_value(form, compiled):
    x = torch.randn(5, 7, dtype=torch.float64)
    for value in (2.0, 1.0, 0.5, 3.0, 2.5, 4.0, 0.1, 1.75):
        neuron = LIF(tau=2.3, surrogate=form(value))
        expected = gradient(neuron, x, implementation="eager")
        torch.testing.assert_close(gradient(neuron, x), expected, rtol=1e-12, atol=1e-14)
    assert len(compiled) == 2


def test_thresholds_that_are_scheduled_compile_nothing_either(compiled):
    x = torch.randn(5, 7)
    for threshold in (1.0, 0.9, 0.5, 2.0, 1.3):
        neuron = LIF(tau=2.3, v_threshold=threshold)
        torch.testing.assert_close(gradient(neuron, x), gradient(neuron, x, implementation="eager"))
    assert len(compiled) == 2


def test_a_divisor_that_is_a_power_of_two_has_a_kernel_of_its_own(compiled):
    for tau in (2.3, 3.1, 2.0, 4.0, 2.5):
        spikeloom.run(LIF(tau=tau), torch.randn(5, 7))
    assert len(compiled) == 2


class Escape:
    """A surrogate of a user, who derives numbers from others in many ways."""

    def __init__(self, beta, slope):
        self.beta, self.slope, self.name = beta, slope, "escape"

    def derivative(self, u):
        high = -self.slope / (2 + self.beta) * abs(-self.beta) - 1
        return (1.0 - high) * exp(sqrt(self.beta) * u * (2.0 - self.beta)) + self.slope**2 / 9


def test_a_surrogate_of_the_user_may_be_scheduled_too(compiled):
    x = torch.randn(5, 7, dtype=torch.float64) / 4

    def step(x, state, p):
        (v,) = state
        first, second = Escape(values.beta, 0.3), Escape(0.3, values.beta)
        s = fire(0.5 * v + x - 0.2, first) + fire(0.5 * v + x + 0.1, second)
        return s, (0.5 * v + x - s,)

    values = SimpleNamespace()
    for values.beta in (0.5, 1.0, 0.3, 0.8):
        neuron = Neuron(step)
        assert neuron.program is not None, neuron.reason
        expected = gradient(neuron, x, implementation="eager")
        torch.testing.assert_close(gradient(neuron, x), expected, rtol=1e-12, atol=1e-14)
    assert len(compiled) == 2


def test_derived_numbers_are_what_python_computes():
    for value in (0.3, 2.0, 1.7):
        a, b = Setting(value, "a"), Setting(0.7, "b")
        pairs = [
            (a + b, value + 0.7),
            (3 - a, 3 - value),
            (a * math.pi / 2, value * math.pi / 2),
            (1 / a, 1 / value),
            (-(a**2), -(value**2)),
            (abs(-a) ** b, value**0.7),
            (2**a, 2**value),
        ]
        for found, expected in pairs:
            assert isinstance(found, Setting) and float(found) == expected
    assert (Setting(2.0, "a") / 2).origin != (Setting(2.0, "a") / 3).origin
    assert (Setting(2.0, "a") / 2).origin == (Setting(5.0, "a") / 2).origin


def test_a_surrogate_itself_is_left_as_it_is():
    own = surrogate.ATan(3.0)
    marked = with_settings(own, 0)
    assert type(own.alpha) is float and isinstance(marked.alpha, Setting) and marked == own
    assert with_settings(surrogate.StraightThrough(), 0) == surrogate.StraightThrough()


def test_only_so_many_kernels_are_kept():
    for cache in (compile_cpu.forward_kernel, compile_cpu.backward_kernel):
        assert cache.cache_info().maxsize == compile_cpu.KEPT <= 256
