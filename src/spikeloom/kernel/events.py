"""Spikes as bits, and products with them that touch only what fired, on a CPU.

The sums of a product are taken over runs of ``64 * CHUNK`` inputs: within a run the inputs that
fired positively are added in ascending order, then the negative ones are subtracted; the sum of the
run, times the row's amplitude, is added to the bias and the runs before it. The order does not
depend on the number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel import emit_bits, emit_gather
from spikeloom.kernel.emit_bits import BITS, COUNT, SCALED, SIGNED, UNEVEN
from spikeloom.kernel.threads import share_out

__all__ = [
    "DTYPES",
    "Spikes",
    "gather",
    "pack",
    "product",
    "transposed",
    "unfolded",
    "unpack",
    "weight_gradient",
]

DTYPES = {torch.float32: "float32", torch.float64: "float64"}
# Words of a row whose bits are listed at once; their rows of the table should fit into the cache.
CHUNK = 8
# Numbers to read below which a second thread costs more than it brings.
WORTH_A_THREAD = 1 << 20


@dataclass(frozen=True)
class Spikes:
    """Rows of spikes, each of a single magnitude, as bits.

    Attributes:
        inputs: How many inputs a row has.
        dtype: Of the floats that the bits stand for.
        bits: Which of them fired, ``[rows, words]``; bits beyond the last input are zero.
        negative: Which of those are negative, likewise; None if none is.
        amplitude: The magnitude of each row's spikes, ``[rows]``; None if all are 1.
    """

    inputs: int
    dtype: torch.dtype
    bits: Tensor
    negative: Tensor | None
    amplitude: Tensor | None

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.bits.shape[0]


def pack(x: Tensor) -> tuple[Spikes, int] | None:
    """Rows of floats as bits, and how many spikes there are.

    Args:
        x: ``[rows, inputs]`` of float32 or float64, neither of them 0, on a CPU, with dense rows.

    Returns:
        The spikes and their number; None if the values of a row, besides zero, have several
        magnitudes. A NaN is a magnitude like any other.
    """
    rows, inputs = x.shape
    words = -(-inputs // BITS)
    bits, negative = (_new(rows, words) for _ in range(2))
    amplitude = _new(rows, dtype=x.dtype)
    kernel = _kernel("pack", DTYPES[x.dtype])
    found: list[Tensor] = []

    def part(first: int, last: int) -> None:
        noted = _new(4).zero_()
        found.append(noted)
        x_row = (x.data_ptr(), x.stride(0))
        results = [t.data_ptr() for t in (bits, negative, amplitude, noted)]
        kernel([first, last, inputs, words, *x_row, *results], b"")

    _each(rows, inputs, part)
    total = found[0] if len(found) == 1 else torch.stack(found).sum(0)
    numbers = total.tolist()
    if numbers[UNEVEN]:
        return None
    minus = negative if numbers[SIGNED] else None
    scale = amplitude if numbers[SCALED] else None
    return Spikes(inputs, x.dtype, bits, minus, scale), numbers[COUNT]


def unpack(spikes: Spikes) -> Tensor:
    """The floats that were packed, ``[rows, inputs]``; each -0 has become 0.

    Args:
        spikes: What :func:`pack` returned.
    """
    x = _new(spikes.rows, spikes.inputs, dtype=spikes.dtype)
    scale = x.new_ones(spikes.rows) if spikes.amplitude is None else spikes.amplitude
    kernel = _kernel("unpack", DTYPES[x.dtype], signed=spikes.negative is not None)
    tensors = [_address(t) for t in (x, spikes.bits, spikes.negative, scale)]
    words = spikes.bits.shape[1]
    _each(
        spikes.rows,
        spikes.inputs,
        lambda first, last: kernel([first, last, spikes.inputs, words, *tensors], b""),
    )
    return x


def transposed(bits: Tensor, inputs: int, samples: int = 1) -> Tensor:
    """Bits by rows as bits by inputs, ``[samples * inputs, words]``.

    Args:
        bits: ``[samples * rows, words]``.
        inputs: How many bits of a row there are.
        samples: How many matrices of bits lie one after another.
    """
    rows, words = bits.shape[0] // samples, bits.shape[1]
    to = _new(samples * inputs, -(-rows // BITS))
    kernel = _kernel("transpose")

    def part(first: int, last: int) -> None:
        block = _new(BITS)
        sizes = [rows, inputs, words, bits.data_ptr()]
        kernel([first, last, *sizes, to.shape[1], to.data_ptr(), block.data_ptr()], b"")

    _each(samples * words, rows, part)
    return to


def unfolded(bits: Tensor, channels: int, places: Tensor, pixels: int) -> Tensor:
    """The bits that each output of a convolution sees, ``[samples * outputs, words]``.

    Args:
        bits: Of the channels of each pixel, ``[samples * pixels, words]``.
        channels: How many channels there are.
        places: Which pixel each output sees at each tap, ``[outputs, taps]``; -1 is none.
        pixels: How many pixels an image has.
    """
    outputs, taps = places.shape
    rows = bits.shape[0] // pixels * outputs
    to = _new(rows, -(-taps * channels // BITS))
    kernel = _kernel("unfold")
    sizes = [outputs, taps, channels, pixels, bits.shape[1], bits.data_ptr(), places.data_ptr()]
    ends = [to.shape[1], to.data_ptr()]
    _each(rows, BITS * taps, lambda first, last: kernel([first, last, *sizes, *ends], b""))
    return to


def gather(
    bits: Tensor,
    negative: Tensor | None,
    table: Tensor,
    *,
    scale: Tensor | None = None,
    start: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """For each row of bits, the sum of the rows of a table that the bits name.

    Args:
        bits: ``[rows, words]``.
        negative: Which of them name rows that are subtracted; None if none does.
        table: ``[inputs, columns]`` with dense rows.
        scale: A factor for each row of the result; None is 1.
        start: What the sums are added to, ``[columns]``; None is 0.
        out: Receives the result, contiguous; None makes room for it.

    Returns:
        ``[rows, columns]``.
    """
    rows, words = bits.shape
    columns = table.shape[1]
    y = _new(rows, columns, dtype=table.dtype) if out is None else out
    start = _new(columns, dtype=table.dtype).zero_() if start is None else start.contiguous()
    signed, scaled = negative is not None, scale is not None
    kernel = _kernel("gather", DTYPES[table.dtype], signed=signed, scaled=scaled)
    places = [bits.data_ptr(), _address(negative), table.data_ptr(), table.stride(0)]
    places += [_address(scale), start.data_ptr(), y.data_ptr(), columns]

    def part(first: int, last: int) -> None:
        kernel([first, last, words, CHUNK, *places, _list.memory.data_ptr()], b"")

    _each(rows, BITS * words, part)
    return y


def product(spikes: Spikes, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer's output, ``[rows, outputs]``.

    Args:
        spikes: The input.
        weight: ``[outputs, inputs]``.
        bias: ``[outputs]``, or None.
    """
    table = weight.t().contiguous()
    return gather(spikes.bits, spikes.negative, table, scale=spikes.amplitude, start=bias)


def weight_gradient(spikes: Spikes, gy: Tensor) -> Tensor:
    """The gradient of a linear layer's weight, ``[outputs, inputs]``.

    Args:
        spikes: The input.
        gy: The gradient of the output, ``[rows, outputs]``, with dense rows.
    """
    bits = transposed(spikes.bits, spikes.inputs)
    negative = None if spikes.negative is None else transposed(spikes.negative, spikes.inputs)
    table = gy if spikes.amplitude is None else gy * spikes.amplitude[:, None]
    return gather(bits, negative, table).t().contiguous()


# --- Kernels and threads ---


@cache
def _kernel(name: str, *dtype: str, **variant: bool) -> Any:
    """A compiled function of :mod:`emit_bits` or :mod:`emit_gather`."""
    from spikeloom.kernel.compile_cpu import Kernel  # llvmlite is imported where it is needed

    emit: Any = emit_gather.gather if name == "gather" else getattr(emit_bits, name)
    return Kernel(emit(*dtype, **variant), name)


def _new(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Memory that kernels may write, whatever the default device is."""
    return torch.empty(shape, dtype=dtype, device="cpu")


class _List(threading.local):
    """A thread's list of the bits of a run."""

    def __init__(self) -> None:
        self.memory = _new(BITS * CHUNK + emit_gather.AT_ONCE)


_list = _List()


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _each(rows: int, width: int, part: Callable[[int, int], None]) -> None:
    """Do all rows, in equal parts on several threads where that pays."""
    threads = min(torch.get_num_threads(), rows * width // WORTH_A_THREAD)
    if threads <= 1:
        part(0, rows)
        return
    share = -(-rows // threads)
    share_out(range(0, rows, share), lambda first: part(first, min(first + share, rows)), threads)
