"""LLVM IR -> spikes: compile with llvmlite, run on the threads that torch is allowed."""

from __future__ import annotations

import ctypes
import struct
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import llvmlite
import llvmlite.binding as llvm
import torch
from torch import Tensor

from spikeloom.kernel import emit_llvm, layout
from spikeloom.kernel.adjoint import Adjoint, learned
from spikeloom.kernel.emit_llvm import Assume
from spikeloom.kernel.llvm_text import LANES
from spikeloom.kernel.threads import share_out
from spikeloom.kernel.trace import Program

# Bytes of states (forward) or history (backward) that a tile may take, chosen by measurement.
# Rows that are large but not written past the cache want long tiles.
TILE_FORWARD = 16 * 1024
TILE_LONG = 256 * 1024
TILE_BACKWARD = 128 * 1024
# Output bytes from which on writing past the cache pays.
STREAM_FROM = 8 * 1024 * 1024
# Steps whose states are kept at once in the backward pass.
SEGMENT = 16
# Neuron-steps below which a second thread costs more than it brings.
WORTH_A_THREAD = 1 << 17


class Kernel:
    """A compiled function of one argument: the address of its words, numbers last."""

    def __init__(self, text: str, name: str) -> None:
        module = llvm.parse_assembly(text)
        module.verify()
        machine = _machine()
        tuning = llvm.create_pipeline_tuning_options(speed_level=2)
        tuning.loop_vectorization = tuning.slp_vectorization = False
        builder = llvm.create_pass_builder(machine, tuning)
        builder.getModulePassManager().run(module, builder)
        # The engine owns the machine code; it must live as long as the function.
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        address = self._engine.get_function_address(name)
        self._function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)

    def __call__(self, words: Sequence[int], numbers: bytes) -> None:
        """Run; other Python threads may run meanwhile."""
        self._function(struct.pack(f"{len(words)}q", *words) + numbers)


def _machine() -> Any:
    if tuple(int(part) for part in llvmlite.__version__.split(".")[:2]) < (0, 45):
        llvm.initialize()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3)


@lru_cache(maxsize=1024)
def _forward_kernel(program: Program, dtype: str, assume: Assume) -> Kernel:
    return Kernel(emit_llvm.forward(program, dtype, assume), "forward")


@lru_cache(maxsize=1024)
def _backward_kernel(program: Program, gradient: Adjoint, dtype: str, assume: Assume) -> Kernel:
    return Kernel(emit_llvm.backward(program, gradient, dtype, assume), "backward")


# --- What a call like an earlier one needs, found at once ---


class Plan(NamedTuple):
    """A kernel, and how it goes through the neurons.

    Attributes:
        kernel: The kernel.
        tile: Neurons of a tile.
        scratch: Values that fit into working memory.
        numbers: The parameters of kind ``number``, as words.
        segment: Steps of a segment of the backward pass.
        learned: ``(name, kind)`` of the parameters whose gradients it sums.
    """

    kernel: Kernel
    tile: int
    scratch: int
    numbers: bytes
    segment: int = 0
    learned: tuple[tuple[str, str], ...] = ()


# Numbers are told apart by their bits, because 0 and -0 are equal.


def forward_plan(
    program: Program,
    numbers: Sequence[float],
    dtype: torch.dtype,
    size: int,
    *,
    stream: bool = False,
    indexed: bool = False,
) -> Plan:
    """The forward kernel for some calls.

    Args:
        program: The traced neuron.
        numbers: The parameters of kind ``number``, in order.
        dtype: Of the inputs.
        size: Bytes of an output.
        stream: Whether outputs may be written past the cache.
        indexed: Whether an index tells where the inputs' values are.
    """
    room = TILE_LONG if size >= STREAM_FROM and not stream else TILE_FORWARD
    return _forward_plan(program, _bits(numbers), dtype, stream, indexed, room)


@lru_cache(maxsize=4096)
def _forward_plan(
    program: Program, numbers: bytes, dtype: torch.dtype, stream: bool, indexed: bool, room: int
) -> Plan:
    assume = replace(_assume(program, numbers, stream), indexed=indexed)
    kernel = _forward_kernel(program, layout.DTYPES[dtype], assume)
    states = max(1, program.states)
    tile = max(256, _aligned(room // (_width(dtype) * states)))
    return Plan(kernel, tile, tile * states, numbers)


@lru_cache(maxsize=4096)
def _backward_plan(
    program: Program,
    gradient: Adjoint,
    numbers: bytes,
    dtype: torch.dtype,
    stream: bool,
    steps: int,
) -> Plan:
    assume = _assume(program, numbers, stream)
    kernel = _backward_kernel(program, gradient, layout.DTYPES[dtype], assume)
    segment = min(steps, SEGMENT)
    kept, moving = len(gradient.kept), len(gradient.history)
    tile = _aligned(TILE_BACKWARD // (_width(dtype) * segment * max(1, kept)))
    tile = max(64, min(2048, tile))
    buffers = program.states + moving + kept * segment + moving * -(-steps // segment)
    sums = tuple(learned(program, gradient))
    return Plan(kernel, tile, tile * buffers, numbers, segment, sums)


def _bits(numbers: Sequence[float]) -> bytes:
    return struct.pack(f"{len(numbers)}d", *numbers)


def _assume(program: Program, numbers: bytes, stream: bool) -> Assume:
    return Assume(program.powers(struct.unpack(f"{len(numbers) // 8}d", numbers)), stream)


def _width(dtype: torch.dtype) -> int:
    """Bytes of a value that is computed with."""
    return 8 if dtype == torch.float64 else 4


def _aligned(count: int) -> int:
    return count // 64 * 64


def _size(fresh: Sequence[Tensor]) -> int:
    """Bytes of each of some sequences alike; 0 if there is none."""
    return fresh[0].numel() * fresh[0].element_size() if fresh else 0


def _streams(fresh: Sequence[Tensor], neurons: int) -> bool:
    """Whether to write past the cache: all is large, and every row aligned."""
    if _size(fresh) < STREAM_FROM or neurons % max(LANES.values()):
        return False
    return not any(tensor.data_ptr() % 64 for tensor in fresh)


# --- Calls ---


def forward(
    program: Program,
    steps: int,
    numbers: Sequence[float],
    xs: Sequence[Tensor],
    vs: Sequence[Tensor],
    ps: Sequence[Tensor],
    ys: Sequence[Tensor],
    ws: Sequence[Tensor],
) -> None:
    """Run a neuron through time.

    Args:
        program: The traced neuron.
        steps: T, at least 1.
        numbers: The parameters of kind ``number``, in order.
        xs: Inputs with dense rows.
        vs: Initial states, dense; a 0-d tensor serves all neurons.
        ps: The other parameters, dense, in order.
        ys: Receive the outputs, rows one after another.
        ws: Receive the last states.

    Raises:
        ValueError: If a state has become NaN.
    """
    neurons = xs[0].shape[1:].numel()
    stream = _streams(ys, neurons)
    plan = forward_plan(program, numbers, xs[0].dtype, _size(ys), stream=stream)
    keep: list[Any] = []
    words: list[int] = []
    for x in xs:
        words += [x.data_ptr(), x.stride(0)]
    words += [tensor.data_ptr() for tensor in (*ys, *ws)]
    for v in vs:
        words += row_words(v, keep)
    advise_huge_pages(ys)
    run_forward(plan, steps, neurons, words + parameter_words(program, ps))


def run_forward(plan: Plan, steps: int, neurons: int, words: Sequence[int]) -> None:
    """Run a forward kernel.

    Args:
        plan: The kernel.
        steps: T.
        neurons: N.
        words: Its arguments behind ``nan``, see :func:`~spikeloom.kernel.emit_llvm.forward_words`.

    Raises:
        ValueError: If a state has become NaN.
    """
    nan = ctypes.c_int64(0)
    _run(plan, steps, neurons, [ctypes.addressof(nan), *words], even=True)
    if nan.value:
        raise ValueError(
            f"run: a state is NaN after {steps} steps; the input or the initial state holds NaN, "
            f"or the recurrence diverged"
        )


def backward(
    program: Program,
    gradient: Adjoint,
    steps: int,
    numbers: Sequence[float],
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
        program: The traced neuron.
        gradient: Its adjoint.
        steps: T, at least 1.
        numbers: The parameters of kind ``number``, in order.
        xs: Inputs with dense rows.
        vs: Initial states.
        ps: The other parameters.
        gys: Gradients of the outputs, with dense rows.
        gws: Gradients of the last states; None is zero.
        gxs: Receive the gradients of the inputs; None where ``gradient`` has none.
        gvs: Receive the gradients of the initial states; None where nobody wants one.

    Returns:
        Learned parameter -> gradient, in the parameter's shape (a row of neurons for per-neuron
        ones), perhaps in a wider dtype. Sums are taken in a fixed order, whatever the number of
        threads.
    """
    fresh = [gx for gx in gxs if gx is not None]
    neurons = xs[0].shape[1:].numel()
    stream = _streams(fresh, neurons)
    plan = _backward_plan(program, gradient, _bits(numbers), xs[0].dtype, stream, steps)
    sums = _sums(program, plan, ps, steps, neurons)
    keep: list[Any] = []
    words = [plan.segment]
    for x, gx in zip(xs, gxs, strict=True):
        words += [x.data_ptr(), x.stride(0), _address(gx)]
    for v, gw, gv in zip(vs, gws, gvs, strict=True):
        words += [*row_words(v, keep), *row_words(gw, keep), _address(gv)]
    for gy in gys:
        words += [gy.data_ptr(), gy.stride(0)]
    words += [total.data_ptr() for total in sums.values()]
    words += parameter_words(program, ps)
    advise_huge_pages(fresh)
    _run(plan, steps, neurons, words, even=False)
    return {name: _total(sums[name], kind) for name, kind in plan.learned}


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
    keep.append(_vector(_bits([v.item()]), v.dtype))
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


def _sums(
    program: Program, plan: Plan, ps: Sequence[Tensor], steps: int, neurons: int
) -> dict[str, Tensor]:
    """Where the tiles leave their shares of the parameter gradients."""
    if not plan.learned:
        return {}
    tiles = -(-neurons // plan.tile)
    values = {name: p for (name, _), p in zip(program.tensors, ps, strict=True)}
    found: dict[str, Tensor] = {}
    for name, kind in plan.learned:
        p = values[name]
        shape = {"neuron": (neurons,), "gated": (tiles, *p.shape)}.get(kind, (tiles, steps))
        found[name] = p.new_zeros(shape)
    return found


def _total(shares: Tensor, kind: str) -> Tensor:
    """The gradient itself; sums over tiles are taken, and left, in float64."""
    if kind == "neuron":
        return shares
    return shares.sum((0, 1) if kind == "scalar" else 0, dtype=torch.float64)


class _Scratch(threading.local):
    """Working memory that a thread keeps between calls."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)

    def address(self, size: int) -> int:
        if self._memory.numel() < size:
            self._memory = torch.empty(size, dtype=torch.uint8)
        return self._memory.data_ptr()


_scratch = _Scratch()


def _run(plan: Plan, steps: int, neurons: int, words: list[int], *, even: bool) -> None:
    """Split the neurons over threads, at whole tiles unless an even split is allowed."""
    threads = min(torch.get_num_threads(), max(1, steps * neurons // WORTH_A_THREAD))
    unit = 64 if even else plan.tile
    share = -(-neurons // (threads * unit)) * unit

    def part(first: int) -> None:
        last = min(first + share, neurons)
        address = _scratch.address(8 * plan.scratch + 64)
        plan.kernel([steps, neurons, first, last, plan.tile, address, *words], plan.numbers)

    if share >= neurons:
        part(0)
    else:
        share_out(range(0, neurons, share), part, threads)


HUGE_PAGE = 2 * 1024 * 1024


def advise_huge_pages(fresh: Sequence[Tensor]) -> None:
    """Ask Linux for huge pages under large new tensors: touching them costs most of the time."""
    for tensor in fresh:
        size = tensor.numel() * tensor.element_size()
        advise = _madvise() if size >= HUGE_PAGE else None
        if advise is None:
            continue
        start = -(-tensor.data_ptr() // HUGE_PAGE) * HUGE_PAGE
        stop = (tensor.data_ptr() + size) // HUGE_PAGE * HUGE_PAGE
        if stop > start:
            advise(start, stop - start, MADV_HUGEPAGE)


MADV_HUGEPAGE = 14


@lru_cache(maxsize=1)
def _madvise() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
