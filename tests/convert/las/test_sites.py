"""Sites refuse what they cannot encode, and count what saturates."""

import math

import pytest
import torch

from spikeloom.convert.las.layers import Activation
from spikeloom.convert.las.sites import Site
from tests.convert.las.fitting import fitted


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
    assert (site.watch.saturated, site.watch.values) == (3, 4)


@pytest.mark.parametrize("form", ["decoded", "spikes"])
@pytest.mark.parametrize("function", ["gelu", "gelu_tanh", "quick_gelu", "silu", "relu"])
def test_activations_warn_where_their_table_ends_and_refuse_nan(function, form):
    layer = fitted(Activation(function), torch.randn(8, 4))
    layer.name, layer.form = "there", form
    low, high = layer(torch.tensor([-1e3, 32.0]))
    assert low == 0 and high == pytest.approx(32.0, rel=0.01)
    with pytest.warns(UserWarning, match="there: 2.50e-01 of the values lie beyond 32"):
        layer(torch.tensor([0.5, 1e3]))
    assert (layer.watch.saturated, layer.watch.values) == (1, 4)
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="there: the input holds NaN or infinity"):
            layer(torch.tensor([1.0, bad]))


@pytest.mark.parametrize("function", ["tanh", "sigmoid"])
def test_functions_that_are_flat_far_out_do_not_saturate(function):
    layer = fitted(Activation(function), torch.randn(8, 4))
    exact = getattr(torch, function)(torch.tensor([-1e3, 1e3]))
    assert torch.allclose(layer(torch.tensor([-1e3, 1e3])), exact, atol=0.01)
    assert not layer.watch.saturated
