"""A power of two is split off by comparisons as it is by bits."""

import pytest
import torch

from spikeloom.neurons import octaves_by_bits, octaves_by_comparison


def numbers(dtype):
    """Every magnitude of normal numbers, both signs, powers of two and their neighbours."""
    info = torch.finfo(dtype)
    generator = torch.Generator().manual_seed(0)
    bits = torch.int32 if dtype == torch.float32 else torch.int64
    limits = torch.iinfo(bits)
    drawn = torch.randint(limits.min, limits.max, (20_000,), dtype=bits, generator=generator)
    drawn = drawn.view(dtype)
    exponent = torch.arange(-140.0, 130.0, dtype=dtype).exp2()
    x = torch.cat([drawn, exponent, exponent.nextafter(0 * exponent), -exponent])
    ends = torch.tensor([0.0, float("inf"), info.tiny, info.max], dtype=dtype)
    return torch.cat([x[(x.abs() >= info.tiny) & x.isfinite()], ends])


def positive(x):
    return x[(x > 0) & x.isfinite()]


SPLITS = {
    "mantissa_and_scale": lambda by, x: by.mantissa_and_scale(x),
    "logarithm": lambda by, x: (by.logarithm(x.abs()),),
    "sqrt": lambda by, x: by.even_parts(x[x.isfinite()], 1),
    "rsqrt": lambda by, x: by.even_parts(x[x.isfinite()], -1),
    "sqrt of positive": lambda by, x: by.even_parts(positive(x), 1),
    "rsqrt of positive": lambda by, x: by.even_parts(positive(x), -1),
    "whole_and_rest": lambda by, x: by.whole_and_rest(x[x.abs() < 1e4]),
    "whole_and_rest of small": lambda by, x: by.whole_and_rest(torch.linspace(-140, 140, 5001)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("split", SPLITS)
def test_comparisons_find_the_powers_of_two_that_bits_hold(split, dtype):
    x = numbers(dtype)
    found, expected = (SPLITS[split](by, x) for by in (octaves_by_comparison, octaves_by_bits))
    for value, wanted in zip(found, expected, strict=True):
        assert value.dtype == wanted.dtype
        assert torch.equal(value.nan_to_num(7.5), wanted.nan_to_num(7.5))


def test_a_mantissa_of_no_number_is_none():
    nan, by = torch.tensor([float("nan")]), octaves_by_comparison
    for mantissa, _ in (by.mantissa_and_scale(nan), by.even_parts(nan, 1), by.whole_and_rest(nan)):
        assert mantissa.isnan()
