"""Spiking norms come nearer with more steps, at any scale and eps."""

import pytest
import torch
from torch import nn

from spikeloom.convert import LAS, set_form
from spikeloom.convert.las.norms import LayerNorm
from tests.convert.las.fitting import fitted, relative


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("steps, bound", [(4, 0.15), (8, 0.01), (12, 1e-3)])
def test_more_steps_bring_a_layer_nearer(steps, bound):
    x = torch.randn(64, 16)
    layer = LayerNorm(nn.LayerNorm(16, eps=1e-12))
    exact = layer(x)
    layer.install(steps, 64)
    assert relative(fitted(layer, x, steps=steps)(x), exact) < bound


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 1.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_norms_honour_their_eps_at_any_scale(scale, eps):
    x = torch.randn(64, 32) * scale
    layer = fitted(LayerNorm(nn.LayerNorm(32, eps, elementwise_affine=False)), x, steps=10)
    assert relative(layer(x), nn.functional.layer_norm(x, (32,), eps=eps)) < 0.01


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-4, 1e-3])
def test_a_norm_without_an_eps_takes_that_of_the_dtype_it_computes_in(scale, dtype):
    model, x = nn.RMSNorm(32).to(dtype), (torch.randn(64, 32) * scale).to(dtype)
    network = LAS(steps=14, progress=False).apply(model, [x])
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    mean = x.double().square().mean(-1, keepdim=True)
    expected = x.double() * torch.rsqrt(mean + torch.finfo(wide).eps)
    assert relative(network(x).double(), expected) < 0.005


def test_an_eps_of_zero_stays_zero():
    network = LAS(progress=False).apply(nn.RMSNorm(8, eps=0.0), [torch.randn(16, 8)])
    assert network.eps == 0.0


@pytest.mark.parametrize("form", ["decoded", "spikes"])
@pytest.mark.parametrize("build", [nn.LayerNorm, nn.RMSNorm])
def test_the_gradient_is_that_of_the_norm(build, form):
    model, x, g = build(16).double(), torch.randn(64, 16).double(), torch.randn(64, 16).double()
    network = LAS(steps=14, progress=False).apply(model, [x])
    set_form(network, form)
    grads = []
    for layer in (model, network):
        leaf = x.clone().requires_grad_()
        (layer(leaf) * g).sum().backward()
        grads.append(leaf.grad)
    assert relative(grads[1], grads[0]) < 1e-3
