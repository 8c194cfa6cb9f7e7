"""The scan as torch sees it: a differentiable function that can be mapped, compiled, exported.

The operators beneath have no autograd rule of their own; the autograd.Function around them is the
form that torch.compile, torch.export, torch.func and vmap all accept. Where none of these looks on,
the functions behind the operators are called as they are, which is quicker.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from spikeloom.kernel import operators
from spikeloom.kernel.batch import Dims, Mapped, each_sample, more_neurons
from spikeloom.kernel.freed import saved_tensors
from spikeloom.kernel.operators import LIBRARY
from spikeloom.kernel.trace import Program

__all__ = ["Call", "is_plain", "scan"]

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
    """

    text: str
    steps: int
    numbers: tuple[float, ...]
    inputs: int
    states: int
    params: int
    outputs: int

    def groups(self, tensors: Sequence[Any]) -> tuple[Sequence[Any], ...]:
        """The flat tensors as inputs, states and parameters."""
        first = self.inputs + self.states
        return tensors[: self.inputs], tensors[self.inputs : first], tensors[first:]

    def forward(self, *tensors: Tensor) -> Tensors:
        """Outputs and last states."""
        run = operators.scan if is_plain(tensors) else torch.ops.spikeloom.scan
        return tuple(run(self.text, self.steps, self.numbers, *self.groups(tensors)))

    def backward(self, wanted: Sequence[int], *tensors: Tensor | None) -> Tensors:
        """The wanted gradients; behind the call's tensors come the gradients that arrived."""
        first = self.inputs + self.states + self.params
        arrived = tensors[first : first + self.outputs], tensors[first + self.outputs :]
        run = operators.scan_backward if is_plain(tensors) else torch.ops.spikeloom.scan_backward
        groups = (*self.groups(tensors[:first]), *arrived)
        return tuple(run(self.text, self.steps, self.numbers, wanted, *groups))

    def filled(self, grads: Sequence[Tensor | None], x: Tensor) -> list[Tensor | None]:
        """The gradients that arrived, where an output's did not a zero that takes no memory."""
        return [
            x.new_zeros(()).expand(self.steps, *x.shape[1:])
            if grad is None and i < self.outputs
            else grad
            for i, grad in enumerate(grads)
        ]

    def kinds(self) -> list[str]:
        """The kinds of the parameters that come as tensors."""
        return [kind for _, kind in Program.parse(self.text).tensors]


def scan(call: Call, tensors: Tensors) -> Tensors:
    """Run a program; returns the outputs and the last states."""
    gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    plain = is_plain(tensors)
    if not plain:
        operators.check_recorder(gradient=gradient)
    if gradient:
        return (PlainScan if plain else Scan).apply(call, *tensors)
    return call.forward(*tensors)


def _watchers() -> tuple[Callable[[], Any], ...]:
    """Functions of this torch that tell whether somebody follows a call."""
    try:
        return (
            torch.jit.is_tracing,
            torch.autograd._profiler_enabled,
            torch._C._are_functorch_transforms_active,
            torch._C._len_torch_dispatch_stack,
        )
    except AttributeError:  # they have other names: take it that somebody does
        return (lambda: True,)


WATCHERS = _watchers()


def is_plain(tensors: Sequence[Tensor | None]) -> bool:
    """Whether nobody but autograd follows a call, and its tensors are simply memory.

    Graphs, transformations, dispatch modes and profiles see operators only.
    """
    if torch.compiler.is_compiling() or any(watches() for watches in WATCHERS):
        return False
    return all(map(_is_memory, tensors))


def _is_memory(tensor: Tensor | None) -> bool:
    """Whether a tensor's values are what lies at its address."""
    if tensor is None:
        return True
    if type(tensor) not in (Tensor, Parameter) or tensor.is_neg():
        return False
    try:
        return tensor.data_ptr() != 0
    except RuntimeError:  # it wraps another
        return False


# --- Autograd ---


class Scan(torch.autograd.Function):
    """The scan with its gradient; only the tensors it was given are kept for it."""

    @staticmethod
    def forward(call: Call, *tensors: Tensor) -> Tensors:
        return call.forward(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.call, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[1:]
        wanted = tuple(number for number, need in enumerate(needed) if need)
        saved = saved_tensors(ctx)  # read once: activation checkpointing allows no more
        tensors = (*saved, *ctx.call.filled(grads, saved[0]))
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            found = ScanBackward.apply(ctx.call, wanted, *tensors)
        else:
            found = ctx.call.backward(wanted, *tensors)
        place = dict(zip(wanted, found, strict=True))
        return (None, *(place.get(number) for number in range(len(needed))))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], call: Call, *tensors: Tensor) -> Any:
        return _mapped_scan(info.batch_size, in_dims[1:], call, tensors)


# torch asks for it at every call.
Scan.forward.__signature__ = inspect.signature(Scan.forward)  # type: ignore[attr-defined]  # any function takes one


class PlainScan(torch.autograd.Function):
    """The same in the form that functorch does not accept, and torch applies faster."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor) -> Tensors:
        Scan.setup_context(ctx, (call, *tensors), ())
        return call.forward(*tensors)

    backward = staticmethod(Scan.backward)


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
    return [1] * call.inputs + [0] * call.states + parameters


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
    return results, tuple(1 if i < call.outputs else 0 for i in range(len(results)))


def _mapped_backward(
    size: int, dims: Dims, call: Call, wanted: Sequence[int], tensors: Sequence[Tensor | None]
) -> Mapped:
    kinds, first = call.kinds(), call.inputs + call.states
    shared = any(number >= first and kinds[number - first] != "neuron" for number in wanted)
    if shared or _shares_mapped(call, dims, kinds):
        return each_sample(size, dims, tensors, lambda *part: call.backward(wanted, *part))
    axes = [*_axes(call, kinds), *[1] * call.outputs, *[0] * call.states]
    results = call.backward(wanted, *more_neurons(size, dims, tensors, axes))
    return results, tuple(1 if number < call.inputs else 0 for number in wanted)


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
