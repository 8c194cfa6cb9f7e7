"""A converted network as layers: the same values, under the user's names."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from spikeloom import SpikingLayer, convert
from spikeloom.neurons import SignTracker


class Mixed(nn.Module):
    """Every operator that has a layer, one that has none, and functions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2))
        self.pool = nn.MaxPool2d(2)
        self.flat, self.head = nn.Flatten(), nn.Linear(12, 4)
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(self.flat(self.pool(self.stem(x))))
        return nn.functional.gelu(h) * self.scale + h.reshape(x.shape[0], 4)


def converted(steps: int = 8, **arguments) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(6, 1, 8, 8)
    return convert.SignGD(steps=steps, **arguments).apply(Mixed().eval(), x), x


def test_layers_compute_what_the_network_computes_after_every_step():
    snn, x = converted()
    with torch.no_grad():
        y = snn.as_layers()(x.expand(8, *x.shape))
    for t, expected in enumerate(snn(x, at=range(1, 9))):
        torch.testing.assert_close(y[t], expected, rtol=1e-5, atol=1e-6)


def test_layers_bear_the_names_of_the_users_modules():
    layers = dict(converted()[0].as_layers().named_modules())
    kinds = {"stem.0": nn.Conv2d, "stem.2": nn.AvgPool2d, "flat": nn.Flatten, "head": nn.Linear}
    assert all(isinstance(layers[name], kind) for name, kind in kinds.items())
    neurons = {name: layer for name, layer in layers.items() if isinstance(layer, SpikingLayer)}
    assert list(neurons) == ["stem.1", "pool.neuron", "gelu"]
    assert all(isinstance(layer.neuron, SignTracker) for layer in neurons.values())
    assert neurons["stem.1"].neuron.function.name == "relu"
    assert neurons["pool.neuron"].neuron.function.name == "identity"


def test_weights_are_held_by_their_layers_only():
    snn, _ = converted()
    names = [name for name, _ in snn.as_layers().named_parameters()]
    assert names == ["stem.0.weight", "stem.0.bias", "head.weight", "head.bias"]


def test_input_that_changes_is_followed():
    snn, x = converted()
    changing = torch.cat([torch.zeros(4, *x.shape), x.expand(4, *x.shape)])
    with torch.no_grad():
        y = snn.as_layers()(changing)
    assert not torch.equal(y[-1], snn(x))
    assert torch.isfinite(y).all()


def test_a_model_of_two_inputs_is_refused():
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return torch.relu(a + b)

    x = torch.randn(4, 3)
    snn = convert.SignGD(steps=4).apply(Two(), [(x, x)])
    with pytest.raises(ValueError, match="model: takes 2 tensors"):
        snn.as_layers()


def test_a_model_of_two_outputs_is_refused():
    class Two(nn.Module):
        def forward(self, a: Tensor) -> tuple[Tensor, Tensor]:
            return torch.relu(a), torch.abs(a)

    snn = convert.SignGD(steps=4).apply(Two(), torch.randn(4, 3))
    with pytest.raises(ValueError, match="model: returns 2 tensors"):
        snn.as_layers()


class Forward(nn.Module):
    """A model with a forward of its own."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(4, 6), function
        self.weight = nn.Parameter(torch.randn(2, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x), self.weight)


@pytest.mark.parametrize(
    "function",
    [
        lambda h, w: nn.functional.glu(h),  # the only operator of the root
        lambda h, w: h.relu().to(torch.float64) @ w.flatten(1).T.double(),
        lambda h, w: h.transpose(0, 1).relu().softmax(0).transpose(0, 1),  # samples behind
    ],
)
def test_layers_of_any_forward_compute_what_the_network_computes(function):
    x = torch.randn(6, 8, 4)
    model = Forward(function)
    if "flatten" in function.__code__.co_names:
        x = torch.randn(6, 4)
        model.layer = nn.Linear(4, 9)
    snn = convert.SignGD(steps=8).apply(model, x)
    with torch.no_grad():
        y = snn.as_layers()(x.expand(8, *x.shape))
        for t, expected in enumerate(snn(x, at=range(1, 9))):
            torch.testing.assert_close(y[t], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda h, w: (h - h.mean(0)).relu(), "samples see each other"),
        (lambda h, w: h.relu().roll(1, 0), "samples see each other"),
        (lambda h, w: torch.cat([part.relu() for part in h.chunk(2)]), "no single axis"),
    ],
)
def test_samples_that_do_not_stand_for_themselves_are_refused(function, message):
    snn = convert.SignGD(steps=8).apply(Forward(function), torch.randn(6, 4))
    with pytest.raises(ValueError, match=message):
        snn.as_layers()
