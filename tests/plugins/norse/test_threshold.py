"""Norse's threshold methods as surrogates, found out rather than assumed."""

import norse.torch as snn
import pytest
import torch
from norse.torch.functional import threshold as host

from spikeloom.neurons.surrogate import FastSigmoid, SuperSpike
from spikeloom.plugins import norse
from spikeloom.plugins.contract import same
from spikeloom.plugins.norse import threshold

METHODS = ("heaviside", "super", "triangle", "tanh", "circ", "heavi_erfc")


def slopes(method, alpha, u):
    u = u.clone().requires_grad_()
    z = host.threshold(u, method, alpha)
    return torch.autograd.grad(z.sum(), u)[0] if z.requires_grad else torch.zeros_like(u)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 7.0, 100.0])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_the_derivative_of_the_installed_norse(method, alpha):
    surrogate = threshold.surrogate_of(method, alpha)
    assert not isinstance(surrogate, threshold.HostThreshold)
    u = torch.linspace(-4, 4, 801, dtype=torch.float64)
    derivative = torch.as_tensor(surrogate.derivative(u), dtype=u.dtype).expand_as(u)
    torch.testing.assert_close(derivative, slopes(method, alpha, u), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_kernel(method):
    cell = norse.LIFBoxCell(snn.LIFBoxParameters(method=method))
    assert cell.implementation_reason == ""


def replaced(monkeypatch, forward, slope):
    """A Norse whose methods are all this one."""

    class Other(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u):
            ctx.save_for_backward(u)
            return forward(u).to(u.dtype)

        @staticmethod
        def backward(ctx, grad):
            return grad * slope(*ctx.saved_tensors)

    monkeypatch.setattr(threshold, "threshold", lambda u, method, alpha: Other.apply(u))


def test_a_norse_whose_super_uses_alpha_is_noticed(monkeypatch):
    """Releases before and after 1.1.0 divide by (alpha |u| + 1)^2."""
    assert threshold.surrogate_of("super", 100.0) == SuperSpike()
    replaced(monkeypatch, lambda u: u > 0, lambda u: (100 * u.abs() + 1) ** -2)
    assert threshold.surrogate_of("super", torch.tensor(100.0)) == FastSigmoid(100.0)


def test_an_unknown_derivative_runs_eager_and_says_so(monkeypatch):
    replaced(monkeypatch, lambda u: u > 0, lambda u: (u.abs() < 0.25).to(u.dtype))
    cell = norse.LIFBoxCell(snn.LIFBoxParameters(method="tanh"))
    assert "method 'tanh'" in cell.implementation_reason
    x = torch.tensor([5.0, 9.0, 11.0, 14.0], requires_grad=True)
    spikes, _ = cell(x)
    same(spikes.detach(), torch.tensor([0.0, 0.0, 1.0, 1.0]))
    spikes.sum().backward()
    torch.testing.assert_close(x.grad, 0.1 * torch.tensor([0.0, 1.0, 1.0, 0.0]))
    with pytest.raises(RuntimeError, match="known to Norse only"):
        norse.LIFBoxCell(snn.LIFBoxParameters(), implementation="llvm")(x)


def test_an_alpha_for_each_neuron_runs_eager():
    alpha = torch.tensor([1.0, 3.0, 9.0])
    p = snn.LIFBoxParameters(method="tanh", alpha=alpha)
    x = torch.tensor([9.0, 9.5, 10.5], requires_grad=True)
    spikes, _ = norse.LIFBox(p)(x[None])
    spikes.sum().backward()
    torch.testing.assert_close(x.grad, 0.1 * slopes("tanh", alpha, 0.1 * x.detach() - 1.0))


def test_a_method_that_fires_elsewhere_is_refused(monkeypatch):
    replaced(monkeypatch, lambda u: u >= 0, torch.ones_like)
    with pytest.raises(ValueError, match="does not fire exactly above the threshold"):
        norse.LIFBox()


def test_modules_are_made_wherever_tensors_are_made_by_default():
    with torch.device("meta"):
        module = norse.LIFBox()
    assert module.neuron.surrogate == threshold.surrogate_of("super", 100.0)
