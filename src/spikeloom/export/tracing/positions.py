"""Where the elements of a tensor come from, after its axes were moved.

A label stands beside each element: which step, sample and feature of which module it is. What a
model does to the tensor's shape is done to the labels too, so permutations, reshapes, splits and
concatenations need no rules of their own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["Moved", "Numbers", "Term", "join", "move", "starts_of"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Term:
    """One module's share in a tensor.

    Attributes:
        source: The module's name.
        size: How many features it gives out at each step.
        labels: In the tensor's shape: ``(step * batch + sample) * size + feature``, and -1 where
            the module has no share.
    """

    source: str
    size: int
    labels: Tensor


@dataclass(frozen=True)
class Moved:
    """A tensor that is a sum of rearranged outputs of modules.

    Attributes:
        terms: The summands.
        by: The function that moved them first; empty if none did yet.
    """

    terms: tuple[Term, ...]
    by: str = ""

    @property
    def sources(self) -> frozenset[str]:
        """The modules whose outputs it holds."""
        return frozenset(term.source for term in self.terms)

    def keyed(self) -> dict[tuple[str, int, int], Tensor]:
        """The labels by source, its size, and how often it occurred before."""
        count = Counter[str]()
        found = {}
        for term in self.terms:
            found[term.source, term.size, count[term.source]] = term.labels
            count[term.source] += 1
        return found

    def firsts(self, batch: int) -> Iterator[tuple[str, int]]:
        """The sources, and the earliest step of each.

        Args:
            batch: The batch size.
        """
        for term in self.terms:
            yield term.source, int(term.labels[term.labels >= 0].min()) // (batch * term.size)

    def nothing(self) -> Tensor:
        """Labels of a tensor of the same shape in which no module has a share."""
        return torch.full_like(self.terms[0].labels, -1)

    def gaps(self) -> Tensor:
        """Where no module has a share."""
        return torch.stack([term.labels < 0 for term in self.terms]).all(0)


class Numbers:
    """Whole numbers in their order, as views of one tensor that grows when needed."""

    def __init__(self) -> None:
        self._known = torch.arange(0)

    def __call__(self, start: int, shape: Shape) -> Tensor:
        """The numbers from ``start`` on, in a shape."""
        end = start + math.prod(shape)
        if end > len(self._known):
            self._known = torch.arange(2 * end)
        return self._known[start:end].reshape(shape)


def move(function: Callable[..., Any], args: Any, kwargs: Any, by: str) -> list[Moved]:
    """Do to the labels what a function does to the tensors.

    Args:
        function: Changes places and no values.
        args: Its arguments, a :class:`Moved` in the place of each tensor that is followed.
        kwargs: Its keyword arguments, likewise.
        by: The function's name.

    Returns:
        What is known of each tensor that it returns; without terms if it holds nothing.
    """
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Moved)]
    keys = dict.fromkeys(key for moved in given for key in moved.keyed())
    found: list[list[Term]] = []
    # Sources that were summed lie alike, and so do their labels.
    done: dict[tuple[int, ...], list[Tensor]] = {}
    for key in keys:
        labels = [moved.keyed().get(key) for moved in given]
        places = tuple(-1 if part is None else id(part) for part in labels)
        if places not in done:
            done[places] = _labels_moved(function, args, kwargs, iter(labels))
        for place, result in enumerate(done[places]):
            if place == len(found):
                found.append([])
            found[place].append(Term(key[0], key[1], result))
    first = given[0].by or by
    return [Moved(tuple(_merged(terms)), first) for terms in found]


def _labels_moved(
    function: Callable[..., Any], args: Any, kwargs: Any, labels: Iterator[Tensor | None]
) -> list[Tensor]:
    def own(leaf: Any) -> Any:
        if not isinstance(leaf, Moved):
            return leaf
        mine = next(labels)
        return leaf.nothing() if mine is None else mine

    new_args, new_kwargs = tree_map(own, (args, kwargs))
    return list(tree_leaves(function(*new_args, **new_kwargs)))


def join(summands: Sequence[Moved]) -> Moved:
    """The sum of tensors of one shape."""
    terms = [term for moved in summands for term in moved.terms]
    return Moved(tuple(_merged(terms)), next((m.by for m in summands if m.by), ""))


def _merged(terms: Sequence[Term]) -> list[Term]:
    """The same terms, those of one source in one where they do not overlap, empty ones left out."""
    result: list[Term] = []
    for term in terms:
        if bool((term.labels < 0).all()):
            continue
        for place, other in enumerate(result):
            apart = other.source == term.source and (other.labels < 0) | (term.labels < 0)
            if isinstance(apart, Tensor) and bool(apart.all()):
                result[place] = replace(other, labels=torch.maximum(other.labels, term.labels))
                break
        else:
            result.append(term)
    return result


def starts_of(moved: Moved, shape: Shape, batch: int) -> tuple[tuple[str, int], ...] | None:
    """The sources and their first steps, where every element is in its place; else None.

    In its place means: consecutive steps, in each all samples, in each all features.

    Args:
        moved: What is known of a tensor.
        shape: Shape of the modules' outputs for one sample at one step.
        batch: The batch size.
    """
    lead = moved.terms[0].labels.shape[: moved.terms[0].labels.dim() - len(shape)]
    if tuple(moved.terms[0].labels.shape[len(lead) :]) != shape or math.prod(lead) % batch:
        return None
    if len(lead) not in (1, 2) or (len(lead) == 2 and lead[1] != batch):
        return None
    starts = {}
    for term in moved.terms:
        labels = term.labels.flatten()
        start, rest = divmod(int(labels[0]), batch * term.size)
        if rest or term.size != math.prod(shape) or term.source in starts:
            return None
        if not torch.equal(labels - labels[0], torch.arange(len(labels))):
            return None
        starts[term.source] = start
    return tuple(sorted(starts.items()))
