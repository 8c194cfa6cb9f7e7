"""Calls by which an operation does something else than usual."""

import pytest
import torch
import torch.nn.functional as F

from spikeloom.observe import Effect, meaning_of

X, COUNTS = torch.rand(1, 1, 4, 4), torch.tensor([1, 2])


def effect(operation, *args, **kwargs):
    """What the table says of a call, once it has run."""
    return meaning_of(operation).of_call(args, kwargs, operation(*args, **kwargs)).effect


aten = torch.ops.aten


@pytest.mark.parametrize(
    "operation, args, kwargs, expected",
    [
        (torch.Tensor.to, (X, torch.float64), {}, Effect.KEEPS),
        (torch.Tensor.to, (X, torch.int32), {}, Effect.ROUNDS),
        (torch.Tensor.to, (COUNTS, torch.int32), {}, Effect.KEEPS),
        (aten._to_copy.default, (X,), {"dtype": torch.int64}, Effect.ROUNDS),
        (torch.div, (X, 2.0), {}, Effect.MULTIPLIES),
        (torch.div, (X, 2.0), {"rounding_mode": "floor"}, Effect.ROUNDS),
        (F.avg_pool2d, (X, 2), {}, Effect.AVERAGES),
        (F.avg_pool2d, (X, 2), {"divisor_override": 1}, Effect.ADDS),
        (aten.avg_pool2d.default, (X, [2], [2], [0], False, True, 1), {}, Effect.ADDS),
        (torch.Tensor.view, (X, 16), {}, Effect.MOVES),
        (torch.Tensor.view, (X, torch.float32), {}, Effect.MOVES),
        (torch.Tensor.view, (X, torch.int32), {}, Effect.BITS),
        (torch.bitwise_and, (COUNTS, 1), {}, Effect.BITS),
        (torch.bitwise_and, (COUNTS > 1, COUNTS > 0), {}, Effect.TESTS),
    ],
)
def test_the_arguments_of_a_call_decide_its_effect(operation, args, kwargs, expected):
    assert effect(operation, *args, **kwargs) is expected


@pytest.mark.parametrize(
    "operation",
    [*(torch.max, torch.min, torch.median, torch.mode, torch.cummax, torch.cummin, torch.sort)],
)
def test_second_results_are_positions(operation):
    x = torch.tensor([[3.5, 1.5, 2.5]])
    args = (x,) if operation is torch.sort else (x, 1)
    results = operation(*args)
    dtypes = [results[i].dtype for i in meaning_of(operation).positions]
    assert dtypes == [torch.int64] and results[0].dtype is torch.float32


def test_one_operation_finds_values_by_their_place_in_memory():
    assert meaning_of("as_strided").by_memory and not meaning_of("view").by_memory
