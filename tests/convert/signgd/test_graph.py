"""Capturing a model: batch norms wherever they stand, and models that torch cannot copy."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

from spikeloom.convert import SignGD
from spikeloom.convert.signgd.nodes import name_of, place_of
from spikeloom.neurons import Exponential


class Normed(nn.Module):
    """A function of a ReLU, and a batch norm of it that has lived."""

    def __init__(self, function, norm):
        super().__init__()
        self.layer, self.function, self.norm = nn.Conv2d(2, 4, 3, padding=1), function, norm
        with torch.no_grad():
            for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
                if tensor is not None:
                    tensor.uniform_(0.5, 2.0)

    def forward(self, x):
        return self.norm(self.function(F.relu(self.layer(x))))


@torch.no_grad()
def converted_error(model, x):
    """How far the output is from the model's, relative to its spread."""
    exact = model.eval()(x)
    found = SignGD(32, Exponential(1.0, 0.7, hold=4), margin=2.0).apply(model, x)(x)
    return float((found - exact).norm() / (exact - exact.mean(0)).norm())


@pytest.mark.parametrize(
    ("function", "norm"),
    [
        (lambda h: torch.cat([h, h], 1), nn.BatchNorm2d(8)),
        (lambda h: h.flatten(1), nn.BatchNorm1d(64)),
        (nn.Flatten(), nn.BatchNorm1d(64)),
        (lambda h: F.max_pool2d(h, 2), nn.BatchNorm2d(4)),
        (lambda h: F.avg_pool2d(h, 2), nn.BatchNorm2d(4)),
        (lambda h: F.adaptive_avg_pool2d(h, 1).flatten(1), nn.BatchNorm1d(4)),
        (lambda h: h.mean((2, 3)), nn.BatchNorm1d(4)),
        (lambda h: h.transpose(2, 3), nn.BatchNorm2d(4)),
        (lambda h: h.reshape(-1, 64), nn.BatchNorm1d(64)),
        (lambda h: h + 1.0, nn.BatchNorm2d(4)),
        (lambda h: h + h, nn.BatchNorm2d(4)),
        (lambda h: F.interpolate(h, scale_factor=2.0), nn.BatchNorm2d(4)),
        (lambda h: h[:, :2], nn.BatchNorm2d(2)),
        (lambda h: F.pad(h, (1, 1, 1, 1)), nn.BatchNorm2d(4)),
        (nn.Dropout(), nn.BatchNorm2d(4)),
        (nn.Linear(4, 4), nn.BatchNorm2d(4)),
        (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)),
        (nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6)),
        (lambda h: h.flatten(2), nn.BatchNorm1d(4, affine=False)),
        (nn.Identity(), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
    ],
)
def test_a_batch_norm_may_follow_any_operator(function, norm):
    torch.manual_seed(0)
    assert converted_error(Normed(function, norm), torch.randn(16, 2, 4, 4)) < 1e-3


def test_a_batch_norm_that_cannot_be_folded_is_a_scale_and_a_shift_at_its_place():
    model = Normed(nn.MaxPool2d(2), nn.BatchNorm2d(4))
    graph = SignGD(4, margin=1.0).apply(model, torch.randn(8, 2, 4, 4)).operators.graph
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    assert [name_of(node) for node in nodes[-2:]] == ["mul", "add"]
    assert all(place_of(node) == "norm (BatchNorm2d)" for node in nodes[-2:])


def test_a_batch_norm_over_three_axes_after_a_linear_layer_keeps_its_channels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(3), nn.GELU()).eval()
    with torch.no_grad():
        model[1].running_var.uniform_(0.5, 2.0)
    assert converted_error(model, torch.randn(16, 3, 4)) < 1e-3


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "reparametrize",
    [weight_norm, lambda layer: prune.l1_unstructured(layer, "weight", 0.5)],
)
def test_a_model_that_torch_cannot_copy_names_the_remedy(reparametrize):
    layer = nn.Linear(4, 4)
    reparametrize(layer)
    model = nn.Sequential(layer, nn.ReLU())
    with pytest.raises(ValueError, match=r"model: cannot be copied.*prune\.remove.*remove_weight"):
        SignGD(4).apply(model, torch.randn(8, 4))


@pytest.mark.parametrize("parametrize", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrizations_are_computed_once(parametrize):
    torch.manual_seed(0)
    layer = getattr(parametrizations, parametrize)(nn.Linear(4, 4))
    assert converted_error(nn.Sequential(layer, nn.ReLU()), torch.randn(16, 4)) < 1e-3


@dataclasses.dataclass
class Result:
    output: torch.Tensor


class ReturnsResult(nn.Module):
    """Returns a tensor within a dataclass that torch does not know."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return {"result": Result(self.layer(x).relu())}


def test_an_output_that_torch_cannot_take_apart_is_named_with_its_remedy():
    with pytest.raises(TypeError, match=r"returns a Result, .*register_dataclass\(Result\)"):
        SignGD(8).apply(ReturnsResult(), torch.randn(8, 4))


class Mapped(nn.Module):
    """Calls a layer for each sample by torch.vmap."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return torch.vmap(self.layer)(x).relu()


def test_vmap_is_refused_with_its_place():
    with pytest.raises(TypeError, match=r"model: torch\.vmap at 1 \(Mapped\)"):
        SignGD(8).apply(nn.Sequential(nn.Linear(4, 4), Mapped()), torch.randn(8, 4))
