"""A sequence as rows of neurons: what is copied, and that results do not depend on it."""

import pytest
import torch

from spikeloom import run
from spikeloom.kernel import layout
from spikeloom.neurons import LIF

T, SHAPE = 5, (3, 4, 2)
ONE_ROW = 3 * 4 * 2 * 4


@pytest.mark.parametrize("order", [(), (0, 2, 1)], ids=["own order", "channels last"])
@pytest.mark.parametrize("source", [(), (4, 1), (3, 1, 1)], ids=str)
def test_a_sequence_that_repeats_one_row_is_copied_as_one_row(source, order):
    x = torch.randn(source, generator=torch.Generator().manual_seed(1)).expand(T, *SHAPE)
    rows = layout.rows(x, order)
    assert layout.is_dense(rows)
    assert rows.untyped_storage().nbytes() == ONE_ROW
    assert torch.equal(rows, layout.ordered(x, order))


def test_a_sequence_with_dense_rows_is_not_copied():
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).expand(T, *SHAPE)
    assert layout.rows(x, ()) is x


@pytest.mark.parametrize("strides", [(1, 0), (0, 0)], ids=["every row", "one row"])
def test_a_copy_asks_for_huge_pages(strides, monkeypatch):
    asked = []
    monkeypatch.setattr(layout, "advise_huge_pages", asked.extend)
    x = torch.arange(2.0).as_strided((2, 1 << 19), strides)
    rows = layout.rows(x, ())
    assert [tensor.data_ptr() for tensor in asked] == [rows.data_ptr()]
    assert torch.equal(rows, x)


def spikes(x):
    return run(LIF(tau=3.0), x)[0]


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize(
    "loss",
    [
        lambda y: y.sum(),
        lambda y: y.mean(),
        lambda y: y.mean(0).square().sum(),
        lambda y: y.sum(0).square().sum(),
        lambda y: y.sum(1).square().sum(),
        lambda y: y.sum(-1).square().sum(),
        lambda y: y.sum((2, 3)).square().sum(),
    ],
    ids=["sum", "mean", "mean time", "sum time", "sum batch", "sum neurons", "sum positions"],
)
def test_a_repeated_gradient_gives_the_bits_of_its_contiguous_copy(loss, last):
    x = torch.randn(T, *SHAPE, generator=torch.Generator().manual_seed(2)) + 0.5
    x = x.transpose(2, 3).contiguous().transpose(2, 3) if last else x
    found, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    loss(spikes(found)).backward()
    y = spikes(expected)
    y.register_hook(lambda gradient: gradient.contiguous())
    loss(y).backward()
    assert torch.equal(found.grad, expected.grad)
    assert found.grad.any()
