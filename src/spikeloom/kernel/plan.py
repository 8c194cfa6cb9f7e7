"""Plans: what a call of a kernel needs besides the values of its tensors, found once.

A plan belongs to a program, its numbers, and how the tensors lie in memory. It knows which of them
have to be copied, what the results look like, and the kernels, ready to be called.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel import layout
from spikeloom.kernel.adjoint import Adjoint, adjoint
from spikeloom.kernel.layout import Order
from spikeloom.kernel.plain import is_hooked, is_memory
from spikeloom.kernel.trace import Program

__all__ = ["Plan", "lies", "lies_plainly", "plan_for"]

Tensors = Sequence[Tensor]
# How a tensor lies in memory: its shape, strides, dtype and device.
Lie = tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device]
# How a kernel gets a tensor: None for one that it takes as it is.
Fit = Callable[[Tensor], Tensor] | None
Fresh = Callable[[], Tensor]

# Plans that are kept, and sweeps of each.
PLANS = 256
SWEEPS = 16


@cache
def _engine(device: str) -> ModuleType:
    if device == "cuda":
        from spikeloom.kernel import run_cuda

        return run_cuda
    from spikeloom.kernel import run_cpu

    return run_cpu


def plan_for(
    text: str,
    steps: int,
    numbers: Sequence[float],
    xs: Tensors,
    vs: Tensors,
    ps: Tensors,
    *,
    single: bool = False,
) -> Plan:
    """The plan of all calls that are like this one.

    Args:
        text: The program.
        steps: T, at least 1.
        numbers: The parameters of kind ``number``, in order.
        xs: Inputs, of at least one neuron.
        vs: Initial states.
        ps: The other parameters, in order.
        single: Whether sequences are one step without a time axis.
    """
    # Numbers are told apart by their bits, because 0 and -0 are equal.
    bits = struct.pack(f"{len(numbers)}d", *numbers)
    return _plan(text, steps, bits, (len(xs), len(vs)), lies((*xs, *vs, *ps)), single)


@lru_cache(maxsize=PLANS)
def _plan(
    text: str,
    steps: int,
    bits: bytes,
    counts: tuple[int, int],
    tensors: tuple[Lie, ...],
    single: bool,
) -> Plan:
    numbers = struct.unpack(f"{len(bits) // 8}d", bits)
    return Plan(Program.parse(text), steps, numbers, counts, tensors, single)


def lies(tensors: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """How these tensors lie in memory; None where there is none.

    Args:
        tensors: Of a call.
    """
    return tuple([None if t is None else (t.shape, t.stride(), t.dtype, t.device) for t in tensors])


def lies_plainly(tensors: Sequence[Any]) -> tuple[Any, ...] | None:
    """The same, or None if one of these is more than memory, as the wrapper of another tensor is.

    Args:
        tensors: Tensors, and None for zeros.
    """
    found: list[Any] = []
    for t in tensors:
        if t is None:
            found.append(None)
        elif is_memory(t):
            found.append((t.shape, t.stride(), t.dtype, t.device))
        else:
            return None
    return tuple(found)


class Plan:
    """How calls run whose tensors lie alike.

    Args:
        program: The traced neuron.
        steps: T, at least 1.
        numbers: The parameters of kind ``number``, in order.
        counts: How many of the tensors are inputs, and how many initial states.
        tensors: How the inputs, the initial states and the other parameters lie.
        single: Whether sequences are one step without a time axis.
    """

    def __init__(
        self,
        program: Program,
        steps: int,
        numbers: tuple[float, ...],
        counts: tuple[int, int],
        tensors: tuple[Lie, ...],
        single: bool,
    ) -> None:
        self.program, self.steps, self.numbers = program, steps, numbers
        self.tensors, self.single = tensors, single
        self.inputs, self.given = counts[0], sum(counts)
        example = self._sequence(tensors[0])
        self.dtype, self.device = tensors[0][2:]
        self.rows, self.shape = len(example), example.shape[1:]
        self.order = layout.row_order(example)
        self._fits = self._fitting()
        self._ys = [self.fresh_rows(steps)] * len(program.outputs)
        self._ws = [self.fresh_row(v) for v in tensors[self.inputs : self.given]]
        self._launch = self.engine.forward_launch(program, steps, numbers, *self.size)
        self._noting: dict[tuple[bool, ...], Any] = {}
        self._sweeps: dict[Any, _Sweep] = {}

    @property
    def engine(self) -> ModuleType:
        """The module that makes and launches the device's kernels."""
        return _engine(self.device.type)

    @property
    def written(self) -> tuple[int, ...]:
        """The shape of an output."""
        return tuple(self.shape) if self.single else (self.steps, *self.shape)

    @property
    def results(self) -> int:
        """How many results there are."""
        return len(self._ys) + len(self._ws)

    @property
    def size(self) -> tuple[torch.dtype, int]:
        """The inputs' dtype, and N."""
        return self.dtype, self.shape.numel()

    def forward(self, tensors: Tensors) -> tuple[Tensor, ...]:
        """The outputs and the last states.

        Args:
            tensors: Inputs, initial states and the other parameters.
        """
        ys, ws = [make() for make in self._ys], [make() for make in self._ws]
        self.write(tensors, ys, ws)
        return (*ys, *ws)

    def forward_noting(
        self, needed: tuple[bool, ...], tensors: Tensors
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """The outputs and the last states, and what the forward pass notes for the sweep.

        Args:
            needed: For each of the tensors, whether it may be asked for its gradient.
            tensors: As for :meth:`forward`.
        """
        if needed not in self._noting:
            self._noting[needed] = self._noting_launch(needed)
        launch = self._noting[needed]
        # A checkpoint's hooks expect the same of a call that is followed, which notes nothing.
        if launch is None or is_hooked():
            return self.forward(tensors), None
        ys, ws = [make() for make in self._ys], [make() for make in self._ws]
        notes = launch.room(tensors[0])
        launch(*self.groups(fitted(tensors, self._fits)), ys, ws, notes)
        return (*ys, *ws), notes

    def _noting_launch(self, needed: tuple[bool, ...]) -> Any:
        """The forward kernel that notes what the sweep needs; None if that is nothing."""
        wanted = tuple([number for number, need in enumerate(needed) if need])
        gradient = _adjoint(self.program, wanted)
        every = self.engine.noting(self.program, gradient, self.steps, self.dtype)
        if not every:
            return None
        make = self.engine.forward_launch
        return make(self.program, self.steps, self.numbers, *self.size, noting=every)

    def write(self, tensors: Tensors, ys: Tensors, ws: Tensors) -> None:
        """Run forward into memory that is there already.

        Args:
            tensors: As for :meth:`forward`.
            ys: Receive the outputs; as :meth:`fresh_rows` makes them.
            ws: Receive the last states; as :meth:`fresh_row` makes them.
        """
        self._launch(*self.groups(fitted(tensors, self._fits)), ys, ws)

    def backward(
        self,
        wanted: tuple[int, ...],
        tensors: Tensors,
        gys: Tensors,
        gws: Sequence[Tensor | None],
        notes: Tensor | None = None,
        into: Sequence[Tensor | None] = (),
        lie: tuple[Any, ...] | None = None,
    ) -> list[Tensor]:
        """The wanted gradients.

        Args:
            wanted: Which of the tensors, in ascending order.
            tensors: As for :meth:`forward`.
            gys: Gradients of the outputs.
            gws: Gradients of the last states; None is zero.
            notes: What :meth:`forward_noting` has noted; None if it did not run.
            into: Receive the gradients of the inputs, as :meth:`fresh_rows` makes them, None where
                none is needed; empty makes room for them.
            lie: How the gradients lie that arrive, if the caller has found out.
        """
        arrived = (*gys, *gws)
        key = wanted, lies(arrived) if lie is None else lie
        sweep = self._sweeps.get(key)
        if sweep is None:
            if len(self._sweeps) >= SWEEPS:
                self._sweeps.clear()
            sweep = self._sweeps[key] = _Sweep(self, wanted, key[1])
        return sweep(self.groups(fitted(tensors, self._fits)), arrived, notes, into)

    def groups(self, tensors: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """Inputs, initial states and the other parameters."""
        return tensors[: self.inputs], tensors[self.inputs : self.given], tensors[self.given :]

    def _fitting(self) -> tuple[Fit, ...]:
        xs, vs, ps = self.groups(self.tensors)
        kinds = [kind for _, kind in self.program.tensors]
        return (
            *(self.rows_fit(x) for x in xs),
            *(self.state_fit(v) for v in vs),
            *(
                _row_fit(p, self.order if kind == "neuron" else ())
                for p, kind in zip(ps, kinds, strict=True)
            ),
        )

    def rows_fit(self, x: Lie) -> Fit:
        """For a sequence: its rows dense, in the plan's order of axes."""
        if layout.is_dense(layout.ordered(self._sequence(x), self.order)):
            return None
        return partial(layout.row if self.single else layout.rows, order=self.order)

    def _sequence(self, x: Lie) -> Tensor:
        """A sequence that lies like this, with a time axis."""
        return _example(x)[None] if self.single else _example(x)

    def state_fit(self, v: Lie) -> Fit:
        """For a state: dense, or one number that serves all neurons."""
        shape, strides, *_ = v
        if shape.numel() > 1 and not any(strides):
            return _single
        return _row_fit(v, self.order)

    def fresh_rows(self, steps: int) -> Fresh:
        """For a new sequence whose memory follows the plan's order of axes."""
        axes = self.order or tuple(range(len(self.shape)))
        if self.single:
            return _fresh(self.shape, axes, self.dtype, self.device)
        axes = (0, *(axis + 1 for axis in axes))
        return _fresh((steps, *self.shape), axes, self.dtype, self.device)

    def fresh_row(self, like: Lie, order: Order | None = None) -> Fresh:
        """For a new value a neuron, like another, in the plan's order of axes or this one."""
        shape, _, dtype, device = like
        order = self.order if order is None else order
        return _fresh(shape, order or tuple(range(len(shape))), dtype, device)


class _Sweep:
    """The reverse sweep of a plan for some of its tensors.

    Args:
        plan: The plan.
        wanted: Which of its tensors, in ascending order.
        arrived: How the gradients lie that arrive, of the outputs and of the last states.
    """

    def __init__(self, plan: Plan, wanted: tuple[int, ...], arrived: tuple[Any, ...]) -> None:
        program = plan.program
        self._plan, self._outputs = plan, len(program.outputs)
        gys, gws = arrived[: self._outputs], arrived[self._outputs :]
        self._fits = (
            *map(plan.rows_fit, gys),
            *(None if gw is None else plan.state_fit(gw) for gw in gws),
        )
        self._fresh = self._results(wanted)
        gradient = _adjoint(program, wanted)
        self._reached = (gradient.begin or gradient.step).x
        self._launch = plan.engine.backward_launch(
            program, gradient, plan.steps, plan.numbers, *plan.size
        )

    def _results(self, wanted: tuple[int, ...]) -> list[Fresh | None]:
        """What makes room for a gradient; None for those that are not needed."""
        plan = self._plan
        kinds = [kind for _, kind in plan.program.tensors]
        found: list[Fresh] = [plan.fresh_rows(plan.rows)] * plan.inputs
        found += [plan.fresh_row(v) for v in plan.tensors[plan.inputs : plan.given]]
        for p, kind in zip(plan.tensors[plan.given :], kinds, strict=True):
            found.append(plan.fresh_row(p, None if kind == "neuron" else ()))
        return [make if i in wanted else None for i, make in enumerate(found)]

    def __call__(
        self,
        groups: tuple[Any, Any, Any],
        arrived: Sequence[Tensor | None],
        notes: Tensor | None,
        into: Sequence[Tensor | None],
    ) -> list[Tensor]:
        """The gradients.

        Args:
            groups: The plan's tensors as its kernels take them.
            arrived: The gradients of the outputs and of the last states.
            notes: What the forward pass has noted, if it did.
            into: Receive the gradients of the inputs; empty makes room for them.
        """
        fresh = self._fresh[len(into) :]
        results = [*into, *(None if make is None else make() for make in fresh)]
        gxs, gvs, gps = self._plan.groups(results)
        for gx, node in zip(gxs, self._reached, strict=True):
            if gx is not None and node is None:
                gx.zero_()
        arrived = fitted(arrived, self._fits)
        gys, gws = arrived[: self._outputs], arrived[self._outputs :]
        noted = () if notes is None else (notes,)
        sums = self._launch(*groups, gys, gws, gxs, gvs, *noted)
        found = [*gxs, *gvs]
        for gp, (name, kind) in zip(gps, self._plan.program.tensors, strict=True):
            if gp is None or name not in sums:
                found.append(None if gp is None else gp.zero_())
            elif kind == "neuron":
                found.append(layout.unrow(sums[name], gp, self._plan.order))
            else:
                found.append(sums[name].to(gp.dtype))
        return [gradient for gradient in found if gradient is not None]


@lru_cache(maxsize=1024)
def _adjoint(program: Program, wanted: tuple[int, ...]) -> Adjoint:
    """The adjoint for the wanted ones of a call's tensors."""
    leaves = program.leaves
    states = {leaf for leaf in leaves if leaf[0] == "v"}
    return adjoint(program, frozenset(leaves[i] for i in wanted) - states)


def fitted(tensors: Sequence[Any], fits: tuple[Fit, ...]) -> Sequence[Any]:
    """The tensors as a kernel takes them.

    Args:
        tensors: As they are.
        fits: How the kernel gets each of them.
    """
    if not any(fits):
        return tensors
    return [t if fit is None else fit(t) for t, fit in zip(tensors, fits, strict=True)]


def _row_fit(v: Lie, order: Order) -> Fit:
    example = _example(v)
    dense = (example.permute(order) if order else example).is_contiguous()
    return None if dense else partial(layout.row, order=order)


def _single(v: Tensor) -> Tensor:
    """The one number behind an expanded tensor."""
    return v.as_strided((), ())


def _example(tensor: Lie) -> Tensor:
    """A tensor that lies like this, without memory."""
    shape, strides, dtype, _ = tensor
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")


def _fresh(
    shape: Sequence[int], axes: Sequence[int], dtype: torch.dtype, device: torch.device
) -> Fresh:
    strides = torch.empty_permuted(tuple(shape), tuple(axes), device="meta").stride()
    # Half the time of torch.empty, which parses its sizes.
    return partial(torch.empty_strided, tuple(shape), strides, dtype=dtype, device=device)
