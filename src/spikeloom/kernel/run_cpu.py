"""Kernels on a CPU: where their arguments are in memory, and on how many threads they run."""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikeloom.kernel import layout
from spikeloom.kernel.adjoint import Adjoint, learned
from spikeloom.kernel.compile_cpu import Kernel, backward_kernel, forward_kernel, permutes
from spikeloom.kernel.huge_pages import HUGE_PAGE, advise_huge_pages
from spikeloom.kernel.llvm_scan import Assume
from spikeloom.kernel.llvm_text import LANES
from spikeloom.kernel.threads import share_out
from spikeloom.kernel.trace import Program

# Bytes of states (forward) or history (backward) that a tile may take, chosen by measurement.
# Rows that are written past the cache want longer tiles, large ones that are not the longest.
TILE_FORWARD = 8 * 1024
TILE_STREAMED = 16 * 1024
TILE_LONG = 256 * 1024
TILE_BACKWARD = 128 * 1024
# Output bytes from which on writing past the cache pays.
STREAM_FROM = 8 * 1024 * 1024
# Steps whose states are kept at once in the backward pass.
SEGMENT = 16
# Neuron-steps below which a second thread costs more than it brings.
WORTH_A_THREAD = 1 << 17


class Tiles(NamedTuple):
    """A kernel, and how it goes through the neurons.

    Attributes:
        kernel: The kernel.
        size: Neurons of a tile.
        scratch: Values that fit into working memory.
        numbers: The parameters of kind ``number``, as words.
    """

    kernel: Kernel
    size: int
    scratch: int
    numbers: bytes


class _Launch:
    """What both directions share: how many neurons there are, and how large a sequence of them.

    Args:
        program: The traced neuron.
        steps: T, at least 1.
        numbers: The parameters of kind ``number``, in order.
        dtype: Of the inputs.
        neurons: N.
        rows: Of the sequences that are written, T by default.
    """

    def __init__(
        self,
        program: Program,
        steps: int,
        numbers: Sequence[float],
        dtype: torch.dtype,
        neurons: int,
        rows: int | None = None,
    ) -> None:
        self.program, self.steps, self.neurons = program, steps, neurons
        self._dtype, self._numbers = dtype, struct.pack(f"{len(numbers)}d", *numbers)
        self._powers = program.powers(numbers)
        self._width = 8 if dtype == torch.float64 else 4
        size = (steps if rows is None else rows) * neurons * dtype.itemsize
        self._is_large = size >= STREAM_FROM
        self._may_stream = self._is_large and not neurons % max(LANES.values())
        self._has_huge_pages = size >= HUGE_PAGE
        self._tiles: dict[bool, Tiles] = {}

    def tiles_for(self, fresh: Sequence[Tensor]) -> Tiles:
        """How to go through the neurons, after these sequences have been made ready.

        Args:
            fresh: New sequences that the kernel is to write.
        """
        if self._has_huge_pages:
            advise_huge_pages(fresh)
        # Past the cache if every row is aligned.
        stream = self._may_stream and bool(fresh)
        stream = stream and not any(tensor.data_ptr() % 64 for tensor in fresh)
        found = self._tiles.get(stream)
        if found is None:
            found = self._tiles[stream] = self._made(stream, bool(fresh))
        return found

    def _made(self, stream: bool, written: bool) -> Tiles:
        """The tiles.

        Args:
            stream: Whether to write past the cache.
            written: Whether a sequence is written at all.
        """
        raise NotImplementedError


class Forward(_Launch):
    """The forward kernel, ready for calls of one size.

    Args:
        arguments: Those of every launch.
        indexed: Whether an index tells where the inputs' values are.
    """

    def __init__(self, *arguments: Any, indexed: bool = False) -> None:
        super().__init__(*arguments)
        self._indexed = indexed

    def _made(self, stream: bool, written: bool) -> Tiles:
        assume = Assume(self._powers, stream, self._indexed, permutes())
        kernel = forward_kernel(self.program, layout.DTYPES[self._dtype], assume)
        room = TILE_LONG if self._is_large and written else TILE_FORWARD
        room = TILE_STREAMED if stream else room
        states = max(1, self.program.states)
        size = max(256, _aligned(room // (self._width * states)))
        return Tiles(kernel, size, size * states, self._numbers)

    def __call__(
        self,
        xs: Sequence[Tensor],
        vs: Sequence[Tensor],
        ps: Sequence[Tensor],
        ys: Sequence[Tensor],
        ws: Sequence[Tensor],
    ) -> None:
        """Run the neuron through time.

        Args:
            xs: Inputs with dense rows; of a single step also without the time axis.
            vs: Initial states, dense; a 0-d tensor serves all neurons.
            ps: The parameters that are tensors, dense, in order.
            ys: Receive the outputs, rows one after another.
            ws: Receive the last states.

        Raises:
            ValueError: If a state has become NaN.
        """
        keep: list[Any] = []
        words: list[int] = []
        moves = self.steps > 1  # a single step may come without a time axis
        for x in xs:
            words += (x.data_ptr(), x.stride(0) if moves else 0)
        for y in ys:
            words.append(y.data_ptr())
        for w in ws:
            words.append(w.data_ptr())
        for v in vs:
            words += row_words(v, keep)
        if ps:
            words += parameter_words(self.program, ps)
        self.launch(words, ys)

    def launch(self, words: Sequence[int], ys: Sequence[Tensor]) -> None:
        """Run the kernel.

        Args:
            words: Its arguments behind ``nan``, as ``emit_llvm.forward_words`` names them.
            ys: Receive the outputs.

        Raises:
            ValueError: If a state has become NaN.
        """
        nan = ctypes.c_int64(0)
        arguments = [ctypes.addressof(nan), *words]
        _run(self.tiles_for(ys), self.steps, self.neurons, arguments, even=True)
        if nan.value:
            raise ValueError(
                f"run: a state is NaN after {self.steps} steps; the input or the initial state "
                f"holds NaN, the recurrence diverged, or a potential was infinite (a hard reset "
                f"takes inf * 0, a decay may take inf - inf, which are NaN)"
            )


class Backward(_Launch):
    """The backward kernel, ready for calls of one size.

    Args:
        program: The traced neuron.
        gradient: Its adjoint.
        steps: T, at least 1.
        numbers: The parameters of kind ``number``, in order.
        dtype: Of the inputs.
        neurons: N.
    """

    def __init__(
        self,
        program: Program,
        gradient: Adjoint,
        steps: int,
        numbers: Sequence[float],
        dtype: torch.dtype,
        neurons: int,
    ) -> None:
        rows = steps if program.begin is None else 1
        super().__init__(program, steps, numbers, dtype, neurons, rows)
        self._gradient = gradient
        self._segment = min(steps, SEGMENT)
        self._learned = learned(program, gradient)

    def _made(self, stream: bool, written: bool) -> Tiles:
        program, gradient = self.program, self._gradient
        assume = Assume(self._powers, stream, permutes=permutes())
        kernel = backward_kernel(program, gradient, layout.DTYPES[self._dtype], assume)
        segment, kept, moving = self._segment, len(gradient.kept), len(gradient.history)
        size = _aligned(TILE_BACKWARD // (self._width * segment * max(1, kept)))
        size = max(64, min(2048, size))
        buffers = program.states + moving + kept * segment + moving * -(-self.steps // segment)
        return Tiles(kernel, size, size * buffers, self._numbers)

    def __call__(
        self,
        xs: Sequence[Tensor],
        vs: Sequence[Tensor],
        ps: Sequence[Tensor],
        gys: Sequence[Tensor],
        gws: Sequence[Tensor | None],
        gxs: Sequence[Tensor | None],
        gvs: Sequence[Tensor | None],
    ) -> dict[str, Tensor]:
        """Run the reverse sweep.

        Args:
            xs: Inputs with dense rows.
            vs: Initial states.
            ps: The parameters that are tensors.
            gys: Gradients of the outputs, with dense rows.
            gws: Gradients of the last states; None is zero.
            gxs: Receive the gradients of the inputs; None where the adjoint has none.
            gvs: Receive the gradients of the initial states; None where none is needed.

        Returns:
            Learned parameter -> gradient, in the parameter's shape (a row of neurons for per-neuron
            ones), perhaps in a wider dtype. Sums are taken in a fixed order, whatever the number of
            threads.
        """
        tiles = self.tiles_for([gx for gx in gxs if gx is not None])
        sums = self._sums(tiles, ps)
        keep: list[Any] = []
        words = [self._segment]
        moves = self.steps > 1
        for x, gx in zip(xs, gxs, strict=True):
            words += (x.data_ptr(), x.stride(0) if moves else 0, _address(gx))
        for v, gw, gv in zip(vs, gws, gvs, strict=True):
            words += (*row_words(v, keep), *row_words(gw, keep), _address(gv))
        for gy in gys:
            words += (gy.data_ptr(), gy.stride(0) if moves else 0)
        for total in sums.values():
            words.append(total.data_ptr())
        if ps:
            words += parameter_words(self.program, ps)
        _run(tiles, self.steps, self.neurons, words, even=False)
        return {name: _total(sums[name], kind) for name, kind in self._learned}

    def _sums(self, tiles: Tiles, ps: Sequence[Tensor]) -> dict[str, Tensor]:
        """Where the tiles leave their shares of the parameter gradients."""
        if not self._learned:
            return {}
        count = -(-self.neurons // tiles.size)
        values = {name: p for (name, _), p in zip(self.program.tensors, ps, strict=True)}
        found: dict[str, Tensor] = {}
        for name, kind in self._learned:
            p = values[name]
            shapes = {"neuron": (self.neurons,), "gated": (count, *p.shape)}
            found[name] = p.new_zeros(shapes.get(kind, (count, self.steps)))
        return found


# What a plan asks for.
forward_launch, backward_launch = Forward, Backward


def noting(program: Program, gradient: Adjoint, steps: int, dtype: torch.dtype) -> int:
    """Steps between the states that a forward pass has to note for the sweep: 0, for none.

    Args:
        program: The traced neuron.
        gradient: The adjoint of the gradients that may be asked for.
        steps: T, at least 1.
        dtype: Of the inputs.
    """
    return 0  # the inputs of a tile are still in the cache when they are read again


def _total(shares: Tensor, kind: str) -> Tensor:
    """The gradient itself; sums over tiles are taken, and left, in float64."""
    if kind == "neuron":
        return shares
    return shares.sum((0, 1) if kind == "scalar" else 0, dtype=torch.float64)


def _aligned(count: int) -> int:
    return count // 64 * 64


# --- Words ---

# One vector of zeros.
_zeros = (ctypes.c_double * max(LANES.values()))()
ZEROS = ctypes.addressof(_zeros)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def row_words(v: Tensor | None, keep: list[Any]) -> tuple[int, int]:
    """Address and stride of one value a neuron; a shared value becomes one vector of it.

    Args:
        v: The values, dense; a 0-d tensor serves all neurons; None is zero.
        keep: Receives what must live as long as the address is used.
    """
    if v is None:
        return ZEROS, 0
    if v.dim():
        return v.data_ptr(), 1
    # Numbers are told apart by their bits, because 0 and -0 are equal.
    keep.append(_vector(struct.pack("d", v.item()), v.dtype))
    return ctypes.addressof(keep[-1]), 0


@lru_cache(maxsize=1024)
def _vector(value: bytes, dtype: torch.dtype) -> Any:
    """A value in every lane."""
    kind = ctypes.c_double if dtype == torch.float64 else ctypes.c_float
    width = max(LANES.values())
    return (kind * width)(*struct.unpack("d", value) * width)


def parameter_words(program: Program, ps: Sequence[Tensor]) -> list[int]:
    """Where the parameters are that are tensors, and how many rows a table has.

    Args:
        program: The traced neuron.
        ps: The parameters, dense, in order.
    """
    words: list[int] = []
    for tensor, (_, kind) in zip(ps, program.tensors, strict=True):
        words.append(tensor.data_ptr())
        if kind == "gated":
            words.append(tensor.shape[0])
    return words


# --- Threads and working memory ---


class _Scratch(threading.local):
    """Working memory that a thread keeps between calls."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._size = self._address = 0

    def address(self, size: int) -> int:
        if self._size < size:
            self._memory = torch.empty(size, dtype=torch.uint8)
            self._size, self._address = size, self._memory.data_ptr()
        return self._address


_scratch = _Scratch()


def _run(tiles: Tiles, steps: int, neurons: int, words: list[int], *, even: bool) -> None:
    """Split the neurons over threads, at whole tiles unless an even split is allowed."""
    most = steps * neurons // WORTH_A_THREAD
    threads = min(torch.get_num_threads(), most) if most > 1 else 1
    if threads == 1:
        run_part(tiles, (steps, neurons, 0, neurons), words)
        return
    size = tiles.size

    def part(first: int) -> None:
        run_part(tiles, (steps, neurons, first, min(first + share, neurons)), words)

    unit = 64 if even else size
    share = -(-neurons // (threads * unit)) * unit
    share_out(range(0, neurons, share), part, threads)


def run_part(tiles: Tiles, where: tuple[int, ...], words: Sequence[int]) -> None:
    """Run the neurons from a first to a last one, in the thread that calls.

    Args:
        tiles: The kernel, and how it goes through the neurons.
        where: T, N, the first neuron and the one behind the last.
        words: The kernel's arguments behind ``scratch``.
    """
    address = _scratch.address(8 * tiles.scratch + 64)
    tiles.kernel([*where, tiles.size, address, *words], tiles.numbers)
