"""``run``: one call of a neuron, its arguments checked and its implementation chosen."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikeloom.kernel import run_eager, run_traced
from spikeloom.kernel.choose import choose
from spikeloom.kernel.counted import counting_modes
from spikeloom.kernel.freed import in_one_node
from spikeloom.kernel.neuron import Gated, Neuron, Parameter, check_form, kind, tensor_of
from spikeloom.kernel.promotion import promoted
from spikeloom.kernel.scan import Call, scan
from spikeloom.kernel.values import as_float
from spikeloom.kernel.vocabulary import with_grad

__all__ = ["run"]

# The dtype that an input is computed in.
COMPUTED = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
State = tuple[Tensor, ...]


def run(
    neuron: Neuron,
    x: Tensor | tuple[Tensor, ...],
    state: State | None = None,
    *,
    params: dict[str, Parameter] | None = None,
    record: str | None = None,
    reduce: str | None = None,
    implementation: str = "auto",
) -> Any:
    """Run a neuron over a sequence.

    float16, bfloat16 and float32 inputs are computed in float32, float64 in float64; outputs have
    the input's dtype, states the dtype that is computed in. Integers and booleans, such as counts
    of events, are promoted as by torch: to the dtype of the neuron's tensors, or else to torch's
    default dtype. The backward pass keeps only the inputs and the initial state, and recomputes the
    rest.

    The spike of a potential that is NaN is NaN. The CPU kernel also refuses a last state that is
    NaN; the other implementations do not look, because that would stop a GPU.

    Args:
        neuron: What to run.
        x: Input of shape ``[T, ...]``, time first; a tuple for a neuron with several inputs.
        state: States before the first step, each of shape ``x.shape[1:]``; None starts at rest.
        params: Values that replace the neuron's own in this call, of the same kind. Numbers have to
            be in the neuron's ranges; those of tensors are not read, which would stop a GPU.
        record: Name of a state to return after every step, in the dtype that is computed in.
        reduce: ``"sum"`` or ``"mean"`` over time of the outputs, without materialising them.
        implementation: ``"auto"``, ``"cupy"``, ``"llvm"`` or ``"eager"``. ``auto`` takes the
            kernel for the device or falls back to eager; a name is honoured or refused. While one
            of SpikingJelly's counters counts, the traced step runs on tensors instead, operation by
            operation, with the same results.

    Returns:
        ``(y, state)``: the outputs ``[T, ...]`` (without T if reduced) and the last states; with
        ``record`` also the recorded sequence ``[T, ...]``.

    Raises:
        TypeError: If an argument has the wrong type, dtype or device.
        ValueError: If a shape, a length or a name does not fit, a number is out of range, or a
            last state of the CPU kernel is NaN.
        RuntimeError: If the implementation asked for is not available.

    Example:
        >>> import torch, spikeloom
        >>> x = torch.full((4, 1), 1.5)
        >>> spikes, (v,) = spikeloom.run(spikeloom.neurons.LIF(tau=2.0), x)
        >>> spikes.flatten()
        tensor([0., 1., 0., 1.])
        >>> rate, _ = spikeloom.run(spikeloom.neurons.LIF(tau=2.0), x, reduce="mean")
        >>> rate
        tensor([0.5000])
    """
    xs = _inputs(neuron, x if isinstance(x, tuple) else (x,), params or {})
    dtype = COMPUTED[xs[0].dtype]
    steps = xs[0].shape[0] if neuron.steps is None else neuron.steps
    values = _parameters(neuron, params or {}, xs[0], steps, dtype)
    vs = _states(neuron, state, xs[0], dtype)
    if reduce not in (None, "sum", "mean"):
        raise ValueError(f"reduce: must be 'sum', 'mean' or None, got {reduce!r}")
    if record is not None and record not in neuron.rest:
        raise ValueError(
            f"record: {neuron.name} has the states {neuron.state_names}, got {record!r}"
        )
    name, _ = choose(implementation, xs[0].device.type, neuron.reason)
    stored = xs[0].dtype
    if neuron.begin is not None and xs[0].shape[0] != 1:
        xs = tuple(part.sum(0, keepdim=True, dtype=dtype) for part in xs)
    elif record is not None and stored != dtype:
        # A kernel writes all sequences in the inputs' dtype, and states are not to be rounded.
        xs = tuple(part.to(dtype) for part in xs)
    bound = Bound(neuron, xs, vs, values, steps, dtype, record, reduce is not None)
    ys, ws, seq = _implementation(neuron, name)(bound)
    if reduce == "mean":
        ys = tuple(y / max(steps, 1) for y in ys)
    ys = tuple(y if y.dtype == stored else y.to(stored) for y in ys)
    y = ys[0] if len(ys) == 1 else ys
    return (y, ws) if record is None else (y, ws, seq)


class Bound(NamedTuple):
    """A call whose arguments have been checked."""

    neuron: Neuron
    xs: State
    vs: State
    values: dict[str, float | Tensor]
    steps: int
    dtype: torch.dtype
    record: str | None
    reduced: bool


Results = tuple[State, State, Tensor | None]


def _implementation(neuron: Neuron, chosen: str) -> Callable[[Bound], Results]:
    """What runs a call; nobody could count what a kernel does."""
    if neuron.program is not None and counting_modes():
        return partial(_run_on_tensors, run_traced.scan)
    return partial(_run_on_tensors, run_eager.scan) if chosen == "eager" else _run_kernel


def _run_on_tensors(scan: Callable[..., Any], call: Bound) -> Results:
    neuron, x = call.neuron, call.xs[0]
    if not call.steps:
        nothing = x.to(call.dtype)
        ys = tuple(nothing.sum(0) if call.reduced else nothing for _ in range(neuron.outputs))
        return ys, call.vs, None if call.record is None else nothing
    outputs, states = scan(neuron, call.xs, call.vs, call.values, call.steps, call.dtype)
    ys = tuple(_total(y) if call.reduced else torch.stack(y) for y in outputs)
    ws = tuple(w[-1].contiguous() for w in states)
    recorded = [] if call.record is None else states[neuron.state_names.index(call.record)]
    seq = (torch.stack(recorded),) if recorded else ()
    results = in_one_node((*ys, *ws, *seq))
    last = len(ys) + len(ws)
    return results[: len(ys)], results[len(ys) : last], results[last] if recorded else None


def _total(values: list[Tensor]) -> Tensor:
    """The sum, begun at zero as the kernels begin it."""
    return sum(values, start=torch.full_like(values[0], 0.0))


def _run_kernel(call: Bound) -> Results:
    neuron, vs, outputs = call.neuron, call.vs, call.neuron.outputs
    if call.reduced:
        # The sums over time are further states, and no output sequence is left.
        zero = torch.zeros((), dtype=call.dtype, device=call.xs[0].device)
        vs = (*vs, *(zero.expand(call.xs[0].shape[1:]) for _ in range(outputs)))
        outputs = 0
    outputs += call.record is not None
    numbers = tuple([value for value in call.values.values() if not isinstance(value, Tensor)])
    tensors = tuple([value for value in call.values.values() if isinstance(value, Tensor)])
    text = neuron.variant(call.record, call.reduced)
    sizes = (len(call.xs), len(vs), len(tensors), outputs)
    results = scan(Call(text, call.steps, numbers, *sizes), (*call.xs, *vs, *tensors))
    ys, ws, seq = results[:outputs], results[outputs:], None
    if call.record is not None:
        ys, seq = ys[:-1], ys[-1]
    if call.reduced:
        own = len(call.vs)
        ys, ws = ws[own:], ws[:own]
    return ys, ws, seq


def _inputs(neuron: Neuron, xs: State, params: dict[str, Parameter]) -> State:
    if not isinstance(neuron, Neuron):
        given = (
            f"the class {neuron.__name__}" if isinstance(neuron, type) else type(neuron).__name__
        )
        raise TypeError(
            f"neuron: must be a spikeloom.Neuron such as neurons.LIF(), got {given}; call "
            f"run(neuron, x)"
        )
    if len(xs) != neuron.inputs:
        raise TypeError(f"x: {neuron.name} reads {neuron.inputs} input(s), got {len(xs)}")
    xs = promoted(xs, lambda: {**neuron.params, **params})
    for x in xs:
        if not isinstance(x, Tensor):
            raise TypeError(f"x: must be a tensor [T, ...], got {type(x).__name__}")
        if x.layout is not torch.strided:
            raise TypeError(f"x: must be dense, got {x.layout}; pass x.to_dense()")
        if x.dtype not in COMPUTED:
            raise TypeError(
                f"x: must be float16, bfloat16, float32, float64, integer or bool, got {x.dtype}"
            )
        if x.dim() == 0:
            raise ValueError("x: needs a time axis, [T, ...]; for one step pass x[None]")
        if x.shape != xs[0].shape or x.dtype != xs[0].dtype or x.device != xs[0].device:
            raise ValueError(
                f"x: all inputs need the same shape, dtype and device, got {_describe(x)} "
                f"beside {_describe(xs[0])}"
            )
    return xs


def _describe(x: Tensor) -> str:
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')} on {x.device}"


def _parameters(
    neuron: Neuron, given: dict[str, Parameter], x: Tensor, steps: int, dtype: torch.dtype
) -> dict[str, float | Tensor]:
    """The parameters of a call: numbers as they are, tensors checked, converted and expanded."""
    given = _checked(neuron, given) if given else given
    values: dict[str, float | Tensor] = {}
    for name, own in neuron.params.items():
        value = given.get(name, own)
        tensor = tensor_of(value)
        if tensor is None:
            values[name] = value  # type: ignore[assignment]  # a number
        else:
            values[name] = _fitted(neuron, name, tensor, x, steps, dtype)
    return values


def _checked(neuron: Neuron, given: dict[str, Parameter]) -> dict[str, Parameter]:
    """Given values, if they can take the places of the neuron's own and numbers are in range."""
    checked: dict[str, Parameter] = {}
    for name, value in given.items():
        if name not in neuron.params:
            raise ValueError(f"params: {neuron.name} has {list(neuron.params)}, got {name!r}")
        own = neuron.params[name]
        checked[name] = value if value is own else _same_kind(neuron, name, value)
    if any(isinstance(value, float) for value in checked.values()):
        values = ((name, checked.get(name, own)) for name, own in neuron.params.items())
        neuron.check_parameters({name: v for name, v in values if isinstance(v, float)})
    return checked


def _same_kind(neuron: Neuron, name: str, value: Any) -> Parameter:
    """A given value, if it can take the place of the neuron's own."""
    where, expected = f"params: {name!r} of {neuron.name}", neuron.kinds[name]
    if expected == "scalar" and isinstance(value, Tensor) and value.shape == (1,):
        value = value.reshape(())  # sharded parameters have a dimension
    if kind(value) != expected:
        raise ValueError(f"{where} is of kind {expected}, got {kind(value)}")
    if expected == "number":
        number = as_float(value)
        if not isinstance(number, float):
            raise TypeError(f"{where} is a number, got {value!r}")
        return number
    check_form(where, value)
    own = neuron.params[name]
    if isinstance(value, Gated) and isinstance(own, Gated):
        rows, found = len(own.values), len(value.values)
        if found != rows:
            raise ValueError(f"{where} has {rows} rows, got {found}")
    return value


def _fitted(
    neuron: Neuron, name: str, tensor: Tensor, x: Tensor, steps: int, dtype: torch.dtype
) -> Tensor:
    """A parameter in the dtype that is computed in, one value for each neuron, step or both."""
    where = f"{neuron.name}: parameter {name!r}"
    if tensor.device != x.device:
        raise TypeError(f"{where} is on {tensor.device}, the input on {x.device}; move one")
    if tensor.dtype != dtype:
        # As in torch, a single value takes the precision of what it meets.
        if tensor.dtype == torch.float64 and tensor.dim():
            raise TypeError(
                f"{where} is float64, the input {x.dtype}; convert the input or the neuron"
            )
        tensor = tensor.to(dtype)
    shape, layout = x.shape[1:], neuron.kinds[name]
    if tensor.requires_grad:
        # The product, because numel() would fix a size that a graph leaves open.
        scale = neuron.gradient_scale(name, math.prod(shape))
        tensor = tensor if scale is None else with_grad(tensor, (tensor, scale))
    # To compare sizes would fix those that a graph leaves open; to expand does not.
    if layout == "neuron" and (torch.compiler.is_compiling() or tensor.shape != shape):
        try:
            return tensor.expand(shape)
        except RuntimeError:
            raise ValueError(
                f"{where} has shape {tuple(tensor.shape)}, which does not broadcast to the neurons "
                f"{tuple(shape)}; use e.g. shape [C, 1, 1] for channels"
            ) from None
    if layout == "gated" and tensor.shape[-1] == 1:
        return tensor.expand(-1, steps)
    if layout in ("gated", "step") and tensor.shape[-1] != steps:
        raise ValueError(f"{where} has {tensor.shape[-1]} steps, the sequence has T={steps}")
    return tensor


def _states(neuron: Neuron, state: State | None, x: Tensor, dtype: torch.dtype) -> State:
    shape = x.shape[1:]
    if state is None:
        return tuple(
            torch.broadcast_to(torch.full((), rest, dtype=dtype, device=x.device), shape)
            for rest in neuron.rest.values()
        )
    if not isinstance(state, tuple) or len(state) != len(neuron.rest):
        raise ValueError(
            f"state: {neuron.name} needs the tuple {neuron.state_names}, got {state!r}"
        )
    for name, value in zip(neuron.rest, state, strict=True):
        if not isinstance(value, Tensor) or value.shape != shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else value
            raise ValueError(
                f"state {name!r}: must have the neurons' shape {tuple(shape)}, got {got}"
            )
        if value.dtype != dtype or value.device != x.device:
            raise TypeError(
                f"state {name!r}: must be {dtype} on {x.device} for an input of {x.dtype}, "
                f"got {value.dtype} on {value.device}"
            )
    return state
