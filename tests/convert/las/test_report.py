"""The report counts what weights multiply, wherever, and names channels that are outliers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spikeloom.convert import LAS

WIDE = torch.linspace(-1, 1, 40).reshape(8, 5) ** 3
FILTERS = torch.linspace(-1, 1, 54).reshape(6, 1, 3, 3) ** 3
# What a call multiplies -> the layer that is told of it, and its multiply-adds for [4, 6, 8].
CALLS = {
    "linear": (lambda h: F.linear(h, WIDE.T), 4 * 6 * 8 * 5),
    "matmul": (lambda h: h @ WIDE, 4 * 6 * 8 * 5),
    "matmul from the left": (lambda h: WIDE.T @ h.mT, 4 * 6 * 8 * 5),
    "einsum": (lambda h: torch.einsum("bid,de->bie", h, WIDE), 4 * 6 * 8 * 5),
    "conv2d": (lambda h: F.conv2d(h[:, None], FILTERS, padding=1), 4 * 6 * 8 * 54),
    "conv1d in groups": (lambda h: F.conv1d(h, FILTERS[:, 0, :1], groups=6), 4 * 6 * 6 * 3),
    "two activations": (lambda h: h @ h.mT, 0),
}


class Calling(nn.Module):
    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.function = nn.Linear(8, 8), function

    def forward(self, x):
        return self.function(self.layer(x))


@pytest.mark.parametrize("name", CALLS)
def test_spikes_a_value_are_weighted_by_all_multiply_adds_with_weights(name):
    function, count = CALLS[name]
    x = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
    report = LAS(progress=False).apply(Calling(function), [x]).report
    spikes = dict(zip(report.column("site"), report.column("spikes/value"), strict=True))
    own = spikes.pop("layer.site")
    of_call = next(iter(spikes.values()))
    linear = 4 * 6 * 8 * 8
    expected = (own * linear + of_call * count) / (linear + count)
    assert report.spikes_per_value == pytest.approx(expected, rel=1e-6)
    assert own != of_call


def test_a_layer_that_sees_more_values_weighs_more():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.each, self.pooled = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.pooled(self.each(x).mean(1))

    x = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
    report = LAS(progress=False).apply(Pooled(), [x]).report
    each, pooled = report.column("spikes/value")
    assert report.spikes_per_value == pytest.approx((6 * each + pooled) / 7, rel=1e-6)
    assert each != pooled


def test_outlier_channels_are_named_with_their_size():
    torch.manual_seed(0)
    x = torch.randn(64, 16)
    x[:, 5] *= 500
    network = LAS(progress=False).apply(nn.Sequential(nn.Linear(16, 4), nn.Linear(4, 2)), [x])
    ((site, channel, largest, ratio),) = network.report.outliers.rows
    assert (site, channel) == ("0.site", 5)
    assert largest == pytest.approx(float(x[:, 5].abs().max()))
    assert ratio == pytest.approx(largest / float(x.abs().amax(0).median()))
    assert "outlier channels, see report.outliers: '0.site'" in network.report.notes
    assert "Outlier channels" in str(network.report)


def test_a_network_without_outlier_channels_names_none():
    torch.manual_seed(0)
    network = LAS(progress=False).apply(nn.Linear(16, 4), [torch.randn(64, 16)])
    assert not network.report.outliers.rows and "Outlier" not in str(network.report)
