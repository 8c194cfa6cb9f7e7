"""A function of one's own, registered once, is known to all that deal with functions."""

import pytest
import torch
from torch import nn

from spikeloom import SpikingLayer, export, neurons
from spikeloom.convert import SignGD
from spikeloom.kernel.vocabulary import maximum, minimum, where
from spikeloom.neurons.signgd_functions import FUNCTIONS, Function, register


def softshrink(x, lambd=0.5):
    return where(x > lambd, x - lambd, where(x < -lambd, x + lambd, 0.0 * x))


@pytest.fixture
def shrinking():
    """Softshrink, known for the time of a test."""
    register(Function("softshrink", softshrink))
    yield
    del FUNCTIONS["softshrink"]


def converted(lambd, **settings):
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(6, 8), nn.Softshrink(lambd), nn.Linear(8, 3)).eval()
    x = torch.randn(16, 6)
    return ann, SignGD(32, search=False, **settings).apply(ann, x), x


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


@torch.no_grad()
@pytest.mark.parametrize("lambd", [0.1, 0.5, 1.0])
def test_one_registration_serves_the_conversion_its_layers_and_hosts(shrinking, lambd):
    ann, snn, x = converted(lambd)
    assert snn.plan.sites[0].function == "softshrink"
    assert relative(snn(x), ann(x)) < 0.01
    layers = snn.as_layers()(x.expand(32, *x.shape))[-1]
    torch.testing.assert_close(layers, snn(x), rtol=0, atol=1e-5)
    _, fired, _ = converted(lambd, make=SpikingLayer)
    assert relative(fired(x), ann(x)) < 0.01


@torch.no_grad()
def test_one_registration_serves_a_file(shrinking):
    _, snn, x = converted(0.3)
    sample = x.expand(32, *x.shape)
    graph, _ = export.to_nir(snn.as_layers(), sample, dt=1e-3, on_inexact="extension")
    torch.testing.assert_close(
        export.run_nir(graph, sample, dt=1e-3)[-1], snn(x), rtol=0, atol=1e-5
    )


def test_constants_are_those_of_its_signature(shrinking):
    neuron = neurons.SignGD("softshrink", [1.0, 0.5], lambd=0.25)
    assert neuron.settings()["lambd"] == 0.25
    assert float(neuron.function.value(torch.tensor(1.0))) == 0.75
    with pytest.raises(TypeError, match="softshrink has no constant 'alpha'; it has lambd"):
        neurons.SignGD("softshrink", alpha=0.25)
    with pytest.raises(ValueError, match="lambd: must be finite"):
        neurons.SignGD("softshrink", lambd=float("nan"))


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(ValueError, match="'relu' is there already"):
        register(Function("relu", softshrink))
    with pytest.raises(TypeError, match="function: must be a Function"):
        register(softshrink)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("softshrink", lambda x, lam=0.5: x, r"'softshrink' has no argument 'lam'; .*self, lambd$"),
        (
            "hardtanh",
            lambda x, min=-1.0, max=1.0: x,
            r"no argument 'min'; .*self, min_val, max_val$",
        ),
    ],
)
def test_a_constant_that_the_operator_of_its_name_does_not_have_is_refused(name, value, match):
    with pytest.raises(ValueError, match=match):
        register(Function(name, value))
    assert name not in FUNCTIONS


def test_a_function_of_a_name_that_no_operator_has_names_its_constants_freely():
    register(Function("of_my_own", lambda x, slope=0.5: slope * x))
    try:
        assert neurons.SignGD("of_my_own", slope=2.0).settings()["slope"] == 2.0
    finally:
        del FUNCTIONS["of_my_own"]


def test_every_function_has_the_constants_of_its_operator():
    taken = dict(FUNCTIONS)
    FUNCTIONS.clear()
    try:
        for function in taken.values():
            register(function)
    finally:
        FUNCTIONS.update(taken)


@torch.no_grad()
def test_a_bound_that_a_call_leaves_open_is_followed_as_a_whole():
    def clamp(x, min=-1.0, max=1.0):
        return minimum(maximum(x, min), max)

    class Clamp(nn.Module):
        def forward(self, x):
            return torch.clamp(x, min=-0.25)

    register(Function("clamp", clamp))
    try:
        torch.manual_seed(0)
        ann, x = nn.Sequential(nn.Linear(6, 8), Clamp(), nn.Linear(8, 3)).eval(), torch.randn(16, 6)
        snn = SignGD(32, search=False).apply(ann, x)
        assert snn.plan.sites[0].function is None
        assert relative(snn(x), ann(x)) < 0.01
    finally:
        del FUNCTIONS["clamp"]


def test_a_file_with_a_function_that_this_process_does_not_know_names_the_remedy(shrinking):
    net = nn.Sequential(SpikingLayer(neurons.SignGD("softshrink", [1.0, 0.5, 0.25])))
    graph, _ = export.to_nir(net, torch.rand(3, 1, 2), on_inexact="extension")
    function = FUNCTIONS.pop("softshrink")
    try:
        with pytest.raises(ValueError, match=r"'softshrink'.*signgd_functions\.register\("):
            export.run_nir(graph, torch.rand(3, 1, 2))
    finally:
        FUNCTIONS["softshrink"] = function


@torch.no_grad()
@pytest.mark.parametrize(
    "layer",
    [
        *(nn.Softplus(2.0), nn.Softplus(2.0, 0.5), nn.ELU(0.7), nn.SELU(), nn.LeakyReLU(0.3)),
        *(nn.GELU(), nn.GELU("tanh")),
    ],
    ids=str,
)
def test_constants_of_an_operator_reach_its_neuron_or_it_is_followed_as_a_whole(layer):
    torch.manual_seed(0)
    ann, x = nn.Sequential(nn.Linear(6, 8), layer, nn.Linear(8, 3)).eval(), torch.randn(16, 6)
    snn = SignGD(32, search=False).apply(ann, x)
    assert relative(snn(x), ann(x)) < 0.01
    assert relative(snn.as_layers()(x.expand(32, *x.shape))[-1], ann(x)) < 0.01
