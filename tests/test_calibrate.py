"""Calibration data in any form, and the magnitudes that layers reach."""

import pytest
import torch
from torch import nn

from spikeloom.calibrate import Batch, arguments_of, batch_quantile, batches, each_batch
from spikeloom.convert import LAS, SignGD


class One(nn.Module):
    def forward(self, x, gain=None, *, scale=1.0):
        return x


class Two(nn.Module):
    def forward(self, x, y, gain=None):
        return x


class Free(nn.Module):
    def forward(self, ids=None, mask=None, **more):
        return ids


class Single(nn.Module):
    def forward(self, x=None):
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
        (One(), [(X, LABEL)], (X,), {}),
        (One(), [(X, Y, LABEL)], (X,), {}),
        (One(), [{"x": X, "gain": Y}], (), {"x": X, "gain": Y}),
        (Two(), [(X, Y)], (X, Y), {}),
        (Two(), [(X, Y, LABEL)], (X, Y), {}),
        (Two(), {"x": X, "y": LABEL}, (), {"x": X, "y": LABEL}),
        (Free(), [X], (X,), {}),
        (Free(), [(X,)], (X,), {}),
        (Free(), [{"ids": X, "labels": LABEL}], (), {"ids": X, "labels": LABEL}),
        (Single(), [(X, LABEL)], (X,), {}),
        (Many(), [(X,)], (X,), {}),
        (Many(), [Batch((X, Y), {})], (X, Y), {}),
        (Many(), Batch((X, Y), {}), (X, Y), {}),
        (nn.Embedding(9, 2), torch.tensor([1, 2]), (torch.tensor([1, 2]),), {}),
        (One(), torch.utils.data.DataLoader(list(X), batch_size=4), (X,), {}),
    ],
)
def test_a_batch_becomes_the_arguments_of_a_call(model, data, args, kwargs):
    (found,) = batches(model, data)
    assert len(found.args) == len(args) and set(found.kwargs) == set(kwargs)
    assert all(torch.equal(a, b) for a, b in zip(found.args, args, strict=True))
    assert all(torch.equal(found.kwargs[name], kwargs[name]) for name in kwargs)


@pytest.mark.parametrize("recipe", [LAS(progress=False), SignGD(8)], ids=["LAS", "SignGD"])
def test_labels_behind_the_input_never_become_an_optional_argument(recipe):
    class Gained(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 8)
            self.rest = nn.Sequential(nn.GELU(), nn.Linear(8, 2))

        def forward(self, x, gain=None):
            current = self.first(x)
            return self.rest(current if gain is None else current * gain)

    model, x, labels = Gained().eval(), torch.randn(32, 3), torch.full((32, 1), 100.0)
    with torch.no_grad():
        alone = recipe.apply(model, [x])(x)
        assert torch.equal(recipe.apply(model, [(x, labels)])(x), alone)


def test_batches_come_one_by_one_and_as_they_are():
    pairs = [(X, LABEL), {"x": X}]
    assert all(found is given for found, given in zip(each_batch(pairs), pairs, strict=True))


@pytest.mark.parametrize("data", [[], iter(()), {}.values()])
def test_no_batch_is_an_error_that_tells_of_generators(data):
    with pytest.raises(
        ValueError, match=r"calibration: holds no batch; .* a list instead of a gen"
    ):
        list(batches(One(), data))


@pytest.mark.parametrize(
    "data, message",
    [
        (None, "must be a tensor, or a list or DataLoader of batches, got None"),
        (3, "must be a tensor, or a list or DataLoader of batches, got 3"),
        ([None], r"a batch must be a tensor, a tuple or a dict, got NoneType"),
        (["images"], "got str"),
        ([()], r"got \(\)"),
    ],
)
def test_what_is_no_batch_is_an_error(data, message):
    with pytest.raises(TypeError, match=f"^batches: .*{message}"):
        list(batches(One(), data, name="batches"))


@pytest.mark.parametrize(
    "model, batch, message",
    [
        (Two(), X, "Two needs the arguments x, y, a batch has 1; give tuples of 2"),
        (Free(), (X, Y), "a batch has 2 values, and Free.forward does not say"),
        (Many(), (X, LABEL), "a batch has 2 values, and Many.forward does not say"),
    ],
)
def test_values_that_cannot_be_told_apart_are_refused(model, batch, message):
    with pytest.raises(TypeError, match=f"^calibration: {message}"):
        arguments_of(model, batch)


@pytest.mark.parametrize("batch", [X[:0], (X[:0], LABEL[:0]), {"x": X[:0]}, (X, LABEL[:0])])
def test_an_empty_tensor_is_an_error(batch):
    model = Two() if isinstance(batch, tuple) else One()
    with pytest.raises(ValueError, match=r"calibration: a batch holds no sample, .*\(0,.*leave it"):
        list(batches(model, [batch]))


@pytest.mark.parametrize("batch", [X[0], (X[0], LABEL[0]), LABEL.sum(), torch.tensor(3)])
def test_an_input_without_a_batch_axis_is_an_error(batch):
    with pytest.raises(ValueError, match=r"calibration: a batch must have an axis .* x\[None\]"):
        list(batches(One(), [batch]))


def test_inputs_and_labels_that_are_not_paired_are_an_error():
    with pytest.raises(ValueError, match=r"inputs with labels are \[\(x, labels\)\]"):
        list(batches(One(), (X, LABEL)))


@pytest.mark.parametrize("axes", [(0,), (0, 2), (1,), (0, 1, 2)])
@pytest.mark.parametrize("q", [1.0, 0.9, 0.5])
def test_quantile_is_the_magnitude_that_a_share_does_not_exceed(q, axes):
    values = torch.randn(11, 4, 7)
    found = batch_quantile(values, q, axes)
    below = (values.abs() <= found).float().mean(axes)
    count = torch.tensor([values.shape[axis] for axis in axes]).prod()
    assert torch.all((below >= q - 1e-6) & (below < q + 1 / count))


def test_shares_are_taken_in_decimals():
    values = torch.arange(1.0, 101.0)
    found = [float(batch_quantile(values, percent / 100, (0,))) for percent in range(1, 101)]
    assert found == list(range(1, 101))  # in binary, 0.07 of 100 is 7.000...1


def test_without_axes_every_value_is_its_own():
    values = torch.tensor([-2.0, 1.0])
    assert torch.equal(batch_quantile(values, 1.0, ()), values.abs())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_an_error(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        batch_quantile(torch.tensor([1.0, bad]), 1.0, (0,))
