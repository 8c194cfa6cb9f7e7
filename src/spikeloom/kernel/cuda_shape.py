"""How much a CUDA kernel does at once: neurons of a thread, steps of a segment, registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol, TypeVar

from spikeloom.kernel.adjoint import Adjoint, learned
from spikeloom.kernel.cuda_prelude import BYTES
from spikeloom.kernel.trace import Program

# Threads of a block, and warps.
BLOCK = 128
WARPS = BLOCK // 32
# Bytes of one access to memory, at most.
ACCESS = 16
# Steps of a segment, at most, and 32-bit registers that the history of a thread, and of one of its
# neurons, may take.
SEGMENT = 16
HISTORY = 64
LANE_HISTORY = 32
# Steps of a segment where gradients of tables are summed: each of them is much text.
TABLED = 4
# Rows of a table, at most, whose gradients a warp sums, and bytes of shared memory that a block may
# take for that.
FEW = 8
SHARED = 24 * 1024
# Blocks of a backward kernel that a multiprocessor is to hold: a thread has 96 registers then.
BLOCKS = 5
# Steps of a segment, at least, before a backward kernel keeps values in slow memory.
SHORTEST = 4


@dataclass(frozen=True)
class Shape:
    """What is fixed when a kernel is compiled.

    Attributes:
        dtype: What sequences are stored as, such as ``bfloat16``.
        vec: Neurons a thread carries; more than 1 needs aligned rows and N divisible by it.
        segment: Steps whose history the backward pass keeps in registers.
        checkpointed: Whether there may be more steps than one segment has.
        ragged: Whether the last segment may be shorter than the others.
        powers: Number parameters that are powers of two: dividing by them is multiplying.
        noting: Steps between the states that a forward pass notes for the sweep; 0 notes none.
        tables: Gated tables of few rows, whose gradients a warp sums, each with its number of rows
            and of cells that it has room for.
        blocks: Blocks for which a multiprocessor has to have registers; 0 lets a thread take all.
    """

    dtype: str = "float32"
    vec: int = 1
    segment: int = 16
    checkpointed: bool = True
    ragged: bool = True
    powers: frozenset[str] = frozenset()
    noting: int = 0
    tables: tuple[tuple[str, int, int], ...] = ()
    blocks: int = 0

    def narrower(self) -> Shape | None:
        """What to try where registers do not suffice: fewer neurons, blocks, steps of a segment.

        Where the number of blocks was left to the compiler, it takes fewer first: it may have kept
        values in memory to have room for more.
        """
        if not self.blocks:
            return replace(self, blocks=2)
        if self.vec > 1:
            return replace(self, vec=self.vec // 2)
        if self.blocks > 2:
            return replace(self, blocks=3 if self.blocks > 3 else 2)
        if self.segment > SHORTEST:
            return replace(self, segment=self.segment // 2, checkpointed=True, ragged=True)
        return None


def widest(dtype: str) -> int:
    """Neurons that one access can take."""
    return ACCESS // BYTES[dtype]


@lru_cache(maxsize=1024)
def backward_shape(
    program: Program,
    gradient: Adjoint,
    steps: int,
    dtype: str,
    vec: int,
    powers: frozenset[str] = frozenset(),
    rows: tuple[tuple[str, int], ...] = (),
) -> Shape:
    """The backward kernel for so many steps; ``vec`` falls until the history fits in registers.

    Args:
        program: The traced neuron.
        gradient: Its adjoint.
        steps: T, at least 1.
        dtype: What sequences are stored as.
        vec: Neurons that a thread may carry.
        powers: Number parameters that are powers of two.
        rows: Gated table -> how many rows it has.
    """
    segment = segment_of(program, gradient, steps, dtype)
    registers = _registers(program, gradient, dtype)
    while vec > 1 and vec * segment * registers > HISTORY:
        vec //= 2
    checkpointed = is_checkpointed(program, gradient, steps, dtype)
    ragged, tables = steps % segment != 0, _summed_by_warps(program, gradient, steps, dtype, rows)
    return Shape(dtype, vec, segment, checkpointed, ragged, powers, tables=tables, blocks=BLOCKS)


def _summed_by_warps(
    program: Program,
    gradient: Adjoint,
    steps: int,
    dtype: str,
    rows: tuple[tuple[str, int], ...],
) -> tuple[tuple[str, int, int], ...]:
    """The tables that have few rows, and for which there is shared memory; see :class:`Shape`."""
    found, left = [], SHARED // (WARPS * (8 if dtype == "float64" else 4))
    for name, _ in learned(program, gradient):
        count = dict(rows).get(name, 0)
        cells = count * (1 << (steps - 1).bit_length())
        if 0 < count <= FEW and cells <= left:
            found.append((name, count, cells))
            left -= cells
    return tuple(found)


def segment_of(program: Program, gradient: Adjoint, steps: int, dtype: str) -> int:
    """Steps of a segment of the backward pass through so many steps."""
    tabled = any(kind == "gated" for _, kind in learned(program, gradient))
    segment = min(TABLED if tabled else SEGMENT, 1 << (steps - 1).bit_length())
    while segment > 1 and segment * _registers(program, gradient, dtype) > LANE_HISTORY:
        segment //= 2
    return segment


def is_checkpointed(program: Program, gradient: Adjoint, steps: int, dtype: str) -> bool:
    """Whether the backward pass has to know the states at the start of its segments."""
    has_history = bool(history(program, gradient))
    return has_history and steps > segment_of(program, gradient, steps, dtype)


def _registers(program: Program, gradient: Adjoint, dtype: str) -> int:
    """32-bit registers that the history of one neuron takes at each step."""
    return len(history(program, gradient)) * (2 if dtype == "float64" else 1)


class Made(Protocol):
    """What a compiler makes."""

    @property
    def local(self) -> int:
        """Bytes that a thread keeps in memory because its registers do not suffice."""


Kernel = TypeVar("Kernel", bound=Made)


def fitting(make: Callable[[Shape], Kernel], shape: Shape) -> tuple[Kernel, Shape]:
    """The widest kernel, from this shape on, whose registers suffice, or else the narrowest."""
    while True:
        found, narrower = make(shape), shape.narrower()
        if not found.local or narrower is None:
            return found, shape
        shape = narrower


def history(program: Program, gradient: Adjoint) -> list[int]:
    """The nodes whose value the backward pass keeps for every step of a segment."""
    if all(program.constant(i) for i in gradient.history):
        return []
    constant = {program.leaf("v", i) for i in range(program.states) if program.constant(i)}
    return [node for node in gradient.kept if node not in constant]
