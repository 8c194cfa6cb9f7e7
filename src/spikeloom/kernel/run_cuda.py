"""CUDA C -> spikes: compile with NVRTC through CuPy, launch on torch's current stream.

Nothing here waits for the GPU or reads from it, and every tensor is torch's own, so calls can be
captured in a CUDA graph once their kernels have been compiled by a first call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import cupy
import numpy as np
import torch
from cupy.cuda import nvrtc
from torch import Tensor

from spikeloom.kernel import emit_cuda
from spikeloom.kernel.adjoint import Adjoint, learned
from spikeloom.kernel.cuda_scan import BLOCK, Shape
from spikeloom.kernel.emit_cuda import ACCESS, backward_shape, widest
from spikeloom.kernel.layout import DTYPES
from spikeloom.kernel.trace import Program

# Neither contraction nor flushing to zero: kernels round as torch does. cupy.RawModule appends
# -ftz=true to whatever it is given, so the compiler is called directly.
OPTIONS = ("--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true")

# Threads that sum parameter gradients: always as many, so that sums do not depend on the device.
SUMMING = 1 << 16
# Bytes that their shares may take, which bounds the threads where tables are large.
SHARES = 1 << 26

Argument = int | np.float32 | np.float64


def compile_text(text: str, capability: int) -> bytes:
    """Machine code for a device of this compute capability (90 for sm_90).

    For a device newer than the compiler knows, the code is PTX, which its driver translates.

    Raises:
        RuntimeError: If the compiler refuses the text.
    """
    known = max(arch for arch in nvrtc.getSupportedArchs() if arch <= capability)
    exact = known == capability
    target = f"--gpu-architecture={'sm' if exact else 'compute'}_{known}"
    program = nvrtc.createProgram(text, "spikeloom.cu", [], [])
    try:
        nvrtc.compileProgram(program, [target, *OPTIONS])
        code = nvrtc.getCUBIN(program) if exact else nvrtc.getPTX(program)
    except nvrtc.NVRTCError as error:
        log = nvrtc.getProgramLog(program)
        raise RuntimeError(f"NVRTC could not compile a kernel for sm_{known}: {log}") from error
    finally:
        nvrtc.destroyProgram(program)
    return bytes(code)


@dataclass(frozen=True)
class _Stream:
    """What CuPy asks of a stream."""

    ptr: int


class Kernel:
    """A CUDA function, compiled for each device on its first call there."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name
        self._functions: dict[torch.device, Any] = {}

    def __call__(self, device: torch.device, blocks: int, arguments: Sequence[Argument]) -> None:
        """Launch; returns at once."""
        with torch.cuda.device(device):
            stream = _Stream(torch.cuda.current_stream(device).cuda_stream)
            function = self._functions.get(device) or self._load(device)
            function((blocks,), (BLOCK,), arguments, stream=stream)

    def _load(self, device: torch.device) -> Any:
        major, minor = torch.cuda.get_device_capability(device)
        module = cupy.cuda.Module()
        module.load(compile_text(self._text, 10 * major + minor))
        self._functions[device] = module.get_function(self._name)
        return self._functions[device]


@lru_cache(maxsize=1024)
def _forward_kernel(program: Program, shape: Shape) -> Kernel:
    return Kernel(emit_cuda.forward(program, shape), "forward")


@lru_cache(maxsize=1024)
def _backward_kernel(program: Program, gradient: Adjoint, shape: Shape) -> Kernel:
    return Kernel(emit_cuda.backward(program, gradient, shape), "backward")


# What a call like an earlier one needs, found at once.


@lru_cache(maxsize=4096)
def _forward_plan(program: Program, numbers: tuple[float, ...], dtype: str, vec: int) -> Kernel:
    return _forward_kernel(program, Shape(dtype, vec, powers=program.powers(numbers)))


@lru_cache(maxsize=4096)
def _backward_plan(
    program: Program,
    numbers: tuple[float, ...],
    dtype: str,
    vec: int,
    gradient: Adjoint,
    steps: int,
) -> tuple[Kernel, Shape]:
    shape = backward_shape(program, gradient, steps, dtype, vec, program.powers(numbers))
    return _backward_kernel(program, gradient, shape), shape


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
        ws: Receive the last states. A state that became NaN stays NaN.
    """
    x, neurons = xs[0], xs[0].shape[1:].numel()
    vec = _vec(neurons, [*xs, *ys], [*vs, *ws, *_per_neuron(program, ps)])
    arguments: list[Argument] = [steps, neurons]
    for sequence in xs:
        arguments += _rows(sequence)
    for v, w in zip(vs, ws, strict=True):
        arguments += [*_state(v), w.data_ptr()]
    arguments += [y.data_ptr() for y in ys]
    arguments += _parameters(program, numbers, ps, x.dtype)
    kernel = _forward_plan(program, tuple(numbers), DTYPES[x.dtype], vec)
    kernel(x.device, _blocks(neurons, vec), arguments)


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
        ones). Sums are taken in a fixed order.
    """
    x, neurons = xs[0], xs[0].shape[1:].numel()
    reached = (gradient.begin or gradient.step).x
    found = [gx if node is not None else None for gx, node in zip(gxs, reached, strict=True)]
    last = [v.new_zeros(()) if gw is None else gw for v, gw in zip(vs, gws, strict=True)]
    sequences = [*xs, *gys, *(gx for gx in found if gx is not None)]
    first = [gv for gv in gvs if gv is not None]
    vec = _vec(neurons, sequences, [*vs, *last, *first, *_per_neuron(program, ps)])
    dtype = DTYPES[x.dtype]
    kernel, shape = _backward_plan(program, tuple(numbers), dtype, vec, gradient, steps)
    shares = _Shares(program, gradient, ps, neurons, steps, shape.vec)
    checkpoints = _checkpoints(program, gradient, x, steps, shape)
    arguments: list[Argument] = [steps, neurons, checkpoints.data_ptr()]
    for sequence, gx in zip(xs, found, strict=True):
        arguments += _rows(sequence)
        arguments += [] if gx is None else [gx.data_ptr()]
    for v, gw, gv in zip(vs, last, gvs, strict=True):
        arguments += [*_state(v), *_state(gw), 0 if gv is None else gv.data_ptr()]
    for gy in gys:
        arguments += _rows(gy)
    arguments += [share.data_ptr() for share in shares.tensors.values()]
    arguments += _parameters(program, numbers, ps, x.dtype)
    kernel(x.device, shares.blocks, arguments)
    return shares.totals()


def forward_launch(
    program: Program, steps: int, numbers: Sequence[float], dtype: torch.dtype, neurons: int
) -> partial[None]:
    """:func:`forward` for calls of one size.

    Args:
        program: The traced neuron.
        steps: T, at least 1.
        numbers: The parameters of kind ``number``, in order.
        dtype: Of the inputs.
        neurons: N.
    """
    return partial(forward, program, steps, numbers)


def backward_launch(
    program: Program,
    gradient: Adjoint,
    steps: int,
    numbers: Sequence[float],
    dtype: torch.dtype,
    neurons: int,
) -> partial[dict[str, Tensor]]:
    """:func:`backward` for calls of one size; arguments as above."""
    return partial(backward, program, gradient, steps, numbers)


# --- How wide, how long, how many ---


def _vec(neurons: int, sequences: Sequence[Tensor], dense: Sequence[Tensor]) -> int:
    """Neurons that one access takes: as many as fit if everything is aligned, else 1."""
    bits = 0
    for sequence in sequences:
        bits |= sequence.data_ptr()
        if sequence.shape[0] > 1:
            bits |= sequence.stride(0) * sequence.element_size()
    for tensor in dense:
        bits |= tensor.data_ptr() if tensor.dim() else 0
    wide = widest(DTYPES[sequences[0].dtype])
    return wide if neurons % wide == 0 and bits % ACCESS == 0 else 1


def _per_neuron(program: Program, ps: Sequence[Tensor]) -> list[Tensor]:
    kinds = (kind for _, kind in program.tensors)
    return [p for p, kind in zip(ps, kinds, strict=True) if kind == "neuron"]


def _real(dtype: torch.dtype) -> torch.dtype:
    """What a step computes in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _blocks(neurons: int, vec: int) -> int:
    return -(-neurons // (vec * BLOCK))


def _checkpoints(
    program: Program, gradient: Adjoint, x: Tensor, steps: int, shape: Shape
) -> Tensor:
    """Room for the states at the start of every segment but the last."""
    segments = -(-steps // shape.segment)
    moving = sum(not program.constant(i) for i in gradient.history)
    size = (segments - 1) * moving * x.shape[1:].numel()
    return x.new_empty(size, dtype=_real(x.dtype))


class _Shares:
    """Where threads leave their shares of the parameters' gradients.

    Attributes:
        tensors: Learned parameter -> its shares, one a thread in the last axis; those of a
            per-neuron parameter are its gradient already.
        blocks: How many blocks to launch.
    """

    def __init__(
        self,
        program: Program,
        gradient: Adjoint,
        ps: Sequence[Tensor],
        neurons: int,
        steps: int,
        vec: int,
    ) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.blocks = _blocks(neurons, vec)
        self._learned = learned(program, gradient)
        if not self._learned:
            return
        self._values = {name: p for (name, _), p in zip(program.tensors, ps, strict=True)}
        # Scalars are summed in float64 from the start; the others at the end.
        shapes = {
            name: {"scalar": (), "step": (steps,)}.get(kind, tuple(self._values[name].shape))
            for name, kind in self._learned
            if kind != "neuron"
        }
        if shapes:
            most = 8 * max(math.prod(shape) for shape in shapes.values())
            self.blocks = min(self.blocks, max(1, min(SUMMING, SHARES // most) // BLOCK))
        for name, kind in self._learned:
            p = self._values[name]
            if kind == "neuron":
                self.tensors[name] = p.new_empty(neurons)
            else:
                dtype = torch.float64 if kind == "scalar" else p.dtype
                size = (*shapes[name], self.blocks * BLOCK)
                self.tensors[name] = p.new_zeros(size, dtype=dtype)

    def totals(self) -> dict[str, Tensor]:
        """The gradients."""
        return {
            name: share
            if kind == "neuron"
            else share.sum(-1, dtype=torch.float64).to(self._values[name].dtype)
            for (name, kind), share in zip(self._learned, self.tensors.values(), strict=True)
        }


# --- Arguments, in the order that emit_cuda states ---


def _rows(sequence: Tensor) -> tuple[int, int]:
    """The address of a sequence's rows, and the stride between them."""
    return sequence.data_ptr(), sequence.stride(0)


def _state(v: Tensor) -> tuple[int, int]:
    """The address and stride of one value a neuron; a 0-d tensor serves them all."""
    return v.data_ptr(), min(v.dim(), 1)


def _parameters(
    program: Program, numbers: Sequence[float], ps: Sequence[Tensor], dtype: torch.dtype
) -> list[Argument]:
    """Numbers by value, tensors by address, tables with their number of rows."""
    number = np.float64 if _real(dtype) == torch.float64 else np.float32
    found: list[Argument] = []
    remaining, tensors = iter(numbers), iter(ps)
    for _, kind in program.params:
        if kind == "number":
            found.append(number(next(remaining)))
            continue
        tensor = next(tensors)
        found.append(tensor.data_ptr())
        if kind == "gated":
            found.append(tensor.shape[0])
    return found
