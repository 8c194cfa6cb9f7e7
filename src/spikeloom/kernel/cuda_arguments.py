"""The arguments of a CUDA launch, in the order that ``emit_cuda`` states."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from struct import Struct

from torch import Tensor

from spikeloom.kernel.cuda_shape import ACCESS, widest
from spikeloom.kernel.trace import Program

__all__ = ["Arguments"]


class Arguments:
    """The arguments of a launch as they come together."""

    def __init__(self, *words: int) -> None:
        self._words: list[float] = list(words)
        self._before = len(words)
        # All addresses, and distances between rows, in one: what they are multiples of.
        self._bits = 0

    def address(self, tensor: Tensor | None) -> None:
        """Where a tensor is; null if there is none."""
        address = 0 if tensor is None else tensor.data_ptr()
        self._words.append(address)
        self._bits |= address

    def rows(self, sequence: Tensor) -> None:
        """The address of a sequence's rows, and the stride between them if there are several."""
        self.address(sequence)
        if self._words[0] == 1 or sequence.shape[0] == 1:
            self._words.append(0)
            return
        stride = sequence.stride(0)
        self._words.append(stride)
        self._bits |= stride * sequence.element_size()

    def row(self, v: Tensor | None) -> None:
        """One value a neuron and stride 1; a 0-d tensor and stride 0 serve all, null is zero."""
        if v is not None and v.dim():
            self.address(v)
            self._words.append(1)
        else:
            self._words += (0 if v is None else v.data_ptr(), 0)

    def parameters(self, program: Program, numbers: Sequence[float], ps: Sequence[Tensor]) -> None:
        """Numbers by value, tensors by address, tables with their number of rows."""
        self._before = len(self._words)
        remaining, tensors = iter(numbers), iter(ps)
        for _, kind in program.params:
            if kind == "number":
                self._words.append(next(remaining))
                continue
            tensor = next(tensors)
            self._words.append(tensor.data_ptr())
            if kind == "neuron":
                self._bits |= tensor.data_ptr()
            elif kind == "gated":
                self._words.append(tensor.shape[0])

    def checkpoints(self, checkpoints: Tensor | None, are_noted: bool) -> None:
        """Where the states at the start of every segment are, or go; whether they are there."""
        self._words += (int(are_noted), 0 if checkpoints is None else checkpoints.data_ptr())

    def shares(self, shares: Tensor, result: Tensor) -> None:
        """What is summed: how many shares of how many values; and where the sums go."""
        self.address(shares)
        self._words += reversed(shares.shape)
        self.address(result)

    def vec(self, dtype: str, neurons: int) -> int:
        """Neurons that one access takes: as many as fit if everything is aligned, else 1."""
        wide = widest(dtype)
        return wide if neurons % wide == 0 and self._bits % ACCESS == 0 else 1

    def packed(self, form: str = "") -> bytes:
        """As the driver takes them; ``form`` has the C types of the parameters."""
        after = len(self._words) - self._before - len(form)
        return _struct(self._before, form, after).pack(*self._words)


@cache
def _struct(before: int, form: str, after: int) -> Struct:
    return Struct("q" * before + form + "q" * after)
