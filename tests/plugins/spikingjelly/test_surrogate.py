"""Which of SpikingJelly's surrogate functions have a counterpart."""

import pytest
import torch
from spikingjelly.activation_based import surrogate as host

from spikeloom.neurons import surrogate as ours
from spikeloom.plugins.spikingjelly.surrogate import kernel_form, translated

NAMES = (
    "ATan",
    "Erf",
    "PiecewiseExp",
    "PiecewiseQuadratic",
    "Rect",
    "Sigmoid",
    "SoftSign",
    "SuperSpike",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("alpha", [None, 0.5, 3.0])
def test_counterparts_have_the_hosts_derivative(name, alpha):
    function = getattr(host, name)() if alpha is None else getattr(host, name)(alpha)
    u = torch.linspace(-3, 3, 101, dtype=torch.float64).requires_grad_()
    function(u).sum().backward()
    mine = translated(function)
    assert mine == getattr(ours, name)(function.alpha)
    torch.testing.assert_close(mine.derivative(u.detach()), u.grad, rtol=1e-12, atol=1e-12)


class Subclass(host.ATan):
    pass


@pytest.mark.parametrize(
    "function",
    [host.LeakyKReLU(), host.ATan(spiking=False), host.ATan(torch.tensor(2.0)), Subclass()],
    ids=["another", "continuous", "tensor alpha", "subclass"],
)
def test_everything_else_has_none(function):
    assert kernel_form(function) is None
    with pytest.raises(TypeError, match=r"surrogate_function: .*ATan"):
        translated(function)


def test_what_is_no_host_function_passes_through():
    for value in (ours.ATan(), 2.0, None, "relu"):
        assert translated(value) is value
