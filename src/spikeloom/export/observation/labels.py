"""Where the elements of a tensor come from, after its axes were moved.

A label stands beside each element: which step, sample and feature of which module it is. What a
model does to the tensor's shape is done to the labels too, so permutations, reshapes, splits and
concatenations need no rules of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from spikeloom.export.weights import layer_key

__all__ = [
    "Mixed",
    "Moved",
    "Term",
    "Wire",
    "join",
    "labels_after",
    "lift",
    "move",
    "row_axes",
    "rows_of",
    "unmoved",
]

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
        by: The function that moved them first.
    """

    terms: tuple[Term, ...]
    by: str

    @property
    def sources(self) -> frozenset[str]:
        """The modules whose outputs it holds."""
        return frozenset(term.source for term in self.terms)

    def nothing(self) -> Tensor:
        """Labels of a tensor of the same shape in which no module has a share."""
        return torch.full_like(self.terms[0].labels, -1)


@dataclass(frozen=True)
class Wire:
    """How one source reaches the rows on which a layer acts, at each step and in each sample.

    Attributes:
        source: The source's name.
        shape: How many rows there are, and how long they are.
        data: The source's feature for each entry, -1 where it has no share, as int64.
    """

    source: str
    shape: tuple[int, int]
    data: bytes

    @classmethod
    def of(cls, source: str, index: Tensor) -> Wire:
        """From an index of shape ``[rows, length]``."""
        return cls(source, (index.shape[0], index.shape[1]), index.numpy().tobytes())

    @property
    def index(self) -> Tensor:
        """The features, of shape ``[rows, length]``."""
        return torch.frombuffer(bytearray(self.data), dtype=torch.int64).reshape(self.shape)


def lift(sources: Iterable[str], size: int, like: Tensor, by: str) -> Moved:
    """The sum of some modules' outputs, before anything was moved.

    Args:
        sources: The modules' names.
        size: How many features each gives out.
        like: The tensor, steps and samples in front.
        by: The function that will move them.
    """
    labels = torch.arange(like.numel()).reshape(like.shape)
    return Moved(tuple(Term(source, size, labels) for source in sorted(sources)), by)


def move(function: Callable[..., Any], args: Any, kwargs: Any) -> list[Moved]:
    """Do to the labels what a function does to the tensors.

    Args:
        function: Changes shapes and no values.
        args: Its arguments, a :class:`Moved` in the place of each tensor that is followed.
        kwargs: Its keyword arguments, likewise.

    Returns:
        What is known of each tensor that it returns.
    """
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Moved)]
    found: list[list[Term]] = []
    for owner, moved in enumerate(given):
        for term in moved.terms:
            turn = iter(range(len(given)))

            def labels(leaf: Any, term: Term = term, owner: int = owner, turn: Any = turn) -> Any:
                if not isinstance(leaf, Moved):
                    return leaf
                return term.labels if next(turn) == owner else leaf.nothing()

            new_args, new_kwargs = tree_map(labels, (args, kwargs))
            for place, result in enumerate(tree_leaves(function(*new_args, **new_kwargs))):
                if place == len(found):
                    found.append([])
                found[place].append(replace(term, labels=result))
    return [Moved(tuple(_merged(terms)), given[0].by) for terms in found]


def join(summands: Sequence[Moved]) -> Moved:
    """The sum of tensors of one shape."""
    terms = [term for moved in summands for term in moved.terms]
    return Moved(tuple(_merged(terms)), summands[0].by)


def _merged(terms: Sequence[Term]) -> list[Term]:
    """The same terms, those of one source in one where they do not overlap, empty ones left out."""
    result: list[Term] = []
    for term in terms:
        if bool((term.labels < 0).all()):
            continue
        for place, other in enumerate(result):
            apart = ((other.labels < 0) | (term.labels < 0)).all()
            if other.source == term.source and bool(apart):
                result[place] = replace(other, labels=torch.maximum(other.labels, term.labels))
                break
        else:
            result.append(term)
    return result


def unmoved(moved: Moved, shape: Shape, batch: int) -> bool:
    """Whether every element is where the modules left it: steps, samples, then all features.

    Args:
        moved: What is known of a tensor.
        shape: Shape of the modules' outputs for one sample at one step.
        batch: The batch size.
    """
    first = moved.terms[0].labels
    lead = tuple(first.shape[: first.dim() - len(shape)])
    if tuple(first.shape[len(lead) :]) != shape or math.prod(lead) % batch:
        return False
    if len(lead) not in (1, 2) or (len(lead) == 2 and lead[1] != batch):
        return False
    return all(term.size == math.prod(shape) and _in_order(term, batch) for term in moved.terms)


def _in_order(term: Term, batch: int) -> bool:
    labels = term.labels.flatten()
    start = labels[0]
    begins_a_step = bool(start >= 0) and not int(start) % (batch * term.size)
    return begins_a_step and torch.equal(labels - start, torch.arange(len(labels)))


def row_axes(module: nn.Module) -> tuple[int, ...] | None:
    """The axes that a linear layer works along; it does the same along all others.

    Args:
        module: The layer.

    Returns:
        Axes counted from the end, None for a layer that is not linear.
    """
    name = layer_key(module)
    if name == "Linear":
        return (-1,)
    if name not in ("Conv1d", "Conv2d", "AvgPool2d"):
        return None
    spatial = 1 if name == "Conv1d" else 2
    # A kernel of one element mixes channels at each place by itself, whatever lies along the map.
    if name.startswith("Conv") and _is_pointwise(module):
        return (-1 - spatial,)
    return tuple(range(-1 - spatial, 0))


def _is_pointwise(conv: Any) -> bool:
    plain = (set(conv.kernel_size), set(conv.stride), conv.groups) == ({1}, {1}, 1)
    return plain and (conv.padding in ("same", "valid") or not any(conv.padding))


class Mixed(Exception):
    """Rows that hold values of several steps or samples."""


def rows_of(
    moved: Moved, axes: tuple[int, ...], batch: int
) -> tuple[list[tuple[str, Tensor]], Tensor, int]:
    """A layer's input as the rows it acts on, gathered for each step and sample.

    Args:
        moved: What is known of the input.
        axes: The axes along which it works; empty for a layer that works on each element.
        batch: The batch size.

    Returns:
        For each term its source and the index ``[rows, length]``; for each row of the input its
        number ``(step * batch + sample) * rows + row``; and the number of steps.

    Raises:
        Mixed: If a row holds several steps or samples, if these differ in more than that, or there
            is no row.
    """
    terms = [(term, _rows(term.labels, axes)) for term in moved.terms]
    when = torch.stack([_when(rows, term.size) for term, rows in terms])
    if not bool(((when == when.amax(0)) | (when < 0)).all()) or bool((when.amax(0) < 0).any()):
        raise Mixed
    when = when.amax(0)
    if not len(when):
        raise Mixed
    when = when - when.min() // batch * batch
    order = when.argsort(stable=True)
    moments = int(when.max()) + 1
    count, rest = divmod(len(when), moments)
    if (
        rest
        or moments % batch
        or not torch.equal(when[order], torch.arange(moments).repeat_interleave(count))
    ):
        raise Mixed
    found = []
    for term, rows in terms:
        index = torch.where(rows < 0, rows, rows % term.size)[order].unflatten(0, (moments, count))
        if not bool((index == index[0]).all()):
            raise Mixed
        found.append((term.source, index[0].contiguous()))
    numbers = torch.empty_like(order)
    numbers[order] = torch.arange(len(order))
    return found, numbers, moments // batch


def _rows(labels: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Labels as ``[rows, length]``."""
    if not axes:
        return labels.reshape(-1, 1)
    return labels.movedim(axes, tuple(range(-len(axes), 0))).flatten(-len(axes)).flatten(0, -2)


def _when(rows: Tensor, size: int) -> Tensor:
    """The moment that each row belongs to; -1 for an empty one.

    Raises:
        Mixed: If there are several in one row.
    """
    moments = torch.where(rows < 0, rows, rows // size)
    latest = moments.amax(1)
    if not bool(((moments == latest[:, None]) | (moments < 0)).all()):
        raise Mixed
    return latest


def labels_after(numbers: Tensor, y: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The labels of a layer's output, whose features are row after row.

    Args:
        numbers: The number of each row, from :func:`rows_of`.
        y: The output.
        axes: The axes along which the layer works.
    """
    ends = tuple(range(-len(axes), 0))
    lengths = [y.shape[axis] for axis in axes]
    features = torch.arange(math.prod(lengths))
    labels = numbers[:, None] * len(features) + features
    moved = y.movedim(axes, ends) if axes else y
    labels = labels.reshape(moved.shape)
    return labels.movedim(ends, axes) if axes else labels
