"""Sites refuse what they cannot encode, and count what saturates."""

import math

import pytest
import torch

from spikeloom.convert.las.sites import Site


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
