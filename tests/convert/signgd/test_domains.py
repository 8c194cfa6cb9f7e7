"""Operators of values at the end of their domain, where half of all estimates lie outside."""

import importlib

import pytest
import torch
from torch import nn

import spikeloom
from spikeloom.convert import SignGD
from spikeloom.neurons import SignGD as Neuron

STEPS = 64


class Between(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.inner, self.outer, self.function = nn.Linear(6, 8), nn.Linear(8, 3), function

    def forward(self, x):
        return self.outer(self.function(self.inner(x)))


# Of values that are at an end of the function's domain, or close to it.
FUNCTIONS = {
    "sqrt": lambda h: torch.sqrt(h.relu()),
    "pow": lambda h: h.relu() ** 0.5,
    "acos": lambda h: torch.acos(torch.nn.functional.hardtanh(3.0 * h)),
    "asin": lambda h: torch.arcsin(torch.nn.functional.hardtanh(3.0 * h)),
    "acosh": lambda h: torch.acosh(1.0 + h.relu()),
    "log": lambda h: torch.log(0.003 + h.relu()),
    "log1p": lambda h: torch.log1p(h.relu() - 0.997),
    "xlogy": lambda h: torch.xlogy(2.0 + h.tanh(), 0.003 + h.relu()),
    "rsqrt": lambda h: torch.rsqrt(0.01 + h.relu()),
}


def made(name):
    torch.manual_seed(0)
    return Between(FUNCTIONS[name]).double().eval(), torch.randn(32, 6).double()


@torch.no_grad()
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_values_at_the_end_of_their_domain_settle(name):
    model, x = made(name)
    snn, exact = SignGD(STEPS, search=False).apply(model, x), model(x)
    assert (snn(x) - exact).norm() < 0.01 * (exact - exact.mean(0)).norm()


@torch.no_grad()
@pytest.mark.parametrize("name", ["sqrt", "pow", "log"])
def test_layers_and_hosts_compute_the_same_there(name):
    pytest.importorskip("snntorch")
    model, x = made(name)
    snn = SignGD(STEPS, search=False).apply(model, x)
    make = importlib.import_module("spikeloom.plugins.snntorch").make
    host = SignGD(STEPS, search=False, make=make).apply(model, x)
    expected = snn(x)
    layers = snn.as_layers()(snn.over_time(x))[-1]
    for found in (layers, host(x)):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["eager", "llvm"])
def test_the_root_of_a_negative_estimate_is_looked_for_at_zero(implementation):
    x = torch.zeros(20, 2)
    x[0] = torch.tensor([-0.25, 0.25])
    moves, _ = spikeloom.run(
        Neuron("sqrt", [0.5 * 0.7**t for t in range(20)]), x, implementation=implementation
    )
    torch.testing.assert_close(moves.sum(0), torch.tensor([0.0, 0.5]), rtol=0, atol=2e-3)


def test_a_model_that_is_undefined_is_still_refused():
    with pytest.raises(ValueError, match="NaN"):
        SignGD(8).apply(Between(torch.sqrt), torch.randn(8, 6))
