"""Dynamical isometry: the known values of SpikeLM's neuron, ReLU and binary LIF."""

import math

import pytest
import torch

from spikeloom import verify
from spikeloom.kernel.vocabulary import absolute, where
from spikeloom.neurons import IF, OAT, ElasticBiSpike


class Rectangle:
    """Derivative 1 within half a unit of the threshold."""

    def derivative(self, u):
        return where(absolute(u) < 0.5, 1.0, 0.0)


NORMAL = torch.randn(500_000, generator=torch.Generator().manual_seed(1)).double()
UNIFORM = torch.rand(500_000, generator=torch.Generator().manual_seed(2)).double() - 0.5
LAPLACE = -UNIFORM.sign() * torch.log1p(-2 * UNIFORM.abs())


def bi_spike(samples, k):
    return ElasticBiSpike(k * float(samples.abs().mean()))


# k: phi, power and correlation for normal and for Laplacian input
KNOWN = {
    1: (0.575, 0.44, 0.887, 0.632, 0.30, 0.826),
    2: (0.889, 1.08, 0.890, 0.865, 0.74, 0.858),
    3: (0.983, 1.33, 0.811, 0.950, 1.00, 0.835),
    4: (0.999, 1.13, 0.672, 0.982, 1.08, 0.781),
}


@pytest.mark.parametrize("k", KNOWN)
def test_the_table_of_bi_spikes_is_reproduced(k):
    found = [verify.measure_isometry(bi_spike(x, k), x) for x in (NORMAL, LAPLACE)]
    values = [value for one in found for value in (one.phi, one.power, one.correlation)]
    # The powers are known to two places only.
    assert values == pytest.approx(KNOWN[k], rel=0.01, abs=0.005)
    assert [one.phi for one in found] == pytest.approx((KNOWN[k][0], KNOWN[k][3]), rel=0.01)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_normal_input_follows_the_closed_form(k):
    p = math.erf(k / math.sqrt(math.pi))
    found = verify.measure_isometry(bi_spike(NORMAL, k), NORMAL)
    assert found.phi == pytest.approx(p, rel=0.01)
    assert found.varphi == pytest.approx(p * (1 - p), rel=0.05, abs=1e-4)


def test_relu_and_binary_lif_have_their_known_values():
    relu = [verify.measure_isometry(torch.relu, x) for x in (NORMAL, LAPLACE)]
    for found in relu:
        assert (found.phi, found.varphi) == pytest.approx((0.5, 0.25), rel=0.01)
        assert (found.power, found.correlation) == pytest.approx((0.5, 0.707), rel=0.01)
    binary = [verify.measure_isometry(IF(1.0, surrogate=Rectangle()), x) for x in (NORMAL, LAPLACE)]
    assert [found.phi for found in binary] == pytest.approx([0.2417, 0.1917], rel=0.01)
    assert [found.correlation for found in binary] == pytest.approx([0.607, 0.606], rel=0.01)


@pytest.mark.parametrize(
    "function, expected",
    [
        (ElasticBiSpike(2 * math.sqrt(2 / math.pi)), 0.496),
        (ElasticBiSpike(3 * math.sqrt(2 / math.pi)), 0.90),
        (torch.relu, 0.015),
        (IF(1.0, surrogate=Rectangle()), 0.0),
    ],
)
def test_six_layers_multiply(function, expected):
    found = verify.measure_isometry(function, NORMAL[:1000], depth=6, trials=4)
    assert found.deep_phi == pytest.approx(expected, rel=0.08, abs=0.003)


def test_the_identity_is_isometric_at_any_depth():
    found = verify.measure_isometry(lambda x: 1.0 * x, NORMAL[:100], depth=3, width=8, trials=2)
    expected = (1.0, 0.0, 1.0, 1.0, 1.0)
    assert (found.phi, found.varphi, found.power, found.correlation, found.deep_phi) == (
        pytest.approx(expected)
    )


def test_the_same_seed_gives_the_same_numbers():
    one, two = (verify.measure_isometry(torch.relu, depth=1, width=8) for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"depth": -1}, "depth: must be a whole number of at least 0, got -1"),
        ({"width": 0}, "width"),
        ({"trials": 1.5}, "trials"),
        ({"samples": torch.zeros(4)}, "two different values"),
        ({"samples": torch.tensor([1.0, math.nan])}, "must be finite"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        verify.measure_isometry(torch.relu, **arguments)


def test_all_spikes_of_a_few_spike_neuron_count():
    found = verify.measure_isometry(OAT(8, 1.0, 8.0), NORMAL[:10_000])
    assert found.correlation > 0.999 and found.power == pytest.approx(1.0, abs=0.03)
    assert found.phi == pytest.approx(1.0)


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda x: x.detach(), r"differentiable, .* yields \(10,\) for \(10,\)"),
        (lambda x: x.sum(), r"elementwise .* yields \(\) for \(10,\)"),
        (lambda x: 3.0, r"elementwise .* yields 3\.0"),
    ],
)
def test_a_function_without_a_slope_for_every_value_is_refused(function, message):
    with pytest.raises(ValueError, match=f"function: must be .*{message}"):
        verify.measure_isometry(function, NORMAL[:10])


def test_what_is_no_function_and_no_samples_is_refused():
    with pytest.raises(TypeError, match="function: must be a neuron or a function, got 'relu'"):
        verify.measure_isometry("relu")
    for samples in ([1.0, 2.0], torch.ones(3, dtype=torch.complex64)):
        with pytest.raises(TypeError, match="samples: must be a real tensor"):
            verify.measure_isometry(torch.relu, samples)
    with pytest.raises(ValueError, match="two different values"):
        verify.measure_isometry(torch.relu, torch.ones(1))
