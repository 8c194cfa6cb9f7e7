"""Operators in a row, with no layer of weights in between: one node follows what they compute."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikeloom
from spikeloom.convert import SignGD
from spikeloom.neurons import Exponential

QUICK = Exponential(1.0, 0.8)


class Forward(nn.Module):
    """A function of two layers' outputs, [8, 6, 6] a sample, and a layer that reads it."""

    def __init__(self, function):
        super().__init__()
        self.one, self.other = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(2, 8, 3, padding=1)
        self.function, self.head = function, nn.LazyLinear(4)

    def forward(self, x):
        return self.head(self.function(self.one(x), self.other(x)).flatten(1))


def built(function):
    torch.manual_seed(0)
    model, x = Forward(function).eval(), torch.randn(16, 2, 6, 6)
    model(x)
    return model, x


def gated(a, b):
    return F.silu(a) * torch.sigmoid(b)


def attending(a, b):
    scores = a.flatten(2) @ b.flatten(2).transpose(1, 2)
    return (scores / 6.0).softmax(-1) @ a.flatten(2)


def titles(function, **settings):
    model, x = built(function)
    return SignGD(8, QUICK, margin=1.2, **settings).apply(model, x).report.column("operator")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda a, b: F.max_pool2d(F.relu(a), 2), "max_pool2d of relu"),
        (lambda a, b: F.relu(F.max_pool2d(a, 2)), "relu of max_pool2d"),
        (gated, "mul of silu of sigmoid"),
        (attending, "matmul of softmax of matmul"),
        (lambda a, b: F.layer_norm(F.gelu(a).flatten(1), [288]), "layer_norm of gelu"),
        (lambda a, b: torch.square(0.5 * F.relu(a) + 1.0), "square of relu"),
    ],
)
def test_operators_that_only_a_node_reads_are_computed_by_it(function, expected):
    assert titles(function) == [expected]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda a, b: F.relu(F.relu(a) + F.relu(b)), ["relu", "relu", "relu"]),
        (lambda a, b: F.tanh(F.relu(a).mean((2, 3))), ["relu", "tanh"]),
        (lambda a, b: F.tanh(F.relu(a).sum((2, 3))), ["relu", "tanh"]),
        (lambda a, b: F.tanh(F.relu(a).cumsum(1)), ["relu", "tanh"]),
        (lambda a, b: F.relu(a) + F.max_pool2d(F.relu(a), 3, 1, 1), ["relu", "max_pool2d of relu"]),
    ],
)
def test_what_a_sum_reads_is_a_node_of_its_own(function, expected):
    assert titles(function) == expected


def test_what_a_layer_reads_too_is_a_node_that_others_follow():
    def shared(a, b):
        y = F.relu(a)
        return F.max_pool2d(y, 2).flatten(1) + F.avg_pool2d(y, 2).flatten(1)

    assert titles(shared) == ["relu", "max_pool2d"]


def test_two_nodes_may_both_compute_what_only_they_read():
    def shared(a, b):
        y = F.gelu(a)
        return F.max_pool2d(y, 2) + F.layer_norm(y, [6])[..., ::2, ::2]

    assert titles(shared) == ["max_pool2d of gelu", "layer_norm of gelu"]


def test_published_chains_have_a_node_for_every_operator():
    assert titles(gated, decompose=True) == ["silu", "sigmoid", "mul"]


@torch.no_grad()
@pytest.mark.parametrize("function", [gated, attending, lambda a, b: F.max_pool2d(F.relu(a), 2)])
def test_a_joined_node_settles_where_the_model_does(function):
    model, x = built(function)
    exact = model(x)
    found = SignGD(48, search=False).apply(model, x)(x)
    assert (found - exact).norm() < 1e-4 * exact.norm()


@torch.no_grad()
@pytest.mark.parametrize(
    "made",
    [
        copy.deepcopy,
        lambda snn: pickle.loads(pickle.dumps(snn)),
        lambda snn: lambda x: snn.as_layers()(x.expand(12, *x.shape))[-1],
        lambda snn: torch.compile(snn, fullgraph=True, backend="aot_eager"),
    ],
    ids=["copied", "pickled", "as layers", "compiled"],
)
@pytest.mark.parametrize("function", [gated, lambda a, b: F.max_pool2d(F.relu(a), 3, 2)])
def test_every_form_of_a_network_with_joined_nodes_computes_the_same(function, made):
    model, x = built(function)
    snn = SignGD(12, QUICK, margin=1.2).apply(model, x)
    torch.testing.assert_close(made(snn)(x), snn(x), rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("function", [gated, lambda a, b: F.max_pool2d(F.relu(a), 2)])
def test_neurons_that_speak_in_increments_join_too(function):
    model, x = built(function)
    model, x = model.double(), x.double()
    plain, increments = (
        SignGD(12, QUICK, margin=1.2, make=make).apply(model, x)(x)
        for make in (None, spikeloom.SpikingLayer)
    )
    torch.testing.assert_close(increments, plain, rtol=0, atol=1e-6)


def test_a_root_and_a_division_keep_nodes_of_their_own_and_settle():
    model, x = built(lambda a, b: a / torch.sqrt(F.relu(b).mean((2, 3), keepdim=True) + 0.01))
    snn = SignGD(48, search=False).apply(model, x)
    assert snn.report.column("operator") == ["relu", "sqrt", "div"]
    with torch.no_grad():
        exact = model(x)
        assert (snn(x) - exact).norm() < 1e-3 * exact.norm()
