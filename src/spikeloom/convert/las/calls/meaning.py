"""What a call of torch means to a converted network, by the table of operations."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from torch import Tensor

from spikeloom.convert.las.calls.composed import COMPOSED, SEVERAL, SLOPED
from spikeloom.observe import Effect, Operation, meaning_of
from spikeloom.observe.dialects import is_in_place
from spikeloom.observe.dialects import name_of as spelled

__all__ = ["called", "in_place", "is_scale", "is_watched", "passes", "with_arguments"]

# What spikes have to compute of activations.
COMPUTED = frozenset(
    {
        *(Effect.MULTIPLIES, Effect.WEIGHS, Effect.ATTENDS),
        *(Effect.ACTIVATES, Effect.REDUCES, Effect.NORMALISES),
    }
)
# What neither is nor makes a new value of a signal: it compares, chooses, describes.
PASSING = frozenset(
    {
        *(Effect.ORDERS, Effect.TESTS, Effect.RANKS, Effect.DECIDES, Effect.SELECTS, Effect.FIRES),
        *(Effect.LOOKS_UP, Effect.SCORES, Effect.MAKES, Effect.DESCRIBES),
    }
)
# Operations that a table knows by the name of another, of which they differ here.
REVERSED = {"__rdiv__": "rdiv", "__rtruediv__": "rdiv", "__rpow__": "rpow"}


@lru_cache(maxsize=4096)
def called(function: Any) -> str:
    """The name of what a function computes, however it is spelled."""
    written = spelled(function)
    if written in REVERSED:
        return REVERSED[written]
    operation = meaning_of(function)
    return written.strip("_") if operation is None else operation.name


def with_arguments(name: str, args: Any, kwargs: Any) -> str:
    """The name of a call, which is another one for arguments that ask for other spikes.

    A place has a spiking call for each: a helper may square, and multiply two values, in one line.

    Args:
        name: As :func:`called` returns it.
        args: The call's arguments.
        kwargs: Its keyword arguments.
    """
    if name == "mul" and len(args) == 2 and args[0] is args[1]:
        return "square"
    if name == "einsum":
        operands = args[1] if len(args) == 2 and isinstance(args[1], (list, tuple)) else args[1:]
        return SEVERAL if len(operands) > 2 else name
    if name == "softplus" and kwargs.get("beta", args[1] if len(args) > 1 else 1) != 1:
        return SLOPED
    return name


@lru_cache(maxsize=4096)
def in_place(function: Any) -> bool:
    """Whether a function writes its result into its first argument."""
    return is_in_place(spelled(function))


@lru_cache(maxsize=4096)
def is_watched(function: Any) -> bool:
    """Whether spikes have to compute a function of activations, or nothing is known of it."""
    operation = meaning_of(function)
    if operation is None:
        return True
    return operation.effect in COMPUTED or operation.name in COMPOSED  # as the larger of two


def passes(operation: Operation | None, args: Any, kwargs: Any, varies: Any) -> bool:
    """Whether spikes pass a call as it is.

    Args:
        operation: What is called, if it is known.
        args: Its arguments.
        kwargs: Its keyword arguments.
        varies: Whether a leaf among them is an activation.
    """
    if operation is None:
        return False
    if operation.effect in PASSING:
        return operation.name not in COMPOSED
    asked = (Effect.WEIGHS, Effect.NORMALISES, Effect.READS, Effect.LEAVES)
    return operation.effect not in asked and operation.is_affine(args, kwargs, varies)


def is_scale(name: str, args: Any) -> bool:
    """Whether a call multiplies or divides by a number."""
    if name == "div":
        return len(args) == 2 and not isinstance(args[1], Tensor)
    return name == "mul" and sum(isinstance(arg, Tensor) for arg in args) < 2
