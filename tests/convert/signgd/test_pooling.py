"""Max-pooling as maxima, beside torch's own."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spikeloom.convert import SignGD
from spikeloom.convert.signgd.pooling import adaptive_max_pool, max_pool
from spikeloom.neurons import Exponential


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("dilation", [1, 2])
def test_maxima_are_those_of_torch(ceil_mode, dilation):
    x = torch.randn(2, 3, 7, 8, generator=torch.Generator().manual_seed(0))
    for kernel, stride, padding in itertools.product((1, 2, 3), (1, 2, 3), (0, 1)):
        if padding <= kernel // 2:
            settings = ([kernel] * 2, [stride] * 2, [padding], [dilation], ceil_mode)
            expected = F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
            assert torch.equal(max_pool(2, x, *settings), expected)


def test_any_axes_stand_in_front():
    x = torch.randn(5, 2, 3, 6, 6, 6)
    found = max_pool(3, x, 2)
    assert torch.equal(found[1], F.max_pool3d(x[1], 2))
    rows = F.max_pool1d(x.flatten(0, 4), 3, 1)
    assert torch.equal(max_pool(1, x, [3], [1]).flatten(0, 4), rows)


def test_nan_is_passed_on():
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 1, 2] = torch.nan
    assert torch.isnan(max_pool(2, x, 2)).flatten().tolist() == [False, True, False, False]


@pytest.mark.parametrize("decompose", [False, True])
@pytest.mark.parametrize("size", [1, (4, 2)])
def test_an_adaptive_max_pool_of_equal_windows_is_a_max_pool(size, decompose):
    x = torch.randn(32, 2, 8, 8)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.AdaptiveMaxPool2d(size))
    snn = SignGD(48, Exponential(1.0, 0.85), decompose, margin=1.2).apply(model, x)
    with torch.no_grad():
        assert (snn(x) - model(x)).abs().max() < 0.05 * model(x).abs().max()


@pytest.mark.parametrize("counts", [(3, 2), (5, 7), (1, 3)])
def test_adaptive_windows_that_share_an_axis_unevenly_are_torchs(counts):
    x = torch.randn(2, 3, 8, 7)
    assert torch.equal(adaptive_max_pool(x, counts), F.adaptive_max_pool2d(x, counts))


@pytest.mark.parametrize("decompose", [False, True])
def test_an_adaptive_max_pool_of_unequal_windows_is_tracked_whole(decompose):
    x = torch.randn(32, 2, 8, 8)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.AdaptiveMaxPool2d(3))
    snn = SignGD(48, search=False, decompose=decompose).apply(model, x)
    assert snn.report.column("operator") == ["adaptive_max_pool"]
    with torch.no_grad():
        assert (snn(x) - model(x)).abs().max() < 0.01 * model(x).abs().max()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: F.adaptive_max_pool2d(x, 2, return_indices=True), "adaptive_max_pool2d"),
        (lambda x: F.max_pool2d(x, 2, return_indices=True), "max_pool2d_with_indices"),
        (lambda x: torch.max(x, 1), "max"),
    ],
)
def test_indices_that_are_read_are_refused(function, name):
    class Indices(nn.Module):
        def forward(self, x):
            values, indices = function(x.relu())
            return values + indices

    with pytest.raises(NotImplementedError, match=f"no spiking form of: {name} at the forward"):
        SignGD(8).apply(Indices(), torch.randn(4, 2, 8, 8))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(2, dilation=2)])
def test_chains_know_ceil_mode_and_dilation(pool):
    x = torch.rand(32, 2, 7, 7)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), pool)
    snn = SignGD(32, decompose=True).apply(model, x)
    assert snn.report.column("operator") == ["maximum"] * 2
    with torch.no_grad():
        error = (snn(x) - model(x)).square().mean() / model(x).square().mean()
    assert error < 1e-2


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (2, 1), (4, 2), (5, 2)])
def test_chains_never_track_what_stands_outside(kernel, padding):
    x = torch.randn(32, 1, 8, 8)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.MaxPool2d(kernel, 2, padding))
    snn = SignGD(16, Exponential(1.0, 0.8), True, margin=1.0).apply(model, x)
    with torch.no_grad():
        most = model[0](x).abs().max()
        error = (snn(x) - model(x)).square().mean() / model(x).square().mean()
    assert max(snn.report.column("reach")) < 1.01 * most
    assert error < 1e-2
