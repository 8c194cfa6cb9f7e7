"""Calls by which an operation does something else than usual: their rules for the table.

A rule takes the arguments, those by name, and the result, which is None before the call has run.
It returns the call's effect; None if that is as usual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from spikeloom.observe.operation import Effect

__all__ = ["casts", "of_bits", "quotient", "reread", "window_sums"]


def casts(args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Effect | None:
    """A change of dtype that leaves out what is behind the point."""
    truncates = _is_real(args[0]) and isinstance(result, Tensor) and not _is_real(result)
    return Effect.ROUNDS if truncates else None


def quotient(args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Effect | None:
    """A quotient that is rounded."""
    return Effect.ROUNDS if kwargs.get("rounding_mode") is not None else None


def window_sums(args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Effect | None:
    """An average of windows with the divisor 1."""
    divisor = args[6] if len(args) > 6 else kwargs.get("divisor_override")
    return Effect.ADDS if divisor == 1 else None


def reread(args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Effect | None:
    """A view as another dtype."""
    other = next((x for x in (*args[1:], *kwargs.values()) if isinstance(x, torch.dtype)), None)
    return None if other in (None, args[0].dtype) else Effect.BITS


def of_bits(args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Effect | None:
    """An operation on the bits of whole numbers, which on truth values is a condition."""
    are_numbers = isinstance(result, Tensor) and result.dtype is not torch.bool
    return Effect.BITS if are_numbers else None


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
