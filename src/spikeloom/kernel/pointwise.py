"""Neurons of one step without states, on small tensors of any length: checked once for all of them.

A language model that generates calls such neurons hundreds of times a token, with another number of
keys at every token. A kernel is told at its call how many values there are, so one serves them all.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from spikeloom.kernel import layout
from spikeloom.kernel.checked import COMPUTED
from spikeloom.kernel.choose import choose
from spikeloom.kernel.counted import counting_modes
from spikeloom.kernel.neuron import Neuron
from spikeloom.kernel.plain import is_memory, is_watched
from spikeloom.kernel.trace import Program

__all__ = ["Pointwise"]

# Values from which on the checks of a call cost little beside its arithmetic, and threads help.
MOST = 1 << 17
# Where a kernel notes that a state is NaN; there are no states.
_nan = ctypes.c_int64(0)
NOTE = ctypes.addressof(_nan)


class Pointwise:
    """A neuron of one input, one output and one step without states.

    Args:
        neuron: What to apply to every element. Its parameters are numbers, or tensors of one value
            for all elements or for each element of a row.

    Raises:
        ValueError: If it is another kind of neuron.

    Example:
        >>> import torch, spikeloom
        >>> from spikeloom.kernel.pointwise import Pointwise
        >>> decode = Pointwise(spikeloom.neurons.OAT(steps=4, normal=1.0).decoder())
        >>> decode(torch.tensor([0.7, -0.3]))
        tensor([ 0.6875, -0.2500])
    """

    def __init__(self, neuron: Neuron) -> None:
        over_time = {"step", "gated"}.intersection(neuron.kinds.values())
        if neuron.rest or neuron.begin or over_time or (neuron.inputs, neuron.outputs) != (1, 1):
            raise ValueError(
                f"neuron: must be of one step without states, with one input and one output, got "
                f"{neuron.name}; call run(neuron, x)"
            )
        self.neuron = neuron
        self._is_compiled = choose("auto", "cpu", neuron.reason)[0] == "llvm"
        self._kernels: dict[torch.dtype, _Kernel] = {}

    def __reduce__(self) -> tuple[type[Pointwise], tuple[Neuron]]:
        return Pointwise, (self.neuron,)  # compiled code stays in its process

    def __call__(self, x: Tensor, held: Sequence[Tensor] = ()) -> Tensor | None:
        """The value of every element.

        Args:
            x: Any shape. Its last axes are a row of what has a value for each element of one.
            held: The tensors of the neuron's parameters in this call, in order.

        Returns:
            The values, in the shape of ``x``; None where :func:`spikeloom.run` has to be called,
            because the tensor is large, strided or on a GPU, gradients are wanted, or the call is
            traced or transformed.
        """
        if not self._is_compiled or is_watched() or counting_modes() or not is_memory(x):
            return None
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *held)):
            return None
        if not (x.is_cpu and x.dtype in layout.DTYPES and x.is_contiguous() and x.numel() <= MOST):
            return None
        kernel = self._kernels.get(x.dtype)
        if kernel is None:
            kernel = self._kernels[x.dtype] = _Kernel(self.neuron, x.dtype)
        return kernel(x, held)


class _Kernel:
    """The kernel for a dtype, and the parameters that it was last called with."""

    def __init__(self, neuron: Neuron, dtype: torch.dtype) -> None:
        from spikeloom.kernel import run_cpu

        program = Program.parse(neuron.variant(None, False))
        numbers = [value for value in neuron.params.values() if isinstance(value, float)]
        numbers += neuron.surrogate_numbers.values()
        # One neuron stands for any number of them.
        self._tiles = run_cpu.Forward(program, 1, numbers, dtype, 1).tiles_for(())
        self._run = run_cpu.run_part
        self._kinds, self._computed = [kind for _, kind in program.tensors], COMPUTED[dtype]
        self._held = _Held([], [], self._computed)

    def __call__(self, x: Tensor, held: Sequence[Tensor]) -> Tensor | None:
        found = self._held
        if not found.is_of(held):
            found = self._held = _Held(held, self._kinds, self._computed)
        row = found.row
        if row is None or x.shape[x.dim() - len(row) :] != row:
            return None
        count = x.numel()
        neurons = found.size or count
        y = torch.empty_like(x)
        words = (NOTE, x.data_ptr(), neurons, y.data_ptr(), *found.words)
        self._run(self._tiles, (count // neurons, neurons, 0, neurons), words)
        return y


class _Held:
    """Tensors of parameters, checked.

    Args:
        tensors: The tensors.
        kinds: Of their parameters.
        dtype: What is computed in.

    Attributes:
        row: The shape of a row, empty if all elements share every value; None if the parameters
            are not simply memory in this shape.
        size: Elements of a row, 0 if it is empty.
        words: The addresses.
    """

    def __init__(self, tensors: Sequence[Tensor], kinds: Sequence[str], dtype: torch.dtype) -> None:
        self.row: torch.Size | None = None
        self.size = 0
        self.words: list[int] = []
        self._tensors: list[tuple[Tensor, int, torch.Size]] = []
        if not all(
            is_memory(t) and t.is_cpu and t.is_contiguous() and t.dtype is dtype for t in tensors
        ):
            return
        self._tensors = [(tensor, tensor.data_ptr(), tensor.shape) for tensor in tensors]
        self.words = [address for _, address, _ in self._tensors]
        rows = [t.shape for t, kind in zip(tensors, kinds, strict=True) if kind == "neuron"]
        row = rows[0] if rows else torch.Size()
        single = all(t.numel() == 1 for t, k in zip(tensors, kinds, strict=True) if k != "neuron")
        if single and all(other == row for other in rows):
            self.row, self.size = row, row.numel() if rows else 0

    def is_of(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are the tensors still, where they were."""
        if len(tensors) != len(self._tensors):
            return False
        for tensor, (kept, address, shape) in zip(tensors, self._tensors, strict=True):
            if tensor is not kept or tensor.data_ptr() != address or tensor.shape != shape:
                return False
        return True
