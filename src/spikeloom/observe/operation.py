"""What is said of an operation: its effect on values, and in which arguments it is affine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

__all__ = ["ACTIVE", "EVERY", "Effect", "InCall", "Operation"]


class Effect(Enum):
    """What an operation does to values."""

    KEEPS = auto()  #: Returns the same values in the same places.
    MOVES = auto()  #: Picks, repeats or rearranges values.
    PADS = auto()  #: Moves values and fills the rest with a constant.
    JOINS = auto()  #: Puts several tensors together.
    PLACES = auto()  #: Writes values into a part of a tensor.
    ADDS = auto()  #: Adds and subtracts.
    AVERAGES = auto()  #: Adds with fixed weights.
    MULTIPLIES = auto()  #: Multiplies or divides element by element.
    WEIGHS = auto()  #: Sums products, as a layer of weights does.
    ATTENDS = auto()  #: Weighs values by a softmax of products.
    ACTIVATES = auto()  #: Applies a nonlinear function.
    SELECTS = auto()  #: Returns some of the values that it compares or is told to choose from.
    REDUCES = auto()  #: Maps several values to one, neither by a sum nor by a choice.
    NORMALISES = auto()  #: Divides by a deviation or a norm.
    ROUNDS = auto()  #: Is piecewise constant, or nearly so.
    ORDERS = auto()  #: Compares sizes.
    TESTS = auto()  #: Is a condition of another kind.
    RANKS = auto()  #: Returns positions that depend on the values.
    FIRES = auto()  #: Runs a spiking neuron.
    DRAWS = auto()  #: Is random.
    DROPS = auto()  #: Is random in training, and keeps values in evaluation.
    BITS = auto()  #: Computes with the bits by which numbers are stored.
    LOOKS_UP = auto()  #: Reads a table at given rows.
    SCORES = auto()  #: Is a loss.
    MAKES = auto()  #: Returns values that depend on no others, unless it is told values by tensors.
    DESCRIBES = auto()  #: Tells something about a tensor, not about its values.
    DECIDES = auto()  #: Tells Python whether something holds for the values.
    READS = auto()  #: Tells Python a value.
    LEAVES = auto()  #: Hands out a tensor's memory, or a copy of it, to what is not torch.


# What these make of real values is not affine in them, or only while all but one are constant.
ACTIVE = frozenset(
    {
        *(Effect.MULTIPLIES, Effect.WEIGHS, Effect.ATTENDS, Effect.ACTIVATES),
        *(Effect.SELECTS, Effect.REDUCES, Effect.NORMALISES),
    }
)


class _Every:
    """Stands for all positions of an operation's arguments."""

    def __contains__(self, position: object) -> bool:
        return True

    def __repr__(self) -> str:
        return "EVERY"


EVERY = _Every()
Positions = tuple[int, ...] | _Every
# From a call's arguments, those by name and its result to its effect, if that is not the usual one.
InCall = Callable[[Sequence[Any], Mapping[str, Any], Any], Effect | None]


@dataclass(frozen=True)
class Operation:
    """What an operation does.

    Attributes:
        name: Its name, without namespace, overload and in-place underscore; with the namespace,
            as ``"mylib::op"``, for an operation that is not torch's.
        effect: What it does to values.
        addends: Positions of the arguments in which it is affine together, :data:`EVERY` for all.
            If the operation chooses, those that it chooses from.
        factors: Positions of the arguments that it multiplies with each other: it is affine in
            each of them while the others are constant.
        ignores: Positions of tensors whose values do not matter, such as a pattern.
        bounds: For a choice between a value and limits: the limits where the call states none.
        is_partial: Whether it is infinite or undefined for some finite values, or grows like an
            exponential.
        domain: The position of the argument that has to lie in a range, and the range's ends.
        ranks: Whether it tells the order of values, by which a program may choose what to run.
        positions: Which of several results are positions instead of values.
        by_memory: Whether it finds values by where they lie in memory.
        in_call: For an operation whose effect depends on its arguments: what tells the effect of a
            call, or None where it is the usual one. See :meth:`of_call`.
    """

    name: str
    effect: Effect
    addends: Positions = ()
    factors: Positions = ()
    ignores: tuple[int, ...] = ()
    bounds: tuple[float, ...] | None = None
    is_partial: bool = False
    domain: tuple[int, float, float] | None = None
    ranks: bool = False
    positions: tuple[int, ...] = ()
    by_memory: bool = False
    in_call: InCall | None = None

    def of_call(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any = None
    ) -> Operation:
        """What the operation does in one call.

        Args:
            args: The call's arguments.
            kwargs: Its keyword arguments.
            result: What it returned; None before it has run, when the dtype of the result is not
                known and casts count as usual.

        Example:
            >>> import torch
            >>> from spikeloom.observe import meaning_of
            >>> x, division = torch.ones(3), meaning_of(torch.div)
            >>> division.of_call((x, 2), {}).effect.name
            'MULTIPLIES'
            >>> division.of_call((x, 2), {"rounding_mode": "floor"}).effect.name
            'ROUNDS'
        """
        effect = None if self.in_call is None else self.in_call(args, kwargs, result)
        return self if effect in (None, self.effect) else replace(self, effect=effect)

    def is_affine(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], varies: Callable[[Any], bool]
    ) -> bool:
        """Whether a call's result is affine in those of its arguments that vary.

        Args:
            args: The call's arguments.
            kwargs: Its keyword arguments.
            varies: Whether a leaf among them varies.
        """
        if kwargs.get("rounding_mode") is not None:
            return False
        if self.addends is EVERY:
            return True
        if any(varies(leaf) for leaf in tree_leaves(kwargs)):
            return False
        varying_factors = 0
        for position, arg in enumerate(args):
            count = sum(varies(leaf) for leaf in tree_leaves(arg))
            if not count or position in self.addends or position in self.ignores:
                continue
            if position not in self.factors:
                return False
            varying_factors += count
        return varying_factors <= 1

    def read(self, args: Sequence[Any]) -> list[Any]:
        """The arguments whose values matter to a call.

        Args:
            args: The call's arguments.
        """
        return [arg for position, arg in enumerate(args) if position not in self.ignores]

    def chosen(self, args: Sequence[Any]) -> list[Any]:
        """The arguments whose values a call passes on: tensors, and numbers to choose from.

        Args:
            args: The call's arguments.
        """
        if self.addends is EVERY or not self.addends:
            return [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        return [args[position] for position in self.addends if position < len(args)]  # type: ignore[union-attr]  # no EVERY
