"""LLVM IR -> spikes: compile with llvmlite, run on the threads that torch is allowed."""

from __future__ import annotations

import ctypes
import struct
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import torch
from torch import Tensor

from spikeloom.kernel import emit_llvm
from spikeloom.kernel.adjoint import Adjoint, learned
from spikeloom.kernel.emit_llvm import Assume
from spikeloom.kernel.layout import DTYPES
from spikeloom.kernel.llvm_text import LANES
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
    """A compiled function of one argument: the address of its words."""

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

    def __call__(self, words: Sequence[int]) -> None:
        """Run; other Python threads may run meanwhile."""
        self._function((ctypes.c_int64 * len(words))(*words))


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


def _assume(program: Program, numbers: Sequence[float], fresh: Sequence[Tensor]) -> Assume:
    """What this call's numbers and outputs allow."""
    return _assumption(program, tuple(numbers), bool(fresh) and all(map(_streams, fresh)))


@lru_cache(maxsize=1024)
def _assumption(program: Program, numbers: tuple[float, ...], stream: bool) -> Assume:
    return Assume(program.powers(numbers), stream)


def _large(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() >= STREAM_FROM


def _streams(tensor: Tensor) -> bool:
    if not _large(tensor) or tensor.data_ptr() % 64:
        return False
    return tensor[0].numel() % max(LANES.values()) == 0


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
    assume = _assume(program, numbers, ys)
    kernel = _forward_kernel(program, DTYPES[xs[0].dtype], assume)
    neurons = xs[0][0].numel()
    keep: list[Any] = []
    nan = ctypes.c_int64(0)
    words = [ctypes.addressof(nan)]
    for x in xs:
        words += [x.data_ptr(), x.stride(0)]
    for v, w in zip(vs, ws, strict=True):
        words += [*_row(v, keep), w.data_ptr()]
    words += [y.data_ptr() for y in ys]
    words += _parameters(program, numbers, ps)
    states = max(1, program.states)
    long = not assume.stream and any(map(_large, ys))
    room = TILE_LONG if long else TILE_FORWARD
    tile = max(256, _aligned(room // (_width(vs) * states)))
    advise_huge_pages(ys)
    _run(kernel, steps, neurons, tile, tile * states, words, even=True)
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
    gws: Sequence[Tensor],
    gxs: Sequence[Tensor | None],
    gvs: Sequence[Tensor],
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
        gws: Gradients of the last states.
        gxs: Receive the gradients of the inputs; None where ``gradient`` has none.
        gvs: Receive the gradients of the initial states.

    Returns:
        Learned parameter -> gradient, in the parameter's shape (a row of neurons for per-neuron
        ones). Sums are taken in a fixed order, whatever the number of threads.
    """
    fresh = [gx for gx in gxs if gx is not None]
    assume = _assume(program, numbers, fresh)
    kernel = _backward_kernel(program, gradient, DTYPES[xs[0].dtype], assume)
    neurons = xs[0][0].numel()
    segment = min(steps, SEGMENT)
    kept, moving = len(gradient.kept), len(gradient.history)
    tile = _aligned(TILE_BACKWARD // (_width(vs) * segment * max(1, kept)))
    tile = max(64, min(2048, tile))
    buffers = program.states + moving + kept * segment + moving * -(-steps // segment)
    sums = _sums(program, gradient, ps, steps, neurons, tile)
    keep: list[Any] = []
    words = [segment]
    for x, gx in zip(xs, gxs, strict=True):
        words += [x.data_ptr(), x.stride(0), 0 if gx is None else gx.data_ptr()]
    for v, gw, gv in zip(vs, gws, gvs, strict=True):
        words += [*_row(v, keep), *_row(gw, keep), gv.data_ptr()]
    for gy in gys:
        words += [gy.data_ptr(), gy.stride(0)]
    words += [total.data_ptr() for total in sums.values()]
    words += _parameters(program, numbers, ps)
    advise_huge_pages(fresh)
    _run(kernel, steps, neurons, tile, tile * buffers, words, even=False)
    return {name: _total(total, dict(program.params)[name]) for name, total in sums.items()}


def _aligned(count: int) -> int:
    return count // 64 * 64


def _width(vs: Sequence[Tensor]) -> int:
    return vs[0].element_size() if vs else 4


def _row(v: Tensor, keep: list[Any]) -> tuple[int, int]:
    """Address and stride of one value a neuron; a shared value becomes one vector of it."""
    if v.dim():
        return v.data_ptr(), 1
    width = max(LANES.values())
    kind = ctypes.c_double if v.dtype == torch.float64 else ctypes.c_float
    keep.append((kind * width)(*[v.item()] * width))
    return ctypes.addressof(keep[-1]), 0


def _parameters(program: Program, numbers: Sequence[float], ps: Sequence[Tensor]) -> list[int]:
    words: list[int] = []
    remaining, tensors = iter(numbers), iter(ps)
    for _, kind in program.params:
        if kind == "number":
            words.append(struct.unpack("<q", struct.pack("<d", next(remaining)))[0])
            continue
        tensor = next(tensors)
        words.append(tensor.data_ptr())
        if kind == "gated":
            words.append(tensor.shape[0])
    return words


def _sums(
    program: Program, gradient: Adjoint, ps: Sequence[Tensor], steps: int, neurons: int, tile: int
) -> dict[str, Tensor]:
    """Where the tiles leave their shares of the parameter gradients."""
    tiles = -(-neurons // tile)
    values = {name: p for (name, _), p in zip(program.tensors, ps, strict=True)}
    found: dict[str, Tensor] = {}
    for name, kind in learned(program, gradient):
        p = values[name]
        shape = {"neuron": (neurons,), "gated": (tiles, *p.shape)}.get(kind, (tiles, steps))
        found[name] = p.new_zeros(shape)
    return found


def _total(shares: Tensor, kind: str) -> Tensor:
    if kind == "neuron":
        return shares
    axes = (0, 1) if kind == "scalar" else (0,)
    return shares.sum(axes, dtype=torch.float64).to(shares.dtype)


class _Scratch(threading.local):
    """Working memory that a thread keeps between calls."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)

    def address(self, size: int) -> int:
        if self._memory.numel() < size:
            self._memory = torch.empty(size, dtype=torch.uint8)
        return self._memory.data_ptr()


_scratch = _Scratch()


def _run(
    kernel: Kernel, steps: int, neurons: int, tile: int, scratch: int, words: list[int], even: bool
) -> None:
    """Split the neurons over threads, at whole tiles unless an even split is allowed."""
    threads = min(torch.get_num_threads(), max(1, steps * neurons // WORTH_A_THREAD))
    unit = 64 if even else tile
    share = -(-neurons // (threads * unit)) * unit

    def part(first: int) -> None:
        last = min(first + share, neurons)
        address = _scratch.address(8 * scratch + 64)
        kernel([steps, neurons, first, last, tile, address, *words])

    waiting: list[Future[None]] = [
        _pool().submit(part, first) for first in range(share, neurons, share)
    ]
    part(0)
    for future in waiting:
        future.result()


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="spikeloom")


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
