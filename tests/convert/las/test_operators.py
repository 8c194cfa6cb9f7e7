"""Operators on spike trains: the step-by-step form is the decoded form."""

import math

import pytest
import torch
from torch import nn

from spikeloom.convert.las import operators
from spikeloom.convert.las.sites import Site, choose_ranges, short
from spikeloom.neurons import fit_reduced
from spikeloom.neurons.tables import FUNCTIONS


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def trains(steps, *shape):
    return torch.randn(steps, *shape) * (torch.rand(steps, *shape) < 0.4)


def fitted(layer, *inputs, steps=8):
    """A layer, calibrated on what it is given."""
    layer(*inputs)
    for module in layer.modules():
        if isinstance(module, Site):
            module.fit(steps, 1, "nearest", 1.25)
        if isinstance(module, operators.Activation):
            module.fit(steps, 32, 1.25)
    for module in layer.modules():
        module.observing = False
    return layer


def in_spikes(layer):
    for module in layer.modules():
        module.form = "spikes"
    return layer


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


# --- Operators on trains --------------------------------------------------------------------


def test_a_matrix_product_of_trains_adds_up_to_the_product_of_sums():
    a, b = trains(6, 2, 3, 5), trains(6, 2, 5, 4)
    y = operators.matrix_product(a, b)
    assert y.shape == (6, 2, 3, 4)
    torch.testing.assert_close(y.sum(0), a.sum(0) @ b.sum(0))


def test_each_step_of_a_product_is_a_difference_of_prefixes():
    a, b = trains(5, 7), trains(5, 7)
    y = operators.product(a, b)
    for t in range(5):
        torch.testing.assert_close(y[: t + 1].sum(0), a[: t + 1].sum(0) * b[: t + 1].sum(0))


def test_trains_of_different_length_are_refused_and_can_be_lengthened():
    with pytest.raises(ValueError, match="same number of steps: 3, 4"):
        operators.product(trains(3, 2), trains(4, 2))
    a, b = operators.same_steps(trains(3, 2), trains(4, 2))
    assert len(a) == len(b) == 4 and not a[3].any()


def test_the_bias_of_a_linear_layer_enters_once():
    layer = nn.Linear(5, 3)
    x = trains(4, 2, 5)
    y = operators.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(y.sum(0), layer(x.sum(0)))
    torch.testing.assert_close(y[1], nn.functional.linear(x[1], layer.weight))


# --- Layers -----------------------------------------------------------------------------------

LAYERS = {
    "linear": lambda: operators.Linear(*nn.Linear(16, 12).parameters()),
    "layer norm": lambda: operators.LayerNorm(*nn.LayerNorm(16).parameters(), 1e-5),
    "rms norm": lambda: operators.RMSNorm(nn.Parameter(torch.rand(16) + 0.5), None, 1e-6),
    "gelu": lambda: operators.Activation("gelu"),
    "gelu_tanh": lambda: operators.Activation("gelu_tanh"),
    "silu": lambda: operators.Activation("silu"),
    "tanh": lambda: operators.Activation("tanh"),
    "sigmoid": lambda: operators.Activation("sigmoid"),
    "relu": lambda: operators.Activation("relu"),
    "gated mlp": lambda: operators.GatedMLP(
        *(operators.Linear(nn.Linear(16, 16).weight, None) for _ in range(3)),
        operators.Activation("silu"),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_s_spikes_add_up_to_its_decoded_value(name):
    x = torch.randn(4, 10, 16) * 2
    layer = LAYERS[name]()
    exact = layer(x)
    fitted(layer, x)
    decoded = layer(x)
    assert relative(decoded, exact) < 0.02
    assert relative(in_spikes(layer)(x), decoded) < 2e-6


@pytest.mark.parametrize("steps, bound", [(4, 0.15), (8, 0.01), (12, 1e-3)])
def test_more_steps_bring_a_layer_nearer(steps, bound):
    x = torch.randn(64, 16)
    layer = operators.LayerNorm(*nn.LayerNorm(16).parameters(), 1e-12)
    exact = layer(x)
    layer.install(steps, 64)
    assert relative(fitted(layer, x, steps=steps)(x), exact) < bound


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 1.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_norms_honour_their_eps_at_any_scale(scale, eps):
    x = torch.randn(64, 32) * scale
    layer = fitted(operators.LayerNorm(None, None, eps), x, steps=10)
    assert relative(layer(x), nn.functional.layer_norm(x, (32,), eps=eps)) < 0.01


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("length", [1, 8, 300])
def test_softmax_sums_to_one_for_any_length_and_scale(length, scale):
    x = torch.randn(3, length) * scale
    softmax = operators.Softmax()
    p = softmax.decoded(x)
    assert ((p.sum(-1) - 1).abs() < 5e-4).all()
    assert (p - x.softmax(-1)).abs().max() < 5e-4
    torch.testing.assert_close(softmax.spikes(x).sum(0), p, rtol=1e-5, atol=1e-6)


def test_softmax_gives_nothing_to_what_is_masked():
    x = torch.tensor([[1.0, -math.inf, 2.0], [torch.finfo(torch.float32).min, 0.0, 0.0]])
    p = operators.Softmax().decoded(x)
    assert p[0, 1] == 0 and p[1, 0] == 0
    assert torch.allclose(p.sum(-1), torch.ones(2), atol=1e-3)


@pytest.mark.parametrize("groups", [4, 2])
def test_attention_is_the_exact_one_in_both_forms(groups):
    q, k, v = torch.randn(2, 4, 6, 8), *torch.randn(2, 2, groups, 6, 8)
    mask = torch.full((6, 6), -1e9).triu(1)
    attention = operators.Attention()
    exact, _ = attention(q, k, v, mask, 0.35)
    wide = [x.repeat_interleave(4 // groups, 1) for x in (k, v)]
    reference = nn.functional.scaled_dot_product_attention(q, *wide, attn_mask=mask, scale=0.35)
    torch.testing.assert_close(exact, reference)
    for site in (attention.q, attention.k, attention.v, attention.p):
        site.fit(10, 1, "nearest", 1.25)
    attention.observing = False
    decoded, _ = attention(q, k, v, mask, 0.35)
    assert relative(decoded, exact) < 0.005
    attention.form = "spikes"
    stepped, _ = attention(q, k, v, mask, 0.35)
    assert relative(stepped, decoded) < 1e-3


@pytest.mark.parametrize("name", ["exp", "exp2", "reciprocal", "rsqrt", "sqrt", "square"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_range_reduction_never_clamps(name, dtype):
    function = fit_reduced(name, 8, segments=32)
    exponential = name.startswith("exp")
    x = torch.linspace(-60, 60, 999) if exponential else torch.logspace(-18, 18, 999)
    x = x.to(dtype)
    exact = FUNCTIONS[name](x)
    assert ((function(x) - exact) / exact).abs().max() < 3.2e-4
    torch.testing.assert_close(function.spikes(x).sum(0), function(x), rtol=1e-6, atol=0)


def test_range_reduction_at_the_ends_of_the_number_line():
    ends = torch.tensor([0.0, math.inf, math.nan])
    assert fit_reduced("reciprocal")(ends).tolist()[:2] == [math.inf, 0.0]
    assert fit_reduced("rsqrt")(ends)[0] == math.inf
    assert fit_reduced("sqrt")(ends)[0] == 0
    assert fit_reduced("square")(ends)[0] == 0
    assert fit_reduced("exp")(torch.tensor([-1e9, 1e9, math.nan])).tolist()[:2] == [0.0, math.inf]
    for name in ("exp", "reciprocal", "rsqrt", "sqrt", "square"):
        assert fit_reduced(name)(ends)[2].isnan()
    assert fit_reduced("reciprocal")(torch.tensor(-4.0)) == pytest.approx(-0.25, rel=1e-3)
    assert fit_reduced("rsqrt")(torch.tensor(-4.0)).isnan()
    with pytest.raises(ValueError, match="must be one of exp"):
        fit_reduced("cosine")


# --- Sites --------------------------------------------------------------------------------------


def test_ranges_are_short_and_increase():
    sample = torch.randn(500, 3) * torch.tensor([0.1, 1.0, 5.0])
    sample[0, 2] = 80.0
    normal, middle, outlier = choose_ranges(sample, 100.0, 8, 1)
    assert (normal < middle).all() and middle < outlier >= 100.0
    assert normal[0] < normal[1] < normal[2]
    for value in (normal, middle, outlier):
        mantissa = torch.frexp(value).mantissa * 2**8
        assert torch.equal(mantissa, mantissa.round())


def test_short_rounds_up():
    x = torch.rand(1000) * 10
    assert (short(x) >= x).all() and (short(x) <= x * (1 + 2**-7)).all()


@pytest.mark.parametrize("between", [0, 1])
def test_chosen_ranges_beat_the_largest_value_alone(between):
    sample = torch.randn(2000, 4)
    sample[::500] *= 20
    site = Site()
    site(sample)
    site.fit(6, between, "nearest", 1.0)
    alone = Site()
    alone(sample)
    alone.observation.rows = [torch.full_like(sample, float(sample.abs().max()))]
    alone.fit(6, between, "nearest", 1.0)
    error = [float((s(sample) - sample).square().mean()) for s in (site, alone)]
    assert error[0] < 0.1 * error[1]


def test_a_shared_activation_is_encoded_once():
    x = torch.randn(4, 8)
    site = Site()
    site(x)
    site.fit(6, 1, "nearest", 1.25)
    site.users = 3
    first, second, third = site(x), site(x), site(x)
    assert first is second is third
    assert site(x) is not first
    assert site(x.clone()) is not first


def test_nan_is_named_and_saturation_counted():
    site = Site()
    site.name = "here"
    with pytest.raises(ValueError, match="calibration: the input of here holds NaN"):
        site(torch.tensor([[math.nan]]))
    site(torch.ones(4, 2))
    site.fit(6, 1, "nearest", 1.25)
    assert len(site.neuron.ranges) == 4
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="here: the input holds NaN or infinity"):
            site(torch.tensor([[1.0, bad]]))
    with pytest.warns(UserWarning, match=r"here: 5.00e-01 of the values lie beyond 1.25"):
        site(torch.tensor([[1.0, 9.0]]))
    site(torch.tensor([[9.0, 9.0]]))
    assert (site.saturated, site.values) == (3, 4)
