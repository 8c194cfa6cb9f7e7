"""The search for the few numbers that a whole network shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

__all__ = ["Setting", "best_setting"]

# What is tried, in order; a search moves from neighbour to neighbour.
GRID: dict[str, tuple[float, ...]] = {
    "margin": (0.6, 0.8, 1.0, 1.5, 2.5, 4.0, 6.0),
    "decay": (0.5, 0.6, 0.7, 0.8, 0.85, 0.9),
    "extreme": (0.0, 1.0),
    "caution": (0.0, 0.5, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0),
}
# The few samples at hand do not show the rare ones that need most. So a larger margin and more
# caution are taken if they cost this factor of the least squared error,
COST = 1.2
# or leave a relative squared error that is no matter.
NEGLIGIBLE = 1e-8


# The error of a setting; once it is sure to reach the limit, any number that does.
Trial = Callable[["Setting", float], float]


@dataclass(frozen=True)
class Setting:
    """What is chosen for the whole network.

    Attributes:
        margin: The path of a node as a multiple of its reach.
        decay: A step relative to the one before, once the steps shrink.
        caution: How many times the disturbance of its inputs a node's steps are at least.
        extreme: 1 if that disturbance is the one of the node's channel that feels most, 0 if it is
            the root mean square of all.
    """

    margin: float
    decay: float
    caution: float
    extreme: float = 0.0


def best_setting(
    starts: Sequence[Setting],
    fixed: Collection[str],
    error: Trial,
    *,
    progress: bool,
) -> Setting:
    """The most careful setting whose error is near the least.

    One number after the other moves while the error falls, until none does. Then margin and caution
    grow as long as that costs little.

    Args:
        starts: It begins at the best of these.
        fixed: Names of numbers that stay.
        error: What to minimise, a relative squared error. It gets a setting and a limit, and may
            return any number that is at least the limit once the error is sure to be.
        progress: Show a bar.
    """
    with tqdm(desc="signGD search", leave=False, delay=2.0, disable=not progress) as bar:
        known = _Known(error, bar.update)
        best, before = starts[0], None
        for start in starts[1:]:
            if known(start, known(best)) < known(best):
                best = start
        while best != before:
            before = best
            for name in GRID:
                if name not in fixed:
                    best = _least(best, name, known)
        allowed = max(COST * known(best), NEGLIGIBLE)
        for name in ("caution", "margin"):
            if name not in fixed:
                best = _largest(best, name, lambda setting: known(setting, allowed) < allowed)
    return best


class _Known:
    """Errors of settings, each found once; of those that are too large, only that they are.

    Args:
        error: Finds one.
        note: Called for each trial.
    """

    def __init__(self, error: Trial, note: Callable[[], Any]) -> None:
        self.error, self.note = error, note
        self.found: dict[Setting, tuple[float, float]] = {}

    def __call__(self, setting: Setting, limit: float = math.inf) -> float:
        """The error if it is below a limit; otherwise a number that is not."""
        found, sought = self.found.get(setting, (-math.inf, -math.inf))
        is_whole = found < sought
        if not is_whole and found < limit:
            self.note()
            found = self.error(setting, limit)
            found = found if found == found else math.inf  # NaN is worse than any number
            self.found[setting] = (found, limit)
        return found


def _least(start: Setting, name: str, error: _Known) -> Setting:
    """The setting of the least error that is reached by moving one number, step by step."""
    for ahead in _neighbours(start, name):
        best = start
        for candidate in ahead:
            if error(candidate, error(best)) >= error(best):
                break
            best = candidate
        if best != start:
            return best
    return start


def _largest(start: Setting, name: str, fits: Callable[[Setting], bool]) -> Setting:
    """The setting in which one number has grown as long as it fits."""
    larger, _ = _neighbours(start, name)
    for candidate in larger:
        if not fits(candidate):
            break
        start = candidate
    return start


def _neighbours(start: Setting, name: str) -> tuple[list[Setting], list[Setting]]:
    """Settings with a larger number, and those with a smaller one, from the nearest on."""
    place = GRID[name].index(getattr(start, name))
    larger, smaller = GRID[name][place + 1 :], GRID[name][:place][::-1]
    return _with(start, name, larger), _with(start, name, smaller)


def _with(start: Setting, name: str, values: Sequence[float]) -> list[Setting]:
    return [replace(start, **{name: value}) for value in values]
