"""The error of a conversion against its number of steps."""

import pytest
import torch
from torch import nn

from spikeloom import convert


def ann():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 3)).eval()


@pytest.mark.parametrize("recipe", [convert.LAS, convert.SignGD])
def test_each_error_is_that_of_a_conversion_with_so_many_steps(recipe):
    net, x = ann(), torch.randn(64, 8)
    y = x[:32]
    report = convert.sweep_steps(recipe, net, x, y, steps=(6, 12))
    assert report.column("method") == [recipe.__name__] * 2
    for steps, error in zip(report.column("steps"), report.column("error"), strict=True):
        with torch.no_grad():
            expected, found = net(y).double(), recipe(steps).apply(net, x)(y).double()
        assert error == pytest.approx(float((found - expected).norm() / expected.norm()))
    assert report.column("error")[1] < report.column("error")[0]


def test_a_model_without_numbers_has_no_error():
    class Classes(nn.Module):
        def forward(self, x):
            return x.argmax(1)

    with pytest.raises(ValueError, match="returns no tensor of floating point"):
        convert.sweep_steps(convert.LAS, Classes(), torch.randn(4, 8), torch.randn(4, 8))
