"""Forward calls that are alike but for their inputs' values, made again and again.

What :func:`spikeloom.run` finds out at every call is found out once: the kernel, its parameters as
rows of neurons, and where in memory the inputs' values are. Inputs are read where they are, also
where their rows are not dense (every other pixel of an image, say).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel import layout, run_cpu
from spikeloom.kernel.counted import counting_modes
from spikeloom.kernel.neuron import Neuron
from spikeloom.kernel.plain import is_plain
from spikeloom.kernel.trace import Program

__all__ = ["Replay"]

# What an input is stored as; both are computed in.
DTYPES = (torch.float32, torch.float64)
# Bytes of a tensor whose values an index of 32 bits surely reaches.
MOST = 2**31


class Replay:
    """Calls of a neuron from rest on a CPU, without gradients.

    Args:
        neuron: What to run; it has one output and a kernel.
        x: A tensor like those to come: the same shape, strides and dtype.
        params: The tensors of the neuron's parameters, in order; their values are read now. A later
            change has to be in :meth:`key`, so not through ``.data`` or NumPy.
        inputs: The neuron's inputs ``[T, *]`` as views of ``x`` that have the same strides; by
            default ``x`` itself.

    Raises:
        RuntimeError: If a parameter does not broadcast to the neurons.

    Example:
        >>> import torch, spikeloom
        >>> from spikeloom.kernel.replay import Replay
        >>> x = torch.tensor([[1.5, 0.0, 0.2, 0.0]] * 4)
        >>> replay = Replay(spikeloom.neurons.LIF(tau=2.0), x, [], [x[:, ::2]])
        >>> replay(x).sum(0)
        tensor([2., 0.])
    """

    def __init__(
        self,
        neuron: Neuron,
        x: Tensor,
        params: Sequence[Tensor],
        inputs: Sequence[Tensor] | None = None,
    ) -> None:
        views = [x] if inputs is None else inputs
        order = layout.row_order(views[0])
        row = layout.ordered(views[0], order)
        self._shape, self._row_stride = views[0].shape, row.stride(0)
        self._axes = [0, *(axis + 1 for axis in order or range(row.dim() - 1))]
        self._neurons = self._shape[1:].numel()
        self._offsets = [view.data_ptr() - x.data_ptr() for view in views]
        self._states, self._row_bytes = len(neuron.rest), self._neurons * x.element_size()

        program = Program.parse(neuron.variant(None, False))
        numbers = [value for value in neuron.params.values() if isinstance(value, (int, float))]
        numbers += neuron.surrogate_numbers.values()
        index = None if layout.is_dense(row) else layout.places(row)
        self._kernel = run_cpu.Forward(
            program, self._shape[0], numbers, x.dtype, self._neurons, indexed=index is not None
        )
        rest = [torch.full((), value, dtype=x.dtype) for value in neuron.rest.values()]
        tensors = self._rows(neuron, params, order)
        # Also what was copied: no other tensor may take its address, which is in the key.
        self._kept: list[Any] = [index, *params, *tensors]
        self._settled = [w for v in rest for w in run_cpu.row_words(v, self._kept)]
        self._settled += [] if index is None else [index.data_ptr()]
        self._settled += run_cpu.parameter_words(program, tensors)

    def _rows(self, neuron: Neuron, params: Sequence[Tensor], order: layout.Order) -> list[Tensor]:
        """The parameters as a kernel takes them."""
        kinds = [kind for kind in neuron.kinds.values() if kind != "number"]
        return [
            layout.row(value.detach().expand(self._shape[1:]), order)
            if kind == "neuron"
            else value.contiguous()
            for value, kind in zip(params, kinds, strict=True)
        ]

    @staticmethod
    def key(x: Tensor, params: Sequence[Tensor]) -> tuple[Any, ...] | None:
        """What two calls have in common if one replay serves both.

        Args:
            x: What the inputs are views of.
            params: The tensors of the parameters.

        Returns:
            The key; None if the call cannot be replayed, because a gradient is wanted, the
            call is followed, or the tensors are not plain memory of a CPU.
        """
        if counting_modes() or not is_plain((x, *params)):
            return None
        if not (x.is_cpu and x.dtype in DTYPES and x.numel()):
            return None
        if x.untyped_storage().nbytes() > MOST:
            return None
        if any(value.dtype is not x.dtype or value.is_inference() for value in params):
            return None
        if torch.is_grad_enabled() and any(value.requires_grad for value in (x, *params)):
            return None
        # Values that were changed in place have another version.
        held = [(value.data_ptr(), value._version) for value in params]
        return (x.dtype, x.shape, x.stride(), *held)

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs ``[T, *]``, their axes in memory in the order of the inputs'.

        Args:
            x: What the inputs are views of.

        Raises:
            ValueError: If a state has become NaN.
        """
        y = torch.empty_permuted(self._shape, self._axes, dtype=x.dtype)
        last = torch.empty(self._states * self._neurons, dtype=x.dtype)
        first, start = last.data_ptr(), x.data_ptr()
        words: list[int] = []
        for offset in self._offsets:
            words += (start + offset, self._row_stride)
        words.append(y.data_ptr())
        words += range(first, first + self._states * self._row_bytes, self._row_bytes)
        self._kernel.launch(words + self._settled, [y])
        return y
