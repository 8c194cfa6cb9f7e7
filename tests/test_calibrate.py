"""Calibration data in any form, and the magnitudes that layers reach."""

import pytest
import torch
from torch import nn

from spikeloom.calibrate import batch_quantile, batches


class Two(nn.Module):
    def forward(self, x, y=None):
        return x


class Many(nn.Module):
    def forward(self, *xs):
        return xs


X, Y, LABEL = torch.zeros(4, 3), torch.ones(4, 3), torch.zeros(4)


@pytest.mark.parametrize(
    ("model", "data", "args", "kwargs"),
    [
        (nn.Linear(3, 2), X, (X,), {}),
        (nn.Linear(3, 2), [X], (X,), {}),
        (nn.Linear(3, 2), [(X, LABEL)], (X,), {}),
        (nn.Linear(3, 2), [[X, LABEL]], (X,), {}),
        (Two(), [(X, Y, LABEL)], (X, Y), {}),
        (Many(), [(X, Y, LABEL)], (X, Y, LABEL), {}),
        (Two(), [{"x": X, "y": Y}], (), {"x": X, "y": Y}),
        (Two(), {"x": X}, (), {"x": X}),
        (Two(), torch.utils.data.DataLoader(list(X), batch_size=4), (X,), {}),
    ],
)
def test_a_batch_becomes_the_arguments_of_a_call(model, data, args, kwargs):
    (found,) = batches(model, data)
    assert len(found.args) == len(args) and set(found.kwargs) == set(kwargs)
    assert all(torch.equal(a, b) for a, b in zip(found.args, args, strict=True))
    assert all(torch.equal(found.kwargs[name], kwargs[name]) for name in kwargs)


@pytest.mark.parametrize("data", [[], iter(())])
def test_no_batch_is_an_error(data):
    with pytest.raises(ValueError, match="calibration: holds no batch"):
        list(batches(Two(), data))


@pytest.mark.parametrize("data", [3, [None], ["images"], [()]])
def test_what_is_no_batch_is_an_error(data):
    with pytest.raises(TypeError, match="calibration"):
        list(batches(Two(), data))


@pytest.mark.parametrize("axes", [(0,), (0, 2), (1,), (0, 1, 2)])
@pytest.mark.parametrize("q", [1.0, 0.9, 0.5])
def test_quantile_is_the_magnitude_that_a_share_does_not_exceed(q, axes):
    values = torch.randn(11, 4, 7)
    found = batch_quantile(values, q, axes)
    below = (values.abs() <= found).float().mean(axes)
    count = torch.tensor([values.shape[axis] for axis in axes]).prod()
    assert torch.all((below >= q - 1e-6) & (below < q + 1 / count))


def test_without_axes_every_value_is_its_own():
    values = torch.tensor([-2.0, 1.0])
    assert torch.equal(batch_quantile(values, 1.0, ()), values.abs())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_an_error(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        batch_quantile(torch.tensor([1.0, bad]), 1.0, (0,))
