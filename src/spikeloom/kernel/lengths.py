"""Sequences of different lengths in one batch: each stops at its own end, in the same kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel import checked
from spikeloom.kernel.choose import constant_when_compiled
from spikeloom.kernel.neuron import Neuron
from spikeloom.kernel.vocabulary import detach, where
from spikeloom.kernel.wrapped import Wrapped

__all__ = ["Ending", "Lengths", "ending", "mean_of", "steps_left"]

# How many steps each sequence of a batch has; None: as many as the input.
Lengths = Sequence[int] | Tensor | None

# The further state: how many steps of its sequence a neuron has before it.
LEFT = "steps_left"


class Ending(Wrapped):
    """A neuron that stops: from its last step on, its states stay and its outputs are 0.

    The input is not read any more, so padding may be anything, NaN included.

    Args:
        neuron: What runs until then; each of its sequences begins with its first step.

    Raises:
        ValueError: If it sums its input over time before its first step.
    """

    def __init__(self, neuron: Neuron) -> None:
        self.neuron = neuron
        if neuron.begin is not None:
            raise ValueError(
                f"lengths: {neuron.name} sums its input over time before its first step and takes "
                f"complete values; put zeros where a sequence has ended, and leave lengths out"
            )
        super().__init__(
            self._step,
            state={**neuron.rest, LEFT: 0.0},
            params=neuron.params,
            inputs=neuron.inputs,
            name=neuron.name,
        )

    def _step(self, x: Any, state: Any, p: Any) -> Any:
        *before, left = state
        left = detach(left)
        runs = left > 0.0
        now = tuple([where(runs, part, 0.0) for part in (x if self.inputs > 1 else (x,))])
        y, after = self.neuron.step(now if self.inputs > 1 else now[0], tuple(before), p)
        kept = [where(runs, new, old) for new, old in zip(after, before, strict=True)]
        outputs = [where(runs, part, 0.0) for part in (y if isinstance(y, tuple) else (y,))]
        return tuple(outputs), (*kept, left - 1.0)


def ending(neuron: Neuron) -> Ending:
    """The neuron that stops, traced once for each neuron.

    Args:
        neuron: What runs.

    Raises:
        ValueError: As :class:`Ending`.
    """
    _prepare(neuron)
    stops: Ending = neuron._ending
    return stops


@constant_when_compiled
def _prepare(neuron: Neuron) -> None:
    """Trace it, while a compiler looks away."""
    if neuron._ending is None:
        neuron._ending = Ending(neuron)


def steps_left(lengths: Any, x: Tensor) -> Tensor:
    """The state at the beginning, for every neuron of a batch.

    Args:
        lengths: What a user gave, one for each sequence.
        x: An input ``[T, batch, *]``.

    Raises:
        TypeError: If lengths are no whole numbers, or not on the CPU.
        ValueError: If there is not one for each sequence, or one is negative or beyond T.
    """
    if x.dim() < 2:
        raise ValueError(
            f"lengths: need an input with a batch axis, [T, batch, ...], got {list(x.shape)}"
        )
    whole = _whole_numbers(lengths)
    steps, batch = x.shape[:2]
    if tuple(whole.shape) != (batch,):
        raise ValueError(
            f"lengths: need one for each of the {batch} sequences, [{batch}], got "
            f"{list(whole.shape)}; x is time first, [T, batch, ...] = {list(x.shape)}"
        )
    if not torch.compiler.is_compiling():
        wrong = (whole < 0) | (whole > steps)
        if bool(wrong.any()):
            at = int(wrong.nonzero()[0])
            raise ValueError(
                f"lengths: each must lie in 0..{steps}, the steps of the input, got "
                f"{int(whole[at])} for sequence {at}; pad the input, or cut the length"
            )
    dtype = checked.COMPUTED[x.dtype]
    left = whole.to(x.device, dtype)
    return left.reshape(batch, *[1] * (x.dim() - 2)).expand(x.shape[1:])


def _whole_numbers(lengths: Any) -> Tensor:
    """The lengths as a tensor."""
    remedy = "give a list of ints, or a tensor of torch.int64 on the CPU"
    if isinstance(lengths, Tensor):
        if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
            raise TypeError(f"lengths: must be whole numbers, got {lengths.dtype}; {remedy}")
        if lengths.device.type != "cpu":
            raise TypeError(
                f"lengths: must be on the CPU, where they are checked without stopping a GPU, got "
                f"{lengths.device}; {remedy}"
            )
        return lengths
    numbers = [*lengths] if isinstance(lengths, Sequence) and not isinstance(lengths, str) else None
    if numbers is None or not all(type(number) is int for number in numbers):
        raise TypeError(f"lengths: must be whole numbers, got {lengths!r}; {remedy}")
    return torch.tensor(numbers, dtype=torch.int64)


def mean_of(y: Tensor, left: Tensor, dtype: torch.dtype) -> Tensor:
    """The mean over each sequence's own steps, of sums over time.

    Args:
        y: The sums, ``[batch, *]``.
        left: What :func:`steps_left` has given.
        dtype: Of the result.
    """
    return (y / left.clamp(min=1.0)).to(dtype)
