"""``run``: one call of a neuron, its arguments checked and its implementation chosen."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor

from spikeloom.kernel import checked, run_eager, run_traced
from spikeloom.kernel.checked import COMPUTED
from spikeloom.kernel.choose import choose, tell_fallback
from spikeloom.kernel.counted import counting_modes
from spikeloom.kernel.freed import in_one_node
from spikeloom.kernel.known import Answer, Known, Parameters, key_of, remember, settled
from spikeloom.kernel.lengths import Lengths, ending, mean_of, steps_left
from spikeloom.kernel.neuron import Neuron, Parameter
from spikeloom.kernel.plan import plan_for
from spikeloom.kernel.scan import Call, follow, scan
from spikeloom.kernel.sharded import check_unsharded, is_sharded, run_sharded

__all__ = ["COMPUTED", "run", "run_step"]

State = tuple[Tensor, ...]


# A neuron with several outputs gives a tuple of them, which its type does not tell.
@overload
def run(
    neuron: Neuron,
    x: Tensor | tuple[Tensor, ...],
    state: State | None = None,
    *,
    lengths: Lengths = None,
    params: dict[str, Parameter] | None = None,
    record: None = None,
    reduce: str | None = None,
    implementation: str = "auto",
) -> tuple[Any, State]: ...
@overload
def run(
    neuron: Neuron,
    x: Tensor | tuple[Tensor, ...],
    state: State | None = None,
    *,
    lengths: Lengths = None,
    params: dict[str, Parameter] | None = None,
    record: str,
    reduce: str | None = None,
    implementation: str = "auto",
) -> tuple[Any, State, Tensor]: ...
@overload
def run(
    neuron: Neuron,
    x: Tensor | tuple[Tensor, ...],
    state: State | None = None,
    *,
    lengths: Lengths = None,
    params: dict[str, Parameter] | None = None,
    record: str | None,
    reduce: str | None = None,
    implementation: str = "auto",
) -> Any: ...
def run(
    neuron: Neuron,
    x: Tensor | tuple[Tensor, ...],
    state: State | None = None,
    *,
    lengths: Lengths = None,
    params: dict[str, Parameter] | None = None,
    record: str | None = None,
    reduce: str | None = None,
    implementation: str = "auto",
) -> Any:
    """Run a neuron over a sequence.

    float16, bfloat16 and float32 inputs are computed in float32, float64 in float64; outputs have
    the input's dtype, states the dtype that is computed in. Integers and booleans, such as counts
    of events, are promoted as by torch: to the dtype of the neuron's tensors, or else to torch's
    default dtype. The backward pass keeps only the inputs and the initial state, on a GPU also the
    states at every 16th step of a longer sequence, and recomputes the rest.

    Where an input is a DTensor, each rank runs the neurons that it holds, and all results are
    DTensors: sharded as the input along the batch and along features, and gathered in time.

    The spike of a potential that is NaN is NaN. The CPU kernel also refuses a last state that is
    NaN; the other implementations do not look, because that would stop a GPU.

    Args:
        neuron: What to run.
        x: Input of shape ``[T, ...]``, time first; a tuple for a neuron with several inputs.
        state: States before the first step, each of shape ``x.shape[1:]``; None starts at rest.
        lengths: How many steps each sequence of the batch has, ``[batch]``, 0 to T: a list, or a
            tensor of integers on the CPU; None: all have T. It is as if each sequence ran alone:
            its last states are those at its own end, its outputs after that are 0, a recorded
            state stays as it is, a mean is taken over its own steps, and what stands in ``x``
            behind its end is not read and gets a gradient of 0.
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
    xs = x if isinstance(x, tuple) else (x,)
    asked = (record, reduce, implementation)
    if lengths is not None:
        return _run_to_ends(neuron, xs, state, params or {}, lengths, *asked)
    return _run(neuron, xs, state, params or {}, *asked)


def run_step(
    neuron: Neuron,
    x: Tensor | tuple[Tensor, ...],
    state: State | None = None,
    *,
    params: dict[str, Parameter] | None = None,
    implementation: str = "auto",
) -> Any:
    """Run a neuron for one step: :func:`run`, for inputs and outputs without a time axis.

    Args:
        neuron: What to run; it has no beginning.
        x: Input of shape ``[...]``; a tuple for a neuron with several inputs.
        state: As for :func:`run`, of shape ``x.shape``.
        params: As for :func:`run`.
        implementation: As for :func:`run`.

    Returns:
        ``(y, state)``: the output ``[...]`` and the states after the step.

    Raises:
        TypeError: As :func:`run`.
        ValueError: As :func:`run`.
        RuntimeError: As :func:`run`.

    Example:
        >>> import torch, spikeloom
        >>> spikes, (v,) = run_step(spikeloom.neurons.LIF(tau=2.0), torch.tensor([1.5, 3.0]))
        >>> spikes, v
        (tensor([0., 1.]), tensor([0.7500, 0.0000]))
    """
    xs = x if isinstance(x, tuple) else (x,)
    return _run(neuron, xs, state, params or {}, None, None, implementation, single=True)


def _run_to_ends(
    neuron: Neuron,
    xs: State,
    state: State | None,
    params: Parameters,
    lengths: Lengths,
    record: str | None,
    reduce: str | None,
    implementation: str,
) -> Any:
    """The call of a batch whose sequences have lengths of their own."""
    xs = checked.inputs(neuron, xs, params)
    stored, dtype = xs[0].dtype, COMPUTED[xs[0].dtype]
    left = steps_left(lengths, xs[0])
    begins = (*checked.states(neuron, state, xs[0], dtype), left)
    if record is not None and record not in neuron.state_names:
        raise _no_such_state(neuron, record)
    means = reduce == "mean"
    if means and stored != dtype:  # sums are not to be rounded before they are divided
        xs = tuple([part.to(dtype) for part in xs])
    summed = "sum" if means else reduce
    found = _run(ending(neuron), xs, begins, params, record, summed, implementation)
    y, states, *recorded = found
    if means:
        ys = [mean_of(part, left, stored) for part in (y if isinstance(y, tuple) else (y,))]
        y = tuple(ys) if isinstance(y, tuple) else ys[0]
    return (y, states[:-1], *recorded)


def _no_such_state(neuron: Neuron, record: str) -> ValueError:
    return ValueError(f"record: {neuron.name} has the states {neuron.state_names}, got {record!r}")


def _run(
    neuron: Neuron,
    xs: State,
    state: State | None,
    params: Parameters,
    record: str | None,
    reduce: str | None,
    implementation: str,
    single: bool = False,
) -> Any:
    key = key_of(neuron, xs, state, params, (record, reduce, implementation), single)
    if key is not None and (known := neuron.known_calls.get(key)) is not None:
        return known(neuron, xs, state, params)
    if isinstance(neuron, Neuron):
        if is_sharded(xs):

            def run_local(xs: State, state: State | None, params: Parameters) -> Any:
                return _run(neuron, xs, state, params, record, reduce, implementation, single)

            return run_sharded(run_local, neuron, xs, state, params, single)
        check_unsharded(neuron, state, params)
    given, xs = xs, _with_time(xs) if single else xs
    whole, xs = xs, checked.inputs(neuron, xs, params)
    stored, dtype = xs[0].dtype, COMPUTED[xs[0].dtype]
    steps = xs[0].shape[0] if neuron.steps is None else neuron.steps
    values = checked.parameters(neuron, params, xs[0], steps, dtype)
    vs = checked.states(neuron, state, xs[0], dtype)
    if reduce not in (None, "sum", "mean"):
        raise ValueError(f"reduce: must be 'sum', 'mean' or None, got {reduce!r}")
    if record is not None and record not in neuron.state_names:
        raise _no_such_state(neuron, record)
    name, reason = choose(implementation, xs[0].device, neuron.reason)
    if reason:
        tell_fallback(implementation, str(xs[0].device), reason)
    if neuron.begin is not None and xs[0].shape[0] != 1:
        xs = tuple(part.sum(0, keepdim=True, dtype=dtype) for part in xs)
    elif record is not None and stored != dtype:
        # A kernel writes all sequences in the inputs' dtype, and states are not to be rounded.
        xs = tuple(part.to(dtype) for part in xs)
    answer = Answer(neuron.outputs, len(vs), record, reduce, steps, stored, single)
    if neuron.program is not None and torch.onnx.is_in_onnx_export():
        # ONNX has no operator for a kernel.
        if _is_one_step(neuron, answer):
            answer, xs = answer._replace(steps=1, single=True), tuple([x[None] for x in xs])
        elif neuron.begin is None and not single:
            xs = _with_fixed_time(neuron, xs)
        return _run_on_tensors(run_traced.scan, answer, neuron, xs, vs, values, dtype)
    if neuron.program is not None and counting_modes():
        # Nobody could count what a kernel does.
        return _run_on_tensors(run_traced.scan, answer, neuron, xs, vs, values, dtype)
    if name == "eager":
        return _run_on_tensors(run_eager.scan, answer, neuron, xs, vs, values, dtype)
    call, tensors = _call(neuron, answer, xs, vs, values)
    as_given = all(map(operator.is_, whole, xs))
    if single and as_given:
        # A kernel needs no time axis, so autograd need not put it there and take it away.
        call, answer = call._replace(single=True), answer._replace(single=False)
        tensors = (*given, *tensors[len(given) :])
    if key is None:
        return answer.of_kernel(scan(call, tensors))
    groups = call.groups(tensors)
    plan = plan_for(call.text, steps, call.numbers, *groups, single=call.single)
    if as_given and settled(xs[0].device):
        known = Known(plan, answer, call.constant, neuron, params, tensors, at_rest=state is None)
        remember(neuron, key, known)
    return answer.of_kernel(follow(plan, call.constant, tensors))


def _with_time(xs: tuple[Any, ...]) -> State:
    return tuple([x[None] if isinstance(x, Tensor) else x for x in xs])


def _with_fixed_time(neuron: Neuron, xs: State) -> State:
    """Inputs for a file that holds the steps one after another, and is not to lose any."""
    steps = xs[0].shape[0]
    if isinstance(steps, torch.SymInt):
        raise ValueError(
            f"x: {neuron.name} is written to ONNX step by step, so its time axis cannot be open; "
            f"leave axis 0 out of dynamic_shapes, and write a file for each T"
        )
    # Whether an axis is to be open, the older exporter does not say: other lengths fail to fit.
    return tuple([x.reshape(int(steps), *x.shape[1:]) for x in xs])


def _is_one_step(neuron: Neuron, answer: Answer) -> bool:
    """Whether all time steps can be computed as one, because none depends on which it is."""
    over_time = {"step", "gated"}.intersection(neuron.kinds.values())
    return not (answer.states or neuron.begin or over_time or answer.reduce or answer.single)


def _run_on_tensors(
    scan: Callable[..., Any],
    answer: Answer,
    neuron: Neuron,
    xs: State,
    vs: State,
    values: dict[str, float | Tensor],
    dtype: torch.dtype,
) -> Any:
    if not answer.steps:
        nothing = xs[0].to(dtype)
        ys = tuple(nothing.sum(0) if answer.reduce else nothing for _ in range(neuron.outputs))
        return answer.of(ys, vs, None if answer.record is None else nothing)
    outputs, states = scan(neuron, xs, vs, values, answer.steps, dtype)
    ys = tuple(_total(y) if answer.reduce else torch.stack(y) for y in outputs)
    ws = tuple(w[-1].contiguous() for w in states)
    recorded = [] if answer.record is None else states[neuron.state_names.index(answer.record)]
    seq = (torch.stack(recorded),) if recorded else ()
    results = in_one_node((*ys, *ws, *seq))
    last = len(ys) + len(ws)
    return answer.of(
        results[: len(ys)], results[len(ys) : last], results[last] if recorded else None
    )


def _total(values: list[Tensor]) -> Tensor:
    """The sum, begun at zero as the kernels begin it."""
    return sum(values, start=torch.full_like(values[0], 0.0))


def _call(
    neuron: Neuron, answer: Answer, xs: State, vs: State, values: dict[str, float | Tensor]
) -> tuple[Call, State]:
    """A call of the kernel, and its tensors."""
    ps = tuple([value for value in values.values() if isinstance(value, Tensor)])
    constant = _constant(neuron, answer, (*xs, *vs, *ps))
    if answer.reduce is not None:
        # The sums over time are further states, and no output sequence is left.
        zero = torch.zeros((), dtype=COMPUTED[xs[0].dtype], device=xs[0].device)
        vs = (*vs, *(zero.expand(xs[0].shape[1:]) for _ in range(neuron.outputs)))
    numbers = tuple([value for value in values.values() if not isinstance(value, Tensor)])
    numbers = (*numbers, *neuron.surrogate_numbers.values())
    text = neuron.variant(answer.record, answer.reduce is not None)
    sizes = (len(xs), len(vs), len(ps), answer.sequences())
    return Call(text, answer.steps, numbers, *sizes, constant), (*xs, *vs, *ps)


def _constant(neuron: Neuron, answer: Answer, tensors: State) -> tuple[int, ...]:
    """Which results of a kernel have no gradient, as those of the step have none."""
    # The levels of a transformation are not seen: each may want any gradient.
    any_may = torch._C._are_functorch_transforms_active()
    learned = [any_may or tensor.requires_grad for tensor in tensors]
    found = neuron.differentiable(answer.record, answer.reduce is not None, learned)
    return tuple([number for number, has in enumerate(found) if not has])
