"""In which order the weights of a row leave: one by one, in rounds, or under an N:M pattern."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Order", "Pattern"]

# Widest layer whose weights are ordered one by one unless asked for.
EXACT_WIDTH = 1024
# Number of rounds that wider layers are ordered in.
ROUNDS = 16


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
    """How the weights of a row are ordered.

    Attributes:
        rounds: How many rounds lead to the wanted sparsity; 0: one by one.
        share: Share of a row's remaining weights that leaves in one round.
        groups: Which group each input belongs to, under a pattern.
        leaving: How many weights of a group leave, under a pattern.
    """

    rounds: int = 0
    share: float = 0.0
    groups: Tensor | None = None
    leaving: int = 0

    @classmethod
    def plan(
        cls, shape: Sequence[int], count: int, rounds: int | None, pattern: Pattern | None
    ) -> Order:
        """The order for a layer: exact up to a width of 1024, or as ``rounds`` says."""
        width = math.prod(shape[1:])
        if rounds is None:
            rounds = 0 if width <= EXACT_WIDTH or pattern else ROUNDS
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
            raise ValueError(
                f"rounds: must be 0 (one weight at a time) or a number of rounds, got {rounds!r}"
            )
        if pattern is not None:
            if rounds:
                raise ValueError("rounds: an N:M pattern is ordered one by one; use rounds=0")
            return cls(groups=pattern.groups(shape), leaving=pattern.of - pattern.keep)
        kept = max(1 - count / max(math.prod(shape), 1), 1 / max(width, 1))
        return cls(rounds, 1 - kept ** (1 / rounds)) if rounds else cls()

    def fixed_counts(self, gone: Tensor) -> Tensor:
        """How many weights of each row leave under a pattern, shape ``[rows]``.

        Args:
            gone: True where a weight has been removed before, shape ``[rows, d]``; a group that has
                lost more than the pattern asks for loses no other.
        """
        groups = torch.as_tensor(self.groups, device=gone.device)
        lost = gone.new_zeros(len(gone), int(groups.max()) + 1, dtype=torch.long)
        return lost.index_add(1, groups, gone.long()).clamp(min=self.leaving).sum(1)
