"""Operators of a package of its own: each goes by its whole name, whatever torch calls likewise."""

import pytest
import torch
from torch import nn

from spikeloom.convert import SignGD
from spikeloom.kernel.vocabulary import sigmoid
from spikeloom.neurons.signgd_functions import FUNCTIONS, Function, register
from spikeloom.observe import Effect, Operation
from spikeloom.observe import register as tell

SPACE = "signgd_own"


@torch.library.custom_op(f"{SPACE}::relu", mutates_args=())
def _relu(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x)


@torch.library.custom_op(f"{SPACE}::add", mutates_args=())
def _add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.sin(3 * x) + y


@torch.library.custom_op(f"{SPACE}::snake", mutates_args=())
def _snake(x: torch.Tensor, a: float) -> torch.Tensor:
    return x + torch.sigmoid(a * x)


@torch.library.custom_op(f"{SPACE}::swap", mutates_args=())
def _swap(x: torch.Tensor) -> torch.Tensor:
    return torch.roll(x, x.shape[-1] // 2, -1).clone()


@torch.library.custom_op(f"{SPACE}::sigmoid_", mutates_args=("x",))
def _sigmoid(x: torch.Tensor) -> None:
    x.tanh_()


for operator in (_relu, _add, _snake, _swap):
    operator.register_fake(lambda x, *others: torch.empty_like(x))

OPS = getattr(torch.ops, SPACE)
tell(Operation(f"{SPACE}::snake", Effect.ACTIVATES))
tell(Operation(f"{SPACE}::swap", Effect.MOVES, addends=(0,)))


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def converted(*layers):
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(6, 8), *layers, nn.Linear(8, 3)).eval()
    x = torch.randn(32, 6)
    return ann, SignGD(32, search=False).apply(ann, x), x


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (OPS.relu, "relu"),
        (lambda x: OPS.add(torch.relu(x), x), "add"),
    ],
)
def test_an_operator_that_bears_a_name_of_torch_s_is_not_taken_for_torch_s(function, name):
    with pytest.raises(NotImplementedError, match=f"no spiking form of: {SPACE}::{name}"):
        converted(Calls(function))


def test_an_operator_in_place_that_bears_a_name_of_torch_s_is_refused():
    def function(x):
        y = x + 0.0
        OPS.sigmoid_(y)
        return y

    with pytest.raises(NotImplementedError, match=f"{SPACE}::sigmoid_"):
        converted(Calls(function))


@torch.no_grad()
def test_an_operator_that_moves_values_passes_increments_on():
    ann, snn, x = converted(Calls(OPS.swap), nn.ReLU())
    assert [site.operator for site in snn.plan.sites] == ["relu"]
    assert relative(snn(x), ann(x)) < 0.02
    assert relative(snn.as_layers()(x.expand(32, *x.shape))[-1], ann(x)) < 0.02


@torch.no_grad()
@pytest.mark.parametrize("is_registered", [False, True])
def test_a_nonlinear_operator_is_followed_and_computed_by_one_neuron_once_registered(is_registered):
    name = f"{SPACE}::snake"
    if is_registered:
        register(Function(name, lambda x, a=1.0: x + sigmoid(a * x)))
    try:
        ann, snn, x = converted(Calls(lambda x: OPS.snake(x, 2.5)))
        (site,) = snn.plan.sites
        assert site.function == (name if is_registered else None)
        assert site.constants == ({"a": 2.5} if is_registered else {})
        assert relative(snn(x), ann(x)) < 0.02
        assert relative(snn.as_layers()(x.expand(32, *x.shape))[-1], ann(x)) < 0.02
    finally:
        FUNCTIONS.pop(name, None)


def test_a_function_whose_constant_its_operator_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"no argument 'slope'.* x, a"):
        register(Function(f"{SPACE}::snake", lambda x, slope=1.0: x + sigmoid(slope * x)))
    assert f"{SPACE}::snake" not in FUNCTIONS
