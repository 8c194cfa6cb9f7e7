"""Numbers and tensors as parameters: of any type, finite, in range."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikeloom.kernel.values import FINITE, POSITIVE, as_float, checked_number, checked_value


@pytest.mark.parametrize("number", [2, 2.0, np.float32(2), np.float64(2), np.int64(2)])
def test_numbers_of_any_type_become_python_s_floats(number):
    assert type(as_float(number)) is float and as_float(number) == 2.0


@pytest.mark.parametrize("value", [True, "2", None, (2.0,), 2j])
def test_what_is_no_number_stays_and_is_refused(value):
    assert as_float(value) is value
    with pytest.raises(TypeError, match=r"tau must be a number or a tensor, got"):
        checked_value("tau", value)


@given(st.floats(width=32))
def test_a_number_and_a_tensor_are_judged_alike(value):
    def refused(given):
        try:
            checked_value("x", given, *POSITIVE)
        except ValueError as error:
            assert str(error).startswith("x must be positive and finite, got ")
            return True
        return False

    tensor = torch.tensor([1.0, value])
    assert refused(value) == refused(tensor) == (not (math.isfinite(value) and value > 0))


def test_the_range_of_a_tensor_is_shown():
    with pytest.raises(ValueError, match="x must be positive and finite, got -1 to 3"):
        checked_value("x", torch.tensor([3.0, -1.0]), *POSITIVE)


def test_a_tensor_without_values_is_not_judged():
    tensor = torch.empty(3, device="meta")
    assert checked_value("x", tensor, *FINITE) is tensor


def test_a_number_alone_may_be_asked_for():
    with pytest.raises(TypeError, match="x must be a number, got tensor"):
        checked_number("x", torch.tensor(1.0))
