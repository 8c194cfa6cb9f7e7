"""In which order the weights of a row leave: one by one, in rounds, or under an N:M pattern."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["EFFORTS", "Order", "Pattern"]

# Rounds in which weights leave (0: one by one); steps of compensation after each but the last, and
# after the last.
EFFORTS = {"exact": (0, 0, 0), "balanced": (24, 2, 100), "fast": (2, 1, 3)}
# Share of the weights that all rounds together remove; where fewer leave, fewer rounds do as well.
ALL_ROUNDS = 0.9
# Up to this width, one by one costs little more than "balanced".
EXACT_WIDTH = 512
# The smaller, the more weights leave in the first rounds, where most of them cost next to nothing.
HASTE = 0.4


@dataclass(frozen=True)
class Pattern:
    """At most ``keep`` weights stay among each ``of`` neighbours of a row.

    Args:
        keep: How many stay.
        of: Size of a group of neighbouring inputs.

    Raises:
        ValueError: If not 0 < keep < of.
    """

    keep: int
    of: int

    def __post_init__(self) -> None:
        if not 0 < self.keep < self.of:
            raise ValueError(f"pattern: must be N:M with 0 < N < M, got {self}")

    @classmethod
    def parse(cls, text: str | Pattern) -> Pattern:
        """A pattern from text such as ``"2:4"``."""
        if isinstance(text, Pattern):
            return text
        parts = str(text).split(":")
        if len(parts) != 2 or not all(part.isdigit() for part in parts):
            raise ValueError(f"pattern: must be text such as '2:4', got {text!r}")
        return cls(int(parts[0]), int(parts[1]))

    def __str__(self) -> str:
        return f"{self.keep}:{self.of}"

    def groups(self, shape: Sequence[int]) -> Tensor:
        """Which group each weight of a row belongs to; neighbours are input channels.

        Args:
            shape: Shape of the layer's weight, ``[rows, C, *kernel]``.

        Returns:
            Shape ``[d]``, in the order of ``weight.flatten(1)``.

        Raises:
            ValueError: If the groups do not divide the input channels.
        """
        channels, taps = shape[1], math.prod(shape[2:])
        if channels % self.of:
            raise ValueError(
                f"pattern: {self} does not divide {channels} inputs; leave the layer out"
            )
        group = torch.arange(channels)[:, None] // self.of * taps + torch.arange(taps)
        return group.flatten()

    def check_count(self, weights: int, count: int | None) -> int:
        """How many of a layer's weights it removes; raises if that is not the count given."""
        fixed = weights * (self.of - self.keep) // self.of
        if count not in (None, fixed):
            raise ValueError(f"count: pattern {self} removes {fixed} weights, got {count}")
        return fixed


@dataclass(frozen=True, eq=False)
class Order:
    """How the weights of a layer leave.

    Attributes:
        rounds: How many rounds lead to the wanted sparsity; 0: one by one.
        steps: Steps of compensation after each round but the last.
        last: Steps after the last round, at most.
        groups: Which group each input belongs to, under a pattern.
        leaving: How many weights of a group leave, under a pattern.
    """

    rounds: int = 0
    steps: int = 0
    last: int = 0
    groups: Tensor | None = None
    leaving: int = 0

    @classmethod
    def plan(cls, shape: Sequence[int], count: int, effort: str, pattern: Pattern | None) -> Order:
        """The order for a layer: ``"balanced"`` is exact up to a width of 512."""
        if effort not in EFFORTS:
            known = ", ".join(map(repr, EFFORTS))
            raise ValueError(f"effort: must be one of {known}, got {effort!r}")
        if effort == "balanced" and math.prod(shape[1:]) <= EXACT_WIDTH:
            effort = "exact"
        rounds, steps, last = EFFORTS[effort]
        share = count / max(math.prod(shape), 1)
        rounds = min(rounds, max(1, math.ceil(rounds * (share / ALL_ROUNDS) ** 0.5)))
        if pattern is None:
            return cls(rounds, steps, last)
        return cls(rounds, steps, last, pattern.groups(shape), pattern.of - pattern.keep)

    @property
    def name(self) -> str:
        """What a report calls it."""
        return f"{self.rounds} rounds" if self.rounds else "exact"

    def schedule(self, before: int, after: int) -> list[int]:
        r"""How many weights of a layer stay after each round.

        .. math:: k_r = k_0\, (k_R / k_0)^{(r / R)^{0.4}}
        """
        share = max(after, 1) / max(before, 1)
        early = [(r / self.rounds) ** HASTE for r in range(1, self.rounds)]
        kept = [max(after, round(before * share**part)) for part in early] + [after]
        return [count for count in dict.fromkeys(kept) if count < before]

    def fixed_counts(self, gone: Tensor) -> Tensor:
        """How many weights of each row leave under a pattern, shape ``[rows]``.

        Args:
            gone: True where a weight has been removed before, shape ``[rows, d]``; a group that has
                lost more than the pattern asks for loses no other.
        """
        groups = torch.as_tensor(self.groups, device=gone.device)
        lost = gone.new_zeros(len(gone), int(groups.max()) + 1, dtype=torch.long)
        return lost.index_add(1, groups, gone.long()).clamp(min=self.leaving).sum(1)

    def kept_by_pattern(self, costs: Tensor) -> Tensor:
        """True for all but the cheapest of each group, shape ``[rows, d]``."""
        # Sort by cost, then, keeping that, by group: each group becomes a run from small to large.
        groups = torch.as_tensor(self.groups, device=costs.device)
        by_cost = costs.argsort(dim=1, stable=True)
        runs = by_cost.gather(1, groups[by_cost].argsort(dim=1, stable=True))
        of = costs.shape[1] // (int(groups.max()) + 1)
        kept = runs.unflatten(1, (-1, of))[..., self.leaving :].flatten(1)
        return torch.zeros_like(costs, dtype=torch.bool).scatter_(1, kept, True)
