"""The record of a trace: what each tensor carries, and which modules it passed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from spikeloom.export.tracing.feature_rows import Rows, Wire, rows_of
from spikeloom.export.tracing.positions import Moved, Numbers, Term, join, starts_of
from spikeloom.export.tracing.signals import Signal, Site

__all__ = ["REMEDY", "STATE", "Record", "tensors_in"]

REMEDY = "write it with modules that NIR knows"
# The kind of a site that stands for what a neuron remembers.
STATE = "state"

Shape = tuple[int, ...]
Known = Signal | Moved


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors among a function's arguments or results.

    Args:
        tree: Nested tuples, lists and dicts.
    """
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class Record:
    """What is known so far.

    Args:
        steps: T, the number of steps of the sample.
        batch: Its batch size.
        root: Name and class of the model.

    Attributes:
        sites: By name, in the order in which they first ran.
        path: The user's modules that are running, the innermost last.
        quiet: Whether what happens now is a module's own affair.
        passing: Modules that pass on a signal whose axes were moved.
        decided: The functions by which the model looked at values.
        left: The operations through which values left the signals.
        unwritten: How many signals the model returns besides its output.
    """

    def __init__(self, steps: int, batch: int, root: str) -> None:
        self.T, self.B, self.root = steps, batch, (root, root)
        self.sites: dict[str, Site] = {}
        self.path: list[tuple[str, str]] = []
        self.quiet = False
        self.passing: dict[str, None] = {}
        self.decided: dict[str, None] = {}
        self.left: dict[str, None] = {}
        self.unwritten = 0
        self._known = WeakTensorKeyDictionary()
        self._numbers = Numbers()

    # --- tensors

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor in self._known

    def followed(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Those tensors that descend from the model's input."""
        return [tensor for tensor in tensors if tensor in self._known]

    def put(self, tensor: Tensor, known: Known) -> None:
        """Note what a tensor carries now."""
        self._known[tensor] = (known, tensor._version)

    def check(self, tensors: Iterable[Tensor]) -> None:
        """Block tensors that were changed through others which share their memory."""
        for tensor in self.followed(tensors):
            if tensor._version != self._known[tensor][1]:
                reason = "is changed in place through another tensor that shares its memory"
                self.obstruct("write", [tensor], [tensor], reason, "make a new tensor instead")

    def draft_of(self, tensor: Tensor) -> Known:
        """What a tensor carries that may not be written to the end."""
        known: Known = self._known[tensor][0]
        return known

    def of(self, tensor: Tensor) -> Any:
        """What a tensor carries; where that is nothing it must hold zeros."""
        known = self.draft_of(tensor)
        if isinstance(known, Moved) and bool((known.gaps() & (tensor != 0)).any()):
            reason, remedy = "is written into a tensor of other numbers", "write into torch.zeros"
            self.obstruct("write", [tensor], [tensor], reason, remedy, derived=False)
        return self.draft_of(tensor)

    def is_state(self, known: Known) -> bool:
        """Whether something is the state of a neuron, which left it."""
        return any(self.sites[source].kind == STATE for source in known.sources)

    def rank(self, tensor: Tensor) -> int:
        """How many axes stand in front of a signal's own: 2 for time and batch."""
        return tensor.dim() - len(self.of(tensor).shape)

    def steps_in(self, tensor: Tensor, shape: Shape) -> int:
        """How many time steps of such signals a tensor holds; 0 if it holds something else."""
        rank = tensor.dim() - len(shape)
        lead = tuple(tensor.shape[:rank])
        if rank not in (1, 2) or tuple(tensor.shape[rank:]) != shape:
            return 0
        if rank == 2:
            return lead[0] if lead[1] == self.B else 0
        steps, rest = divmod(lead[0], self.B)
        return 0 if rest else steps

    # --- places in the graph

    def lifted(self, tensor: Tensor) -> Moved:
        """What a tensor carries, element by element."""
        known = self.of(tensor)
        if isinstance(known, Moved):
            return known
        size, shape = math.prod(known.shape), tuple(tensor.shape)
        firsts = {start for _, start in known.starts}
        labels = {first: self._numbers(first * self.B * size, shape) for first in firsts}
        return Moved(tuple(Term(source, size, labels[start]) for source, start in known.starts))

    def settled(self, moved: Moved) -> Known:
        """A plain signal, if everything is where the modules gave it out."""
        shapes = {self.sites[source].shape_out for source in moved.sources}
        shape = shapes.pop()
        starts = None if shapes else starts_of(moved, shape, self.B)
        return moved if starts is None else Signal(starts, shape)

    def settle(self, y: Tensor, rank: int) -> None:
        """Give what was moved a place of its own in the graph.

        Args:
            y: The tensor.
            rank: How many axes stand in front of its features.
        """
        moved = self.of(y) if y in self else None
        if isinstance(moved, Moved):
            shape = tuple(y.shape[rank:])
            rows = rows_of(moved, (), self.B)
            site, signal = self.operation(moved.by, rows.starts, (), shape)
            if rank == 2 and not rows.problem and rows.steps != self.T:
                reason = (
                    f"the function {moved.by} puts {rows.steps} of {self.T} steps at all places"
                )
                site.block(reason, "return every step in its place")
            self.receive(site, moved, rows, shape)
            self.put(y, signal)

    def receive(self, site: Site, moved: Moved, rows: Rows, shape: Shape) -> None:
        """Note how moved features reach a site that works on each of them."""
        if rows.problem:
            site.block(f"{rows.problem}, by the function {moved.by}", REMEDY)
        elif not torch.equal(rows.numbers, torch.arange(len(rows.numbers))):
            reason = f"the function {moved.by} leaves other axes in front of time and samples"
            site.block(reason, "move them back before the next layer")
        self.wire(site, rows.wires, shape, shape)

    @staticmethod
    def wire(site: Site, wires: tuple[Wire, ...], shape_in: Shape, shape_out: Shape) -> None:
        """Note on which features of its sources a site acts, the same at every call."""
        found = (wires, shape_in, shape_out)
        if len(set(wires)) < len(wires):
            site.block("receives a signal twice", "double the weights")
        if site.wires and found != (site.wires, site.shape_in, site.shape_out):
            site.block("sees inputs of different order", "use one module for each place")
        site.wires, site.shape_in, site.shape_out = found

    def flattened(self, moved: Moved) -> Signal | None:
        """A signal whose features only lost their axes, as NIR's Flatten; None if it is not."""
        shapes = {self.sites[source].shape_out for source in moved.sources}
        size = math.prod(shape := shapes.pop())
        starts = None if shapes else starts_of(moved, (size,), self.B)
        if starts is None or len(shape) < 2:
            return None
        return self.operation("flatten", starts, shape, (size,))[1]

    def sum_of(self, tensors: list[Tensor]) -> Known:
        """The sum of tensors of one shape."""
        return self.settled(join([self.lifted(tensor) for tensor in tensors]))

    # --- obstacles

    def obstruct(
        self,
        name: str,
        tensors: list[Tensor],
        outputs: list[Tensor],
        reason: str,
        remedy: str = REMEDY,
        derived: bool = True,
    ) -> Site:
        """Block what a function returns.

        Args:
            name: The function's name.
            tensors: Its arguments.
            outputs: Its results.
            reason: Why it cannot be exported.
            remedy: What to do about it.
            derived: Whether an obstacle before it may be the cause.
        """
        followed = self.followed(tensors)
        starts = dict(start for t in reversed(followed) for start in self._starts(t))
        x = followed[0]
        known = self.draft_of(x)
        shape = known.shape if isinstance(known, Signal) else tuple(x.shape[1:])
        rank = x.dim() - len(shape)
        site, signal = self.operation(name, sorted(starts.items()), shape, shape)
        site.block(reason, remedy, derived)
        for y in outputs:
            kept = rank if y.shape[:rank] == x.shape[:rank] else 1
            site.shape_out = tuple(y.shape[kept:])
            self.put(y, replace(signal, shape=site.shape_out))
        return site

    def _starts(self, tensor: Tensor) -> Iterable[tuple[str, int]]:
        """The sources of a tensor, and the step with which each begins in it."""
        known = self.draft_of(tensor)
        return known.starts if isinstance(known, Signal) else known.firsts(self.B)

    def operation(
        self, kind: str, starts: Iterable[tuple[str, int]], shape: Shape, shape_out: Shape
    ) -> tuple[Site, Signal]:
        """The site of an operation, named after where it stands, and what it gives out."""
        owner = self.path[-1] if self.path else self.root
        where = f"{owner[0]}.{kind}"
        sources = {source for source, _ in starts}
        name, number = where, 1
        while name in self.sites and self.sites[name].sources.keys() != sources:
            number += 1
            name = f"{where}_{number}"
        if name not in self.sites:
            self.sites[name] = Site(name, kind, None, owner, shape, shape_out)
        site = self.sites[name]
        return site, Signal.of(name, site.relay(starts), shape_out)
