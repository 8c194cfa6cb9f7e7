"""Labels: what is known of each tensor of a run, by whatever view of its memory it is reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Labels"]

L = TypeVar("L")


def itself(tensor: Tensor) -> Tensor:
    """The tensor whose memory holds a tensor's values."""
    return tensor


def _covers(view: Tensor, nbytes: int) -> bool:
    """Whether a view shows each place of its memory once, and leaves none out."""
    ordered = sorted(
        (stride, size) for size, stride in zip(view.shape, view.stride(), strict=True) if size > 1
    )
    expected = 1
    for stride, size in ordered:
        if stride != expected:
            return False
        expected *= size
    return expected * view.element_size() == nbytes


class Labels(Generic[L]):
    """The labels of tensors; a tensor without a label is a constant.

    What is written into a tensor's memory is found again through every other view of it.

    Args:
        join: From labels, and constants as they are, to a label that holds for all of them.
        holder: From a tensor to the one whose memory holds its values.
    """

    def __init__(self, join: Callable[..., L], holder: Callable[[Tensor], Tensor] = itself) -> None:
        self._join, self._holder = join, holder
        self._known: Any = WeakTensorKeyDictionary()
        # By address; the reference says whether the memory there is still the same.
        self._written: dict[int, tuple[StorageWeakRef, L]] = {}

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, Tensor) and (
            value in self._known or self._written_to(value) is not None
        )

    def of(self, value: Any) -> Any:
        """A tensor's label; a constant as it is."""
        if not isinstance(value, Tensor):
            return value
        known, written = self._known.get(value), self._written_to(value)
        known = value if known is None else known
        return known if written is None else self._join(known, written)

    def state(self, tensor: Tensor, label: L) -> None:
        """Say what a tensor is, whatever was written into it before."""
        self._known[tensor] = label
        if self._written and (memory := self._memory(tensor)) is not None:
            self._written.pop(memory.data_ptr(), None)

    def make(self, tensor: Tensor, label: L) -> None:
        """Say what an operation has made."""
        self._known[tensor] = label

    def write(self, tensor: Tensor, label: L) -> None:
        """Say what an operation has written into a tensor.

        Args:
            tensor: It is reached by other tensors too, if they show the same memory.
            label: Of all its values, those that were left as they were included.
        """
        memory = self._memory(tensor)
        if memory is None:
            self._known[tensor] = label
            return
        if _covers(self._holder(tensor), memory.nbytes()):
            for view in (tensor, tensor._base):
                if view is not None:
                    self._known[view] = label
        elif (earlier := self._written_to(tensor)) is not None:
            label = self._join(earlier, label)
        self._written[memory.data_ptr()] = (StorageWeakRef(memory), label)

    def _written_to(self, tensor: Tensor) -> L | None:
        memory = self._memory(tensor) if self._written else None
        if memory is None:
            return None
        reference, label = self._written.get(memory.data_ptr(), (None, None))
        if reference is not None and reference.expired():
            del self._written[memory.data_ptr()]
            return None
        return label

    def _memory(self, tensor: Tensor) -> Any:
        """Where a tensor's values lie; None for a sparse tensor, and for one without values."""
        held = self._holder(tensor)
        if held.layout is not torch.strided or not held.numel():
            return None
        with torch._C.DisableTorchFunction():  # it is not the model that asks
            return held.untyped_storage()
