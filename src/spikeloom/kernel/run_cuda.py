"""Tensors -> launches: which kernel a call needs, and its arguments.

A call launches one kernel, and one more to sum the gradients of parameters that neurons share. What
a call like an earlier one needs is found at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_double, c_float
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from struct import Struct
from typing import NamedTuple

import torch
from torch import Tensor

from spikeloom.kernel import cuda_device, emit_cuda
from spikeloom.kernel.adjoint import Adjoint, learned
from spikeloom.kernel.cuda_device import Kernel
from spikeloom.kernel.cuda_scan import BLOCK, Shape
from spikeloom.kernel.cuda_totals import totals
from spikeloom.kernel.emit_cuda import ACCESS, backward_shape, fitting, widest
from spikeloom.kernel.layout import DTYPES
from spikeloom.kernel.trace import Program

# Threads that sum parameter gradients: always as many, so that sums do not depend on the device.
SUMMING = 1 << 16
# Bytes that their shares may take, which bounds the threads where tables are large.
SHARES = 1 << 26


class Numbers(NamedTuple):
    """The parameters of kind ``number``.

    Attributes:
        values: What is computed with, in order: beyond the range of float32 it is infinite there.
        powers: Those that a kernel may take for powers of two.
    """

    values: tuple[float, ...]
    powers: frozenset[str]

    @classmethod
    def of(cls, program: Program, numbers: Sequence[float], dtype: torch.dtype) -> Numbers:
        """The numbers of calls with inputs of this dtype."""
        number = c_double if dtype == torch.float64 else c_float
        return cls(tuple([number(value).value for value in numbers]), program.powers(numbers))


def forward(
    program: Program,
    steps: int,
    numbers: Numbers,
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
        numbers: The parameters of kind ``number``.
        xs: Inputs with dense rows.
        vs: Initial states, dense; a 0-d tensor serves all neurons.
        ps: The other parameters, dense, in order.
        ys: Receive the outputs, rows one after another.
        ws: Receive the last states. A state that became NaN stays NaN.
    """
    x, neurons = xs[0], xs[0].shape[1:].numel()
    dtype = DTYPES[x.dtype]
    arguments = _Arguments(steps, neurons)
    for sequence in xs:
        arguments.rows(sequence)
    for v, w in zip(vs, ws, strict=True):
        arguments.row(v)
        arguments.address(w)
    for y in ys:
        arguments.address(y)
    arguments.parameters(program, numbers.values, ps)
    vec = arguments.vec(dtype, neurons)
    plan = _forward_plan(program, numbers.powers, dtype, vec, x.device)
    plan.launch(arguments, _blocks(neurons, plan.shape.vec))


def backward(
    program: Program,
    gradient: Adjoint,
    steps: int,
    numbers: Numbers,
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
        numbers: The parameters of kind ``number``.
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
    dtype = DTYPES[x.dtype]
    arguments = _Arguments(steps, neurons)
    reached = (gradient.begin or gradient.step).x
    for sequence, gx, node in zip(xs, gxs, reached, strict=True):
        arguments.rows(sequence)
        if node is not None:
            arguments.address(gx)
    for v, gw, gv in zip(vs, gws, gvs, strict=True):
        arguments.row(v)
        arguments.row(gw)
        arguments.address(gv)
    for gy in gys:
        arguments.rows(gy)
    arguments.parameters(program, numbers.values, ps)
    vec = arguments.vec(dtype, neurons)
    plan = _backward_plan(program, numbers.powers, dtype, vec, x.device, gradient, steps)
    checkpoints = _checkpoints(program, gradient, x, steps, plan.shape)
    shares = _Shares(program, gradient, ps, neurons, steps, plan.shape.vec)
    arguments.address(checkpoints)
    for tensor in shares.tensors.values():
        arguments.address(tensor)
    plan.launch(arguments, shares.blocks)
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
    return partial(forward, program, steps, Numbers.of(program, numbers, dtype))


def backward_launch(
    program: Program,
    gradient: Adjoint,
    steps: int,
    numbers: Sequence[float],
    dtype: torch.dtype,
    neurons: int,
) -> partial[dict[str, Tensor]]:
    """:func:`backward` for calls of one size; arguments as above."""
    return partial(backward, program, gradient, steps, Numbers.of(program, numbers, dtype))


# --- Which kernel, found once ---


@dataclass(frozen=True)
class Plan:
    """A kernel, and how its arguments are handed over.

    Attributes:
        kernel: Loaded on the device.
        shape: What it was compiled for.
        form: The C types of its parameters, as for ``struct``.
    """

    kernel: Kernel
    shape: Shape
    form: str

    def launch(self, arguments: _Arguments, blocks: int) -> None:
        """Launch with these arguments."""
        self.kernel.launch(blocks, BLOCK, arguments.packed(self.form))


@lru_cache(maxsize=4096)
def _forward_plan(
    program: Program, powers: frozenset[str], dtype: str, vec: int, device: torch.device
) -> Plan:
    shape = Shape(dtype, vec, powers=powers)

    def make(shape: Shape) -> Kernel:
        return cuda_device.load(emit_cuda.forward(program, shape), "forward", device)

    return Plan(*fitting(make, shape), _form(program, dtype))


@lru_cache(maxsize=4096)
def _backward_plan(
    program: Program,
    powers: frozenset[str],
    dtype: str,
    vec: int,
    device: torch.device,
    gradient: Adjoint,
    steps: int,
) -> Plan:
    shape = backward_shape(program, gradient, steps, dtype, vec, powers)

    def make(shape: Shape) -> Kernel:
        return cuda_device.load(emit_cuda.backward(program, gradient, shape), "backward", device)

    return Plan(*fitting(make, shape), _form(program, dtype))


def _form(program: Program, dtype: str) -> str:
    number = "d" if dtype == "float64" else "f"
    return "".join({"number": number, "gated": "qq"}.get(kind, "q") for _, kind in program.params)


def _blocks(neurons: int, vec: int) -> int:
    return -(-neurons // (vec * BLOCK))


# --- Arguments, in the order that emit_cuda states ---


class _Arguments:
    """The arguments of a launch as they come together."""

    def __init__(self, *words: int) -> None:
        self._words: list[float] = list(words)
        self._before = 0
        # All addresses, and distances between rows, in one: what they are multiples of.
        self._bits = 0

    def address(self, tensor: Tensor | None) -> None:
        """Where a tensor is; null if there is none."""
        address = 0 if tensor is None else tensor.data_ptr()
        self._words.append(address)
        self._bits |= address

    def rows(self, sequence: Tensor) -> None:
        """The address of a sequence's rows, and the stride between them."""
        self.address(sequence)
        stride = sequence.stride(0)
        self._words.append(stride)
        if sequence.shape[0] > 1:
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

    def shares(self, shares: Tensor, result: Tensor) -> None:
        """What is summed, for how many values, and where the sums go."""
        self.address(shares)
        self._words.append(shares.shape[0])
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


# --- Working memory of the backward pass ---


def _checkpoints(
    program: Program, gradient: Adjoint, x: Tensor, steps: int, shape: Shape
) -> Tensor | None:
    """Room for the states at the start of every segment but the last."""
    segments = -(-steps // shape.segment)
    moving = sum(not program.constant(i) for i in gradient.history)
    size = (segments - 1) * moving * x.shape[1:].numel()
    real = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(size, dtype=real) if size else None


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
        self._summed: list[tuple[str, str]] = []
        found = learned(program, gradient)
        if not found:
            return
        self._values = {name: p for (name, _), p in zip(program.tensors, ps, strict=True)}
        self._summed = [(name, kind) for name, kind in found if kind != "neuron"]
        cells = {
            name: {"scalar": 1, "step": steps}.get(kind, self._values[name].numel())
            for name, kind in self._summed
        }
        if cells:
            most = SHARES // (8 * max(cells.values()))
            self.blocks = min(self.blocks, max(1, min(SUMMING, most) // BLOCK))
        for name, kind in found:
            p = self._values[name]
            if kind == "neuron":
                self.tensors[name] = p.new_empty(neurons)
            else:
                # Scalars are summed in float64 from the start; the others at the end.
                dtype = torch.float64 if kind == "scalar" else p.dtype
                size = (cells[name], self.blocks * BLOCK)
                self.tensors[name] = p.new_empty(size, dtype=dtype)

    def totals(self) -> dict[str, Tensor]:
        """The gradients; shares are summed by one launch."""
        if not self._summed:
            return self.tensors
        found = dict(self.tensors)
        arguments, blocks = _Arguments(self.blocks * BLOCK), 0
        for name, _ in self._summed:
            shares, p = self.tensors[name], self._values[name]
            found[name] = torch.empty_like(p)
            arguments.shares(shares, found[name])
            blocks += shares.shape[0]
        kinds = tuple(kind for _, kind in self._summed)
        text = totals(DTYPES[p.dtype], kinds)
        cuda_device.load(text, "totals", p.device).launch(blocks, BLOCK, arguments.packed())
        return found
