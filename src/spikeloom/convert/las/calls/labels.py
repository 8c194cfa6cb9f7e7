"""Which tensors are activations: they depend on what the network was given, and come from where."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Activations", "Sources", "unmapped"]

# What an activation was last computed by: products, and the functions behind them.
Sources = frozenset[Any]
NOWHERE: Sources = frozenset()


class Activations:
    """The tensors of a run that are activations; all others are weights, masks and positions."""

    def __init__(self) -> None:
        self._known = WeakTensorKeyDictionary()
        # What there is before the run is constant; what no function of torch made in it is unknown.
        self.mark([value for value in gc.get_objects() if issubclass(type(value), Tensor)], None)
        self._fired = WeakTensorKeyDictionary()

    def _sources(self, value: Tensor) -> Sources | None:
        known: Sources | None = self._known.get(value)
        if known is None and value._is_view():
            known = self._known.get(value._base)
        return known

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, Tensor) and self._sources(value) is not None

    def among(self, values: Any) -> bool:
        """Whether any tensor within is one."""
        return any(value in self for value in tree_leaves(values))

    def sources(self, values: Any) -> Sources:
        """Where the activations within come from."""
        tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
        return NOWHERE.union(*(self._sources(tensor) or NOWHERE for tensor in tensors))

    def mark(self, values: Any, sources: Sources | None = NOWHERE) -> None:
        """State where the floating-point tensors within come from; None: they are constants."""
        for value in _numbers(values):
            self._known[value] = sources

    def fire(self, values: Any) -> None:
        """State that the tensors within are what a table's spikes add up to."""
        for value in _numbers(values):
            self._fired[value] = True

    def pass_on(self, values: Any, result: Any) -> None:
        """State that a result is the tensors within, moved or scaled."""
        if any(self.is_fired(value) for value in tree_leaves(values)):
            self.fire(result)

    def is_fired(self, value: Any) -> bool:
        """Whether a tensor is what a table's spikes add up to, moved or scaled."""
        return isinstance(value, Tensor) and value in self._fired

    def mark_unknown(self, values: Any, sources: Sources | None = NOWHERE) -> bool:
        """As :meth:`mark`, the tensors within of which nothing is known; whether there was one."""
        unknown = [value for value in _numbers(values) if value not in self._known]
        unknown = [value for value in unknown if not value._is_view() or value._base not in self]
        self.mark(unknown, sources)
        return bool(unknown)

    def written(self, value: Any, sources: Sources) -> None:
        """State that an activation was written into a tensor, or into the one that it shows."""
        if isinstance(value, Tensor):
            self.mark((value, value._base), sources)


def unmapped(value: Any) -> Tensor | None:
    """The tensor of which ``torch.vmap`` shows one sample; None for any other value."""
    inner = None
    while isinstance(value, Tensor) and torch._C._functorch.is_batchedtensor(value):
        inner = value = torch._C._functorch.get_unwrapped(value)
    return inner


def is_number(value: Any) -> bool:
    """Whether a value is a tensor of floating-point or complex numbers."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _numbers(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if is_number(leaf)]
