"""The scan as torch sees it: a differentiable function that can be mapped, compiled, exported.

The operators beneath have no autograd rule of their own; the autograd.Function around them is the
form that torch.compile, torch.export, torch.func and vmap all accept. Where none of these is
active, the plan of a call is followed without an operator, which is faster.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from spikeloom.kernel import operators
from spikeloom.kernel.batch import Dims, Mapped, each_sample, more_neurons
from spikeloom.kernel.freed import save, saved_tensors
from spikeloom.kernel.operators import LIBRARY
from spikeloom.kernel.plain import is_plain, is_watched
from spikeloom.kernel.plan import Plan, lies_plainly
from spikeloom.kernel.trace import Program

__all__ = ["Call", "follow", "scan"]

Tensors = tuple[Tensor, ...]


class Call(NamedTuple):
    """What a scan is, besides its tensors, which come as inputs, states and parameters.

    Attributes:
        text: The program.
        steps: T.
        numbers: The parameters of kind ``number``, in order.
        inputs: How many of the tensors are inputs,
        states: initial states,
        params: and parameters.
        outputs: How many output sequences there are.
        constant: Which results have no gradient.
        single: Whether sequences are one step without a time axis. What is kept for the gradient is
            then the same whether or not the call is followed, as activation checkpointing demands.
    """

    text: str
    steps: int
    numbers: tuple[float, ...]
    inputs: int
    states: int
    params: int
    outputs: int
    constant: tuple[int, ...] = ()
    single: bool = False

    def is_constant(self) -> bool:
        """Whether no result has a gradient."""
        return len(self.constant) == self.outputs + self.states

    def groups(self, tensors: Sequence[Any]) -> tuple[Sequence[Any], ...]:
        """The flat tensors as inputs, states and parameters."""
        first = self.inputs + self.states
        return tensors[: self.inputs], tensors[self.inputs : first], tensors[first:]

    def forward(self, *tensors: Tensor) -> Tensors:
        """Outputs and last states."""
        run = operators.scan if is_plain(tensors) else torch.ops.spikeloom.scan
        xs, *others = self.groups(tensors)
        found = run(self.text, self.steps, self.numbers, self._timed(xs), *others)
        return self._untimed(found, self.outputs)

    def backward(self, wanted: Sequence[int], *tensors: Tensor | None) -> Tensors:
        """The wanted gradients; behind the call's tensors come the gradients that arrived."""
        first = self.inputs + self.states + self.params
        gys, gws = tensors[first : first + self.outputs], tensors[first + self.outputs :]
        run = operators.scan_backward if is_plain(tensors) else torch.ops.spikeloom.scan_backward
        xs, *others = self.groups(tensors[:first])
        groups = self._timed(xs), *others, self._timed(gys), gws
        found = run(self.text, self.steps, self.numbers, wanted, *groups)
        return self._untimed(found, sum(number < self.inputs for number in wanted))

    def sequence_shape(self, x: Tensor) -> tuple[int, ...]:
        """The shape of an output, by that of an input."""
        return tuple(x.shape) if self.single else (self.steps, *x.shape[1:])

    def _timed(self, sequences: Sequence[Any]) -> Sequence[Any]:
        """Sequences as an operator takes them, which knows a time axis only."""
        return [sequence[None] for sequence in sequences] if self.single else sequences

    def _untimed(self, found: Sequence[Tensor], count: int) -> Tensors:
        """Results of an operator, the first ones of which are so many sequences."""
        if not self.single:
            return tuple(found)
        return (*(sequence[0] for sequence in found[:count]), *found[count:])

    def kinds(self) -> list[str]:
        """The kinds of the parameters that come as tensors."""
        return [kind for _, kind in Program.parse(self.text).tensors]


def scan(call: Call, tensors: Tensors) -> Tensors:
    """Run a program that may be traced or transformed; returns the outputs and the last states."""
    if forward_ad._current_level >= 0 and any(map(_has_tangent, tensors)):
        raise NotImplementedError(
            "spikeloom: a neuron has no forward-mode derivative; use reverse mode, as by "
            "backward(), torch.func.grad, vjp or jacrev"
        )
    gradient = (
        torch.is_grad_enabled()
        and not call.is_constant()
        and any(tensor.requires_grad for tensor in tensors)
    )
    operators.check_trace(gradient=gradient)
    return Scan.apply(call, *tensors) if gradient else call.forward(*tensors)


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad.unpack_dual(tensor).tangent is not None


def follow(plan: Plan, constant: tuple[int, ...], tensors: Tensors) -> Tensors:
    """The same where only autograd follows, and the plan is known.

    Args:
        plan: How to run.
        constant: Which results have no gradient; all have none if no tensor requires one.
        tensors: Inputs, initial states and the other parameters.
    """
    if torch.is_grad_enabled() and len(constant) < plan.results:
        return PlannedScan.apply(plan, constant, *tensors)
    return plan.forward(tensors)


# --- Autograd ---


class Scan(torch.autograd.Function):
    """The scan with its gradient; only the tensors it was given are kept for it."""

    @staticmethod
    def forward(call: Call, *tensors: Tensor) -> Tensors:
        return call.forward(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.call, *tensors = inputs
        save(ctx, *tensors)
        ctx.set_materialize_grads(False)
        if ctx.call.constant:
            ctx.mark_non_differentiable(*[output[i] for i in ctx.call.constant])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        # Read once: activation checkpointing allows no more.
        saved = saved_tensors(ctx)
        return None, *_swept(ctx.call, ctx.needs_input_grad[1:], saved, grads)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], call: Call, *tensors: Tensor) -> Any:
        return _mapped_scan(info.batch_size, in_dims[1:], call, tensors)


# torch asks for it at every call.
Scan.forward.__signature__ = inspect.signature(Scan.forward)  # type: ignore[attr-defined]  # any function takes one


class PlannedScan(torch.autograd.Function):
    """The same in the form that functorch does not accept, and torch applies faster."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, constant: tuple[int, ...], *tensors: Tensor) -> Tensors:
        ctx.plan = plan
        results, notes = plan.forward_noting(ctx.needs_input_grad[2:], tensors)
        save(ctx, *tensors, notes)
        ctx.set_materialize_grads(False)
        if constant:
            ctx.mark_non_differentiable(*[results[i] for i in constant])
        return results

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        plan, needed, kept = ctx.plan, ctx.needs_input_grad[2:], saved_tensors(ctx)
        saved, notes = kept[:-1], kept[-1]
        outputs, count = len(plan.program.outputs), len(saved)
        arrived = _filled(grads, outputs, plan.written, saved[0])
        lie = lies_plainly((*saved, *arrived))
        # Hooks on what is saved may bring it back in another layout.
        if lie is None or lie[:count] != plan.tensors or torch.is_grad_enabled() or is_watched():
            return None, None, *_swept(_call_of(plan), needed, saved, grads)
        wanted, gys, gws = _wanted(needed), arrived[:outputs], arrived[outputs:]
        found = plan.backward(wanted, saved, gys, gws, notes, lie=lie[count:])
        return None, None, *_placed(wanted, found, count)


def _call_of(plan: Plan) -> Call:
    program, states = plan.program, plan.given - plan.inputs
    params, outputs = len(plan.tensors) - plan.given, len(program.outputs)
    sizes = plan.inputs, states, params, outputs
    return Call(program.text, plan.steps, plan.numbers, *sizes, single=plan.single)


def _swept(
    call: Call, needed: tuple[bool, ...], saved: Tensors, grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients of a call's tensors, None where there is none."""
    wanted = _wanted(needed)
    filled = _filled(grads, call.outputs, call.sequence_shape(saved[0]), saved[0])
    tensors = (*saved, *filled)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        found = ScanBackward.apply(call, wanted, *tensors)
    else:
        found = call.backward(wanted, *tensors)
    return _placed(wanted, found, len(needed))


def _filled(
    grads: Sequence[Tensor | None], outputs: int, shape: Sequence[int], x: Tensor
) -> list[Tensor | None]:
    """The gradients that arrived, where an output's did not a zero that takes no memory."""
    return [
        x.new_zeros(()).expand(tuple(shape)) if grad is None and i < outputs else grad
        for i, grad in enumerate(grads)
    ]


def _wanted(needed: tuple[bool, ...]) -> tuple[int, ...]:
    return tuple([number for number, need in enumerate(needed) if need])


def _placed(wanted: tuple[int, ...], found: Sequence[Tensor], count: int) -> list[Tensor | None]:
    """The gradients found, each at its tensor's place among so many."""
    placed: list[Tensor | None] = [None] * count
    for number, gradient in zip(wanted, found, strict=True):
        placed[number] = gradient
    return placed


class ScanBackward(torch.autograd.Function):
    """The reverse sweep as a function of its own, so that a second derivative is refused."""

    @staticmethod
    def forward(call: Call, wanted: tuple[int, ...], *tensors: Tensor) -> Tensors:
        return call.backward(wanted, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        """Nothing is kept: there is no second derivative."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        raise RuntimeError(
            "spikeloom: a second derivative was asked for, but surrogate gradients have none; "
            "use implementation='eager' to differentiate the surrogate itself"
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], call: Call, wanted: tuple[int, ...], *tensors: Tensor
    ) -> Any:
        return _mapped_backward(info.batch_size, in_dims[2:], call, wanted, tensors)


# --- vmap ---


def _axes(call: Call, kinds: Sequence[str]) -> list[int | None]:
    """Where a mapped axis goes in each tensor of a call."""
    parameters = [0 if kind == "neuron" else None for kind in kinds]
    return [_axis(call)] * call.inputs + [0] * call.states + parameters


def _axis(call: Call) -> int:
    """Where a mapped axis goes in a sequence: behind time."""
    return 0 if call.single else 1


def _shares_mapped(call: Call, dims: Dims, kinds: Sequence[str]) -> bool:
    """Whether a parameter that all neurons share differs between samples."""
    parameters = dims[call.inputs + call.states :]
    return any(
        dim is not None and kind != "neuron" for dim, kind in zip(parameters, kinds, strict=False)
    )


def _mapped_scan(size: int, dims: Dims, call: Call, tensors: Sequence[Tensor]) -> Mapped:
    kinds = call.kinds()
    if _shares_mapped(call, dims, kinds):
        return each_sample(size, dims, tensors, call.forward)
    results = call.forward(*more_neurons(size, dims, tensors, _axes(call, kinds)))
    return results, tuple(_axis(call) if i < call.outputs else 0 for i in range(len(results)))


def _mapped_backward(
    size: int, dims: Dims, call: Call, wanted: Sequence[int], tensors: Sequence[Tensor | None]
) -> Mapped:
    kinds, first = call.kinds(), call.inputs + call.states
    shared = any(number >= first and kinds[number - first] != "neuron" for number in wanted)
    if shared or _shares_mapped(call, dims, kinds):
        return each_sample(size, dims, tensors, lambda *part: call.backward(wanted, *part))
    axes = [*_axes(call, kinds), *[_axis(call)] * call.outputs, *[0] * call.states]
    results = call.backward(wanted, *more_neurons(size, dims, tensors, axes))
    return results, tuple(_axis(call) if number < call.inputs else 0 for number in wanted)


@torch.library.register_vmap("spikeloom::scan", lib=LIBRARY)
def _scan_vmap(
    info: Any,
    in_dims: tuple[Any, ...],
    text: str,
    steps: int,
    numbers: list[float],
    xs: list[Tensor],
    vs: list[Tensor],
    ps: list[Tensor],
) -> Any:
    outputs = len(Program.parse(text).outputs)
    call = Call(text, steps, tuple(numbers), len(xs), len(vs), len(ps), outputs)
    dims = [dim for group in in_dims[3:] for dim in group]
    results, out = _mapped_scan(info.batch_size, dims, call, [*xs, *vs, *ps])
    return list(results), list(out)


@torch.library.register_vmap("spikeloom::scan_backward", lib=LIBRARY)
def _scan_backward_vmap(
    info: Any,
    in_dims: tuple[Any, ...],
    text: str,
    steps: int,
    numbers: list[float],
    wanted: list[int],
    xs: list[Tensor],
    vs: list[Tensor],
    ps: list[Tensor],
    gys: list[Tensor],
    gws: list[Tensor | None],
) -> Any:
    call = Call(text, steps, tuple(numbers), len(xs), len(vs), len(ps), len(gys))
    dims = [dim for group in in_dims[4:] for dim in group]
    tensors = [*xs, *vs, *ps, *gys, *gws]
    results, out = _mapped_backward(info.batch_size, dims, call, wanted, tensors)
    return list(results), list(out)


def _refuse_prototype(*_: Any) -> None:
    raise NotImplementedError(
        "spikeloom: a neuron's kernel does not follow torch's prototype of vmap, which "
        "torch.autograd.grad(is_grads_batched=True) and torch.autograd.functional with "
        "vectorize=True use; use torch.vmap around torch.autograd.grad, as in torch.vmap(lambda g: "
        "torch.autograd.grad(y, x, g, retain_graph=True))(gradients), torch.func.jacrev, or "
        "implementation='eager'"
    )


# The key of that prototype; functorch, which torch.vmap belongs to, has another one.
for _name in ("scan", "scan_backward"):
    LIBRARY.impl(_name, _refuse_prototype, "Batched")
