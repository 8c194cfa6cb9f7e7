"""snnTorch's surrogate gradients as ours."""

import pytest
import torch
from snntorch import surrogate

from spikeloom.neurons.surrogate import ATan
from spikeloom.plugins.snntorch import Leaky
from spikeloom.plugins.snntorch.surrogate import recognise

RECOGNISED = {
    "atan": surrogate.atan(alpha=3.0),
    "fast_sigmoid": surrogate.fast_sigmoid(),
    "sigmoid": surrogate.sigmoid(slope=4),
    "straight_through_estimator": surrogate.straight_through_estimator(),
    "triangular": surrogate.triangular(threshold=2),
    "heaviside": surrogate.heaviside(),
    "spike_rate_escape": surrogate.spike_rate_escape(beta=2, slope=3),
    "SFS": surrogate.SFS(slope=2, B=0.5),
}


@pytest.mark.parametrize("spike_grad", RECOGNISED.values(), ids=RECOGNISED)
def test_the_derivative_equals_the_hosts_gradient(spike_grad):
    u = torch.cat([torch.linspace(-3, 3, 121), torch.tensor([0.0, 0.5, -0.5, 1.0])])
    u.requires_grad_()
    (expected,) = torch.autograd.grad(spike_grad(u).sum(), u)
    own = recognise(spike_grad).derivative(u.detach())
    torch.testing.assert_close(own.expand_as(expected), expected, rtol=1e-5, atol=1e-6)


def test_none_is_the_hosts_default():
    assert recognise(None) == ATan(2.0)


@pytest.mark.parametrize(
    "spike_grad",
    [surrogate.SSO(), surrogate.custom_surrogate(lambda u, grad, spk: grad), torch.sigmoid, 3],
)
def test_what_cannot_be_known_is_not_guessed(spike_grad):
    assert recognise(spike_grad) is None


def test_a_function_of_the_same_name_elsewhere_is_not_taken_for_the_hosts():
    def atan(alpha):
        def inner(u):
            return u * alpha

        return inner

    assert recognise(atan(2.0)) is None


def test_far_below_the_threshold_the_sigmoids_gradient_is_finite_where_the_hosts_is_nan():
    u, fire = torch.tensor([-3.4, -3.43, -40.0], requires_grad=True), surrogate.sigmoid(slope=25)
    # Should this fail, snnTorch has mended it: the documentation says that it is NaN.
    assert torch.autograd.grad(fire(u).sum(), u)[0].isnan().tolist() == [False, True, True]
    lif = Leaky(0.9, spike_grad=fire)
    spk, _ = lif(u + 1.0)
    found = torch.autograd.grad(spk.sum(), u)[0]
    q = (25 * u.detach().double()).sigmoid()
    torch.testing.assert_close(found.double(), 25 * q * (1 - q), rtol=1e-4, atol=1e-44)
