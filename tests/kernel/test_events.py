"""Spikes as bits: packing, transposing, and sums of the rows that bits name."""

import itertools

import pytest
import torch

from spikeloom.kernel import events

SIZES = ((1, 1, 1), (5, 64, 16), (70, 65, 17), (3, 128, 300), (200, 1200, 131))
DTYPES = (torch.float32, torch.float64)


def spikes(rows, inputs, dtype, kind, density=0.2):
    """Rows of 0 and 1; signed; times an amplitude a row, with a silent row among them."""
    x = (torch.rand(rows, inputs) < density).to(dtype)
    if kind != "binary":
        x = x * torch.randn(rows, inputs).sign().to(dtype)
    if kind == "scaled":
        x = x * (torch.rand(rows, 1, dtype=dtype) + 0.1)
        x[rows // 2] = 0.0
    return x


CASES = list(itertools.product(SIZES, DTYPES, ("binary", "signed", "scaled")))


@pytest.mark.parametrize("size, dtype, kind", CASES)
def test_what_is_unpacked_is_what_was_packed(size, dtype, kind):
    torch.manual_seed(0)
    x = spikes(*size[:2], dtype, kind)
    packed, count = events.pack(x)
    assert count == x.count_nonzero()
    assert (packed.negative is None) == bool((x >= 0).all())
    assert torch.equal(events.unpack(packed), x)


@pytest.mark.parametrize("size", SIZES)
def test_transposed_bits_are_the_bits_of_the_transposed_input(size):
    torch.manual_seed(1)
    x = spikes(*size[:2], torch.float32, "binary")
    packed, _ = events.pack(x)
    expected, _ = events.pack(x.t().contiguous())
    assert torch.equal(events.transposed(packed.bits, x.shape[1]), expected.bits)


@pytest.mark.parametrize("size, dtype, kind", CASES)
def test_products_are_those_of_exact_numbers(size, dtype, kind):
    torch.manual_seed(2)
    rows, inputs, outputs = size
    x = spikes(rows, inputs, dtype, kind)
    weight, gy = torch.randn(outputs, inputs, dtype=dtype), torch.randn(rows, outputs, dtype=dtype)
    bias = torch.randn(outputs, dtype=dtype)
    packed, _ = events.pack(x)
    error = 1e-6 if dtype == torch.float32 else 1e-15
    for found, a, b, start in (
        (events.product(packed, weight, bias), x, weight.t(), bias),
        (events.weight_gradient(packed, gy), gy.t(), x, torch.zeros(())),
    ):
        exact = a.double() @ b.double() + start.double()
        size_of_terms = a.double().abs() @ b.double().abs() + start.double().abs()
        assert ((found - exact).abs() <= error * size_of_terms).all()


@pytest.mark.parametrize("kind", ("binary", "signed", "scaled"))
def test_sums_of_representable_values_have_the_bits_of_the_dense_product(kind):
    torch.manual_seed(3)
    x = spikes(300, 700, torch.float64, kind)
    if kind == "scaled":
        x = x.sign() * 0.25
    weight = torch.randint(-1024, 1024, (90, 700)).double() / 64
    gy = torch.randint(-1024, 1024, (300, 90)).double() / 64
    packed, _ = events.pack(x)
    assert torch.equal(events.product(packed, weight, None), x @ weight.t())
    assert torch.equal(events.weight_gradient(packed, gy), gy.t() @ x)


def test_a_sum_has_the_order_that_is_stated():
    """Runs of 512 inputs; in each the positive spikes in ascending order, then the negative."""
    torch.manual_seed(4)
    x = spikes(2, 1100, torch.float32, "signed", 0.5) * 0.3
    weight, bias = torch.randn(1, 1100), torch.randn(1)
    amplitude = x.abs().amax()
    packed, _ = events.pack(x)
    found = events.product(packed, weight, bias)
    for row in range(2):
        total = bias[0]
        for first in range(0, 1100, 512):
            inputs = range(first, min(first + 512, 1100))
            run = torch.zeros(())
            for sign in (1, -1):
                for k in inputs:
                    if sign * x[row, k] > 0:
                        run = run + sign * weight[0, k]
            total = total + run * amplitude
        assert found[row, 0] == total


def test_threads_change_no_bit(monkeypatch):
    torch.manual_seed(5)
    x = spikes(333, 129, torch.float32, "scaled")
    weight, gy = torch.randn(40, 129), torch.randn(333, 40)

    def results():
        packed, count = events.pack(x)
        back = events.unpack(packed), packed.bits, packed.negative, packed.amplitude
        return count, (
            *back,
            events.product(packed, weight, None),
            events.weight_gradient(packed, gy),
        )

    count, alone = results()
    monkeypatch.setattr(events, "WORTH_A_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    again, together = results()
    assert again == count
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("values", ([0.3, 1.0], [1.0, -0.5], [1.0, float("nan")], [1e-45, 1.0]))
def test_a_row_of_several_magnitudes_is_no_spikes(values):
    x = torch.zeros(3, 70)
    x[1, 60], x[1, 68] = values
    assert events.pack(x) is None


@pytest.mark.parametrize("value", (float("nan"), float("inf"), 0.3, 1e-45, -3e38))
def test_any_magnitude_counts_if_it_is_the_only_one(value):
    x = torch.zeros(3, 70)
    x[1, 3] = x[1, 68] = value
    x[2, 5] = 1.0
    packed, count = events.pack(x)
    assert count == 3
    torch.testing.assert_close(events.unpack(packed), x, rtol=0, atol=0, equal_nan=True)


def test_a_negative_zero_is_no_spike():
    x = torch.full((2, 70), -0.0)
    x[0, 1] = 1.0
    packed, count = events.pack(x)
    assert (count, packed.negative) == (1, None)
    assert torch.equal(events.unpack(packed), x)


def test_rows_may_lie_apart_or_be_the_same_memory():
    torch.manual_seed(6)
    x = spikes(12, 200, torch.float32, "binary")
    for rows in (x[::3], x[:, 5:150], x[:1].expand(9, 200)):
        packed, count = events.pack(rows)
        assert count == rows.count_nonzero()
        assert torch.equal(events.unpack(packed), rows)
