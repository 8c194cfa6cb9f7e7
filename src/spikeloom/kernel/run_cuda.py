"""Tensors -> launches: which kernel a call needs, and its arguments.

A call launches one kernel, and one more to sum the gradients of parameters that neurons share. What
a call like an earlier one needs is found at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import c_double, c_float
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel import cuda_device, emit_cuda
from spikeloom.kernel.adjoint import Adjoint, learned
from spikeloom.kernel.cuda_arguments import Arguments
from spikeloom.kernel.cuda_device import Kernel
from spikeloom.kernel.cuda_scan import noted
from spikeloom.kernel.cuda_shape import (
    BLOCK,
    WARPS,
    Shape,
    backward_shape,
    fitting,
    is_checkpointed,
    segment_of,
)
from spikeloom.kernel.cuda_totals import totals
from spikeloom.kernel.layout import DTYPES
from spikeloom.kernel.trace import Program

# Threads that sum parameter gradients: always as many, so that sums do not depend on the device.
SUMMING = 1 << 16
# Bytes that their shares may take, which bounds the threads where tables are large.
SHARES = 1 << 26


class _Launch:
    """What both directions share.

    Args:
        program: The traced neuron.
        steps: T, at least 1.
        numbers: The parameters of kind ``number``, in order.
        dtype: Of the inputs.
        neurons: N.
    """

    def __init__(
        self,
        program: Program,
        steps: int,
        numbers: Sequence[float],
        dtype: torch.dtype,
        neurons: int,
    ) -> None:
        self.program, self.steps, self.neurons = program, steps, neurons
        self._dtype, self._powers = DTYPES[dtype], program.powers(numbers)
        # What is computed with: a number beyond the range of float32 is infinite there.
        number = c_double if dtype == torch.float64 else c_float
        self._numbers = tuple([number(value).value for value in numbers])
        self._plans: dict[int, Plan] = {}

    def _arguments(self) -> Arguments:
        """The arguments of a launch, as far as all calls share them."""
        return Arguments(self.steps, self.neurons)

    def _plan_for(self, arguments: Arguments, x: Tensor, ps: Sequence[Tensor]) -> Plan:
        """The kernel that these arguments allow."""
        vec = arguments.vec(self._dtype, self.neurons)
        plan = self._plans.get(vec)
        if plan is None:
            plan = self._plans[vec] = self._planned(vec, x.device, ps)
        return plan

    def _planned(self, vec: int, device: torch.device, ps: Sequence[Tensor]) -> Plan:
        """The kernel for so many neurons a thread, or fewer."""
        raise NotImplementedError


class Forward(_Launch):
    """The forward kernel, ready for calls of one size.

    Args:
        arguments: Those of every launch.
        noting: Steps between the states that are noted for the sweep; 0 notes none.
    """

    def __init__(self, *arguments: Any, noting: int = 0) -> None:
        super().__init__(*arguments)
        self._noting = noting

    def _planned(self, vec: int, device: torch.device, ps: Sequence[Tensor]) -> Plan:
        shape = Shape(self._dtype, vec, powers=self._powers, noting=self._noting)
        return _forward_plan(self.program, shape, device)

    def room(self, x: Tensor) -> Tensor:
        """Where states can be noted, for an input like this one."""
        return _new_notes(_notes_size(self.program, self._noting, self.steps, self.neurons), x)

    def __call__(
        self,
        xs: Sequence[Tensor],
        vs: Sequence[Tensor],
        ps: Sequence[Tensor],
        ys: Sequence[Tensor],
        ws: Sequence[Tensor],
        notes: Tensor | None = None,
    ) -> None:
        """Run the neuron through time.

        Args:
            xs: Inputs with dense rows; of a single step also without the time axis.
            vs: Initial states, dense; a 0-d tensor serves all neurons.
            ps: The parameters that are tensors, dense, in order.
            ys: Receive the outputs, rows one after another.
            ws: Receive the last states. A state that became NaN stays NaN.
            notes: Receives the states that are noted.
        """
        arguments = self._arguments()
        for x in xs:
            arguments.rows(x)
        for v, w in zip(vs, ws, strict=True):
            arguments.row(v)
            arguments.address(w)
        for y in ys:
            arguments.address(y)
        arguments.parameters(self.program, self._numbers, ps)
        if self._noting:
            arguments.address(notes)
        plan = self._plan_for(arguments, xs[0], ps)
        plan.launch(arguments, _blocks(self.neurons, plan.shape.vec))


class Backward(_Launch):
    """The backward kernel, ready for calls of one size.

    Args:
        program: The traced neuron.
        gradient: Its adjoint.
        arguments: Those of every launch, from T on.
    """

    def __init__(self, program: Program, gradient: Adjoint, *arguments: Any) -> None:
        super().__init__(program, *arguments)
        self._gradient = gradient
        self._reached = (gradient.begin or gradient.step).x
        self._learned = learned(program, gradient)

    def _planned(self, vec: int, device: torch.device, ps: Sequence[Tensor]) -> Plan:
        rows = rows_of(self.program, ps)
        fixed = self.steps, self._dtype, vec, self._powers, rows
        shape = backward_shape(self.program, self._gradient, *fixed)
        return _backward_plan(self.program, self._gradient, shape, device)

    def __call__(
        self,
        xs: Sequence[Tensor],
        vs: Sequence[Tensor],
        ps: Sequence[Tensor],
        gys: Sequence[Tensor],
        gws: Sequence[Tensor | None],
        gxs: Sequence[Tensor | None],
        gvs: Sequence[Tensor | None],
        notes: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Run the reverse sweep.

        Args:
            xs: Inputs with dense rows; of a single step also without the time axis.
            vs: Initial states.
            ps: The parameters that are tensors.
            gys: Gradients of the outputs, with dense rows.
            gws: Gradients of the last states; None is zero.
            gxs: Receive the gradients of the inputs; None where the adjoint has none.
            gvs: Receive the gradients of the initial states; None where none is needed.
            notes: What the forward pass has noted, if it did.

        Returns:
            Learned parameter -> gradient, in the parameter's shape (a row of neurons for per-neuron
            ones). Sums are taken in a fixed order.
        """
        arguments = self._arguments()
        for x, gx, node in zip(xs, gxs, self._reached, strict=True):
            arguments.rows(x)
            if node is not None:
                arguments.address(gx)
        for v, gw, gv in zip(vs, gws, gvs, strict=True):
            arguments.row(v)
            arguments.row(gw)
            arguments.address(gv)
        for gy in gys:
            arguments.rows(gy)
        arguments.parameters(self.program, self._numbers, ps)
        plan = self._plan_for(arguments, xs[0], ps)
        checkpoints, are_noted = self._checkpoints(xs[0], plan.shape, notes)
        arguments.checkpoints(checkpoints, are_noted)
        if not self._learned:
            plan.launch(arguments, _blocks(self.neurons, plan.shape.vec))
            return {}
        values = dict(zip((name for name, _ in self.program.tensors), ps, strict=True))
        blocks = _blocks(self.neurons, plan.shape.vec)
        shares = _Shares(self._learned, values, self.neurons, self.steps, plan.shape, blocks)
        for tensor in shares.tensors.values():
            arguments.address(tensor)
        plan.launch(arguments, shares.blocks)
        return shares.totals()

    def _checkpoints(
        self, x: Tensor, shape: Shape, notes: Tensor | None
    ) -> tuple[Tensor | None, bool]:
        """The states at the start of every segment, or room for them; whether they are there."""
        if not shape.checkpointed:
            return None, False
        size = _notes_size(self.program, shape.segment, self.steps, self.neurons)
        if notes is not None and notes.shape == size:
            return notes, True
        return _new_notes(size, x), False


def noting(program: Program, gradient: Adjoint, steps: int, dtype: torch.dtype) -> int:
    """Steps between the states that a forward pass has to note for the sweep; 0 if it need not.

    Args:
        program: The traced neuron.
        gradient: The adjoint of the gradients that may be asked for.
        steps: T, at least 1.
        dtype: Of the inputs.
    """
    size = steps, DTYPES[dtype]
    # An input that entered once is not read again, wherever the states are computed.
    needed = program.begin is None and is_checkpointed(program, gradient, *size)
    return segment_of(program, gradient, *size) if needed else 0


def rows_of(program: Program, ps: Sequence[Tensor]) -> tuple[tuple[str, int], ...]:
    """Gated table -> how many rows it has.

    Args:
        program: The traced neuron.
        ps: The parameters that are tensors, in order.
    """
    pairs = zip(program.tensors, ps, strict=True)
    return tuple((name, p.shape[0]) for (name, kind), p in pairs if kind == "gated")


def _notes_size(program: Program, every: int, steps: int, neurons: int) -> tuple[int, int, int]:
    return -(-steps // every), len(noted(program)), neurons


def _new_notes(size: tuple[int, int, int], x: Tensor) -> Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(size, dtype=dtype)


# What a plan asks for.
forward_launch, backward_launch = Forward, Backward


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

    def launch(self, arguments: Arguments, blocks: int) -> None:
        """Launch with these arguments."""
        self.kernel.launch(blocks, BLOCK, arguments.packed(self.form))


@lru_cache(maxsize=4096)
def _forward_plan(program: Program, shape: Shape, device: torch.device) -> Plan:
    def make(shape: Shape) -> Kernel:
        return cuda_device.load(emit_cuda.forward(program, shape), "forward", device)

    return Plan(*fitting(make, shape), _form(program, shape.dtype))


@lru_cache(maxsize=4096)
def _backward_plan(program: Program, gradient: Adjoint, shape: Shape, device: torch.device) -> Plan:
    def make(shape: Shape) -> Kernel:
        return cuda_device.load(emit_cuda.backward(program, gradient, shape), "backward", device)

    return Plan(*fitting(make, shape), _form(program, shape.dtype))


def _form(program: Program, dtype: str) -> str:
    number = "d" if dtype == "float64" else "f"
    return "".join({"number": number, "gated": "qq"}.get(kind, "q") for _, kind in program.params)


def _blocks(neurons: int, vec: int) -> int:
    return -(-neurons // (vec * BLOCK))


# --- Working memory of the backward pass ---


class _Shares:
    """Where threads leave their shares of the parameters' gradients.

    Args:
        found: The learned parameters and their kinds.
        values: Parameter -> its tensor.
        neurons: N.
        steps: T.
        shape: Of the kernel.
        blocks: How many blocks there is work for.

    Attributes:
        tensors: Learned parameter -> its shares, one a thread or a warp in the last axis; those of
            a per-neuron parameter are its gradient already.
        blocks: How many blocks to launch.
    """

    def __init__(
        self,
        found: Sequence[tuple[str, str]],
        values: Mapping[str, Tensor],
        neurons: int,
        steps: int,
        shape: Shape,
        blocks: int,
    ) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.blocks = blocks
        self._values = values
        self._summed = [(name, kind) for name, kind in found if kind != "neuron"]
        cells = {
            name: {"scalar": 1, "step": steps}.get(kind, values[name].numel())
            for name, kind in self._summed
        }
        by_warps = {name for name, *_ in shape.tables}
        each = {name: WARPS if name in by_warps else BLOCK for name in cells}
        if cells:
            most = SHARES // (8 * max(cells[name] * each[name] for name in cells))
            self.blocks = min(blocks, max(1, min(SUMMING // BLOCK, most)))
        for name, kind in found:
            p = values[name]
            if kind == "neuron":
                self.tensors[name] = p.new_empty(neurons)
            else:
                # Scalars are summed in float64 from the start; the others at the end.
                dtype = torch.float64 if kind == "scalar" else p.dtype
                size = (cells[name], self.blocks * each[name])
                self.tensors[name] = p.new_empty(size, dtype=dtype)

    def totals(self) -> dict[str, Tensor]:
        """The gradients; shares are summed by one launch."""
        if not self._summed:
            return self.tensors
        found = dict(self.tensors)
        arguments, blocks = Arguments(), 0
        for name, _ in self._summed:
            shares, p = self.tensors[name], self._values[name]
            found[name] = torch.empty_like(p)
            arguments.shares(shares, found[name])
            blocks += shares.shape[0]
        kinds = tuple(kind for _, kind in self._summed)
        text = totals(DTYPES[p.dtype], kinds)
        cuda_device.load(text, "totals", p.device).launch(blocks, BLOCK, arguments.packed())
        return found
