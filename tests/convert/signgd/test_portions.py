"""Large batches in portions."""

import pytest
import torch
from torch import nn

from spikeloom.convert import SignGD
from spikeloom.convert.signgd.portions import portions
from spikeloom.neurons import Exponential


def converted(model, x):
    return SignGD(8, Exponential(1.0, 0.8), margin=1.2).apply(model, x)


def test_portions_are_about_equal_and_hold_every_sample():
    x, ids = torch.arange(10.0)[:, None], torch.arange(10)
    parts = portions([x, "word", ids], 4)
    assert [len(part[0]) for part in parts] == [4, 3, 3]
    assert torch.equal(torch.cat([part[2] for part in parts]), ids)
    assert all(part[1] == "word" for part in parts)
    assert len(portions([x], None)) == len(portions([x[:0]], 4)) == 1


def test_a_batch_in_portions_comes_out_as_a_whole():
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3))
    x = torch.randn(64, 6, dtype=torch.float64)
    snn = converted(model.double(), x)
    assert snn.portion is not None
    with torch.no_grad():
        whole = snn(x, at=[3, 8])
        snn.portion = 7
        for found, expected in zip(snn(x, at=[3, 8]), whole, strict=True):
            assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_samples_that_see_each_other_stay_together(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)

    class Mixed(nn.Module):
        def forward(self, x):
            return torch.relu(x).cumsum(0)

    x = torch.randn(16, 4)
    snn = converted(Mixed(), x)
    assert snn.portion is None
    with torch.no_grad():
        assert (snn(x) - Mixed()(x)).abs().max() < 1.0


def test_a_single_sample_leaves_open_whether_samples_see_each_other():
    assert converted(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(1, 4)).portion is None


def test_a_report_of_portions_is_that_of_the_whole(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.GELU())
    x = torch.randn(9, 1, 8, 8)
    whole = converted(model, x).report
    monkeypatch.setattr("spikeloom.convert.signgd.portions.LARGEST", 1 << 10)
    snn = converted(model, x)
    assert snn.portion is not None and snn.portion < len(x)
    for column in ("residual", "ones", "spikes"):
        assert snn.report.column(column) == pytest.approx(whole.column(column), rel=1e-5)
