"""``run``: a neuron over a whole sequence, as one torch operator.

Two operators, ``spikeloom::scan`` and ``spikeloom::scan_backward``, carry the program as text, so
a compiled or exported graph is complete in itself. They are defined without an autograd rule of
their own; the autograd.Function around them is what torch.compile, torch.export, torch.func and
vmap all accept.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikeloom.kernel import layout, run_eager
from spikeloom.kernel.adjoint import Adjoint, adjoint
from spikeloom.kernel.choose import choose
from spikeloom.kernel.neuron import Neuron, Parameter, kind, tensor_of
from spikeloom.kernel.trace import Program, recording, summing

__all__ = ["run"]

COMPUTED = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
State = tuple[Tensor, ...]

# torch.compile takes the text they return as a constant and does not look inside.
recording_text = torch.compiler.assume_constant_result(recording)
summing_text = torch.compiler.assume_constant_result(summing)


class Counts(NamedTuple):
    """How a flat list of tensors divides."""

    inputs: int
    states: int
    params: int
    outputs: int

    @property
    def first_param(self) -> int:
        """Where the parameters begin."""
        return self.inputs + self.states


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
    the input's dtype, states the dtype that is computed in. The backward pass keeps only the
    inputs and the initial state, and recomputes the rest.

    Args:
        neuron: What to run.
        x: Input of shape ``[T, ...]``, time first; a tuple for a neuron with several inputs.
        state: States before the first step, each of shape ``x.shape[1:]``; None starts at rest.
        params: Values that replace the neuron's own in this call, of the same kind.
        record: Name of a state to return after every step.
        reduce: ``"sum"`` or ``"mean"`` over time of the outputs, without materialising them.
        implementation: ``"auto"``, ``"cupy"``, ``"llvm"`` or ``"eager"``. ``auto`` takes the
            kernel for the device or falls back to eager; a name is honoured or refused.

    Returns:
        ``(y, state)``: the outputs ``[T, ...]`` (without T if reduced) and the last states; with
        ``record`` also the recorded sequence ``[T, ...]``.

    Raises:
        TypeError: If an argument has the wrong type, dtype or device.
        ValueError: If a shape, a length or a name does not fit, or a state becomes NaN (on a GPU
            and in eager mode NaN is passed on instead, to avoid a synchronisation).
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
    dtype = _check_inputs(neuron, xs)
    values = _parameters(neuron, params or {}, xs[0], dtype)
    steps = _steps(neuron, xs[0], values)
    vs = _states(neuron, state, xs[0], dtype)
    if reduce not in (None, "sum", "mean"):
        raise ValueError(f"reduce: must be 'sum', 'mean' or None, got {reduce!r}")
    if record is not None and record not in neuron.rest:
        raise ValueError(
            f"record: {neuron.name} has the states {neuron.state_names}, got {record!r}"
        )
    wide = xs[0].dtype
    if neuron.begin is not None and xs[0].shape[0] != 1:
        xs = tuple(part.sum(0, keepdim=True, dtype=dtype) for part in xs)
    name, _ = choose(implementation, xs[0].device.type, neuron.reason)
    if name == "eager":
        ys, ws, seq = _run_eager(neuron, xs, vs, values, steps, dtype, record, reduce)
    else:
        ys, ws, seq = _run_kernel(neuron, xs, vs, values, steps, record, reduce)
    if reduce == "mean":
        ys = tuple(y / max(steps, 1) for y in ys)
    ys = tuple(y.to(wide) for y in ys)
    y = ys[0] if len(ys) == 1 else ys
    return (y, ws) if record is None else (y, ws, seq)


def _run_eager(
    neuron: Neuron,
    xs: State,
    vs: State,
    values: dict[str, float | Tensor],
    steps: int,
    dtype: torch.dtype,
    record: str | None,
    reduce: str | None,
) -> tuple[State, State, Tensor | None]:
    outputs, states = run_eager.scan(neuron, xs, vs, values, steps, dtype)
    like = xs[0].new_zeros(xs[0].shape[1:], dtype=dtype)
    if not steps:
        outputs = tuple([] for _ in range(neuron.outputs))

    def join(values: list[Tensor]) -> Tensor:
        return torch.stack(values) if values else like.new_empty((0, *like.shape))

    def total(values: list[Tensor]) -> Tensor:
        return sum(values, start=like)

    ys = tuple((total if reduce else join)(output) for output in outputs)
    ws = tuple(s[-1].contiguous() if s else v for s, v in zip(states, vs, strict=True))
    seq = None if record is None else join(states[neuron.state_names.index(record)])
    return ys, ws, seq


def _run_kernel(
    neuron: Neuron,
    xs: State,
    vs: State,
    values: dict[str, float | Tensor],
    steps: int,
    record: str | None,
    reduce: str | None,
) -> tuple[State, State, Tensor | None]:
    text = neuron.program
    assert text is not None
    states, outputs = len(vs), neuron.outputs
    if reduce:
        text = summing_text(text)
        zero = torch.zeros((), dtype=COMPUTED[xs[0].dtype], device=xs[0].device)
        vs = (*vs, *(zero.expand(xs[0].shape[1:]) for _ in range(outputs)))
        outputs = 0
    if record is not None:
        text = recording_text(text, neuron.state_names.index(record))
        outputs += 1
    numbers = [value for value in values.values() if not isinstance(value, Tensor)]
    tensors = [value for value in values.values() if isinstance(value, Tensor)]
    flat = (*xs, *vs, *tensors)
    counts = Counts(len(xs), len(vs), len(tensors), outputs)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in flat):
        results = Scan.apply(text, steps, numbers, counts, *flat)
    else:
        results = tuple(torch.ops.spikeloom.scan(text, steps, numbers, list(xs), list(vs), tensors))
    ys, ws = results[:outputs], results[outputs:]
    seq = None
    if record is not None:
        ys, seq = ys[:-1], ys[-1]
    if reduce:
        ys, ws = ws[states:], ws[:states]
    return ys, ws, seq


# --- What a call must satisfy ---------------------------------------------------------------


def _check_inputs(neuron: Neuron, xs: State) -> torch.dtype:
    if len(xs) != neuron.inputs:
        raise TypeError(f"x: {neuron.name} reads {neuron.inputs} input(s), got {len(xs)}")
    for x in xs:
        if not isinstance(x, Tensor):
            raise TypeError(f"x: must be a tensor [T, ...], got {type(x).__name__}")
        if x.dtype not in COMPUTED:
            raise TypeError(f"x: must be float16, bfloat16, float32 or float64, got {x.dtype}")
        if x.dim() == 0:
            raise ValueError("x: needs a time axis, [T, ...]; for one step pass x[None]")
        if x.shape != xs[0].shape or x.dtype != xs[0].dtype or x.device != xs[0].device:
            raise ValueError(
                f"x: all inputs need the same shape, dtype and device, got {_describe(x)} "
                f"beside {_describe(xs[0])}"
            )
    return COMPUTED[xs[0].dtype]


def _describe(x: Tensor) -> str:
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')} on {x.device}"


def _parameters(
    neuron: Neuron, given: dict[str, Parameter], x: Tensor, dtype: torch.dtype
) -> dict[str, float | Tensor]:
    """The parameters of a call: numbers as they are, tensors checked, converted and expanded."""
    for name in given:
        if name not in neuron.params:
            raise ValueError(f"params: {neuron.name} has {list(neuron.params)}, got {name!r}")
    values: dict[str, float | Tensor] = {}
    for name, own in neuron.params.items():
        value = given.get(name, own)
        if kind(value) != kind(own):
            raise ValueError(
                f"params: {name!r} of {neuron.name} is of kind {kind(own)}, got {kind(value)}"
            )
        tensor = tensor_of(value)
        values[name] = value if tensor is None else _tensor(neuron, name, tensor, own, x, dtype)
    return values


def _tensor(
    neuron: Neuron, name: str, tensor: Tensor, own: Parameter, x: Tensor, dtype: torch.dtype
) -> Tensor:
    where = f"{neuron.name}: parameter {name!r}"
    if tensor.device != x.device:
        raise TypeError(f"{where} is on {tensor.device}, the input on {x.device}; move one")
    if tensor.dtype == torch.float64 and dtype != torch.float64:
        raise TypeError(f"{where} is float64, the input {x.dtype}; convert the input or the neuron")
    tensor = tensor.to(dtype)
    if kind(own) != "neuron":
        return tensor
    try:
        return tensor.expand(x.shape[1:])
    except RuntimeError:
        raise ValueError(
            f"{where} has shape {tuple(tensor.shape)}, which does not broadcast to the neurons "
            f"{tuple(x.shape[1:])}; use e.g. shape [C, 1, 1] for channels"
        ) from None


def _steps(neuron: Neuron, x: Tensor, values: dict[str, float | Tensor]) -> int:
    steps = x.shape[0] if neuron.steps is None else neuron.steps
    for name, own in neuron.params.items():
        value = values[name]
        if kind(own) in ("step", "gated") and isinstance(value, Tensor):
            if value.shape[-1] != steps:
                raise ValueError(
                    f"{neuron.name}: parameter {name!r} has {value.shape[-1]} steps, "
                    f"the sequence has T={steps}"
                )
    return steps


def _states(neuron: Neuron, state: State | None, x: Tensor, dtype: torch.dtype) -> State:
    shape = x.shape[1:]
    if state is None:
        return tuple(
            torch.full((), rest, dtype=dtype, device=x.device).expand(shape)
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


# --- The operators --------------------------------------------------------------------------

_LIBRARY = torch.library.Library("spikeloom", "DEF")
_LIBRARY.define(
    "scan(str program, int steps, float[] numbers, Tensor[] xs, Tensor[] vs, Tensor[] ps)"
    " -> Tensor[]"
)
_LIBRARY.define(
    "scan_backward(str program, int steps, float[] numbers, int[] wanted, Tensor[] xs,"
    " Tensor[] vs, Tensor[] ps, Tensor[] gys, Tensor[] gws) -> Tensor[]"
)


def _engine(x: Tensor) -> ModuleType:
    if x.device.type == "cuda":
        from spikeloom.kernel import run_cuda

        return run_cuda
    from spikeloom.kernel import run_cpu

    return run_cpu


def _stored(v: Tensor, order: Sequence[int]) -> Tensor:
    """A state for the kernel: dense, or one number that serves all neurons."""
    if v.numel() > 1 and not any(v.stride()):
        return v.as_strided((), ())
    return layout.row(v, order)


def _dense_parameters(program: Program, ps: Sequence[Tensor], order: Sequence[int]) -> list[Tensor]:
    kinds = (kind for _, kind in program.params if kind != "number")
    return [
        layout.row(p, order) if kind == "neuron" else p.contiguous()
        for p, kind in zip(ps, kinds, strict=True)
    ]


def _fresh_outputs(
    program: Program, steps: int, xs: Sequence[Tensor], vs: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    order, shape = layout.row_order(xs[0]), xs[0].shape[1:]
    ys = [layout.empty_rows((steps, *shape), order, xs[0]) for _ in program.outputs]
    return ys, [layout.empty_row(shape, order, v) for v in vs]


def _scan(
    text: str,
    steps: int,
    numbers: list[float],
    xs: list[Tensor],
    vs: list[Tensor],
    ps: list[Tensor],
) -> list[Tensor]:
    program = Program.parse(text)
    ys, ws = _fresh_outputs(program, steps, xs, vs)
    if not steps or not xs[0].shape[1:].numel():
        for w, v in zip(ws, vs, strict=True):
            w.copy_(v)
        return [*ys, *ws]
    order = layout.row_order(xs[0])
    _engine(xs[0]).forward(
        program,
        steps,
        numbers,
        [layout.rows(x, order) for x in xs],
        [_stored(v, order) for v in vs],
        _dense_parameters(program, ps, order),
        ys,
        ws,
    )
    return [*ys, *ws]


def _tensors(program: Program) -> list[tuple[str, str]]:
    """The ``(name, kind)`` of the parameters that arrive as tensors."""
    return [(name, kind) for name, kind in program.params if kind != "number"]


def _adjoint(program: Program, wanted: Sequence[int], inputs: int, states: int) -> Adjoint:
    leaves: set[tuple[str, Any]] = set()
    for number in wanted:
        if number < inputs:
            leaves.add(("x", number))
        elif number >= inputs + states:
            leaves.add(("p", _tensors(program)[number - inputs - states][0]))
    return adjoint(program, frozenset(leaves))


def _fresh_gradients(
    program: Program,
    wanted: Sequence[int],
    xs: Sequence[Tensor],
    vs: Sequence[Tensor],
    ps: Sequence[Tensor],
) -> list[Tensor]:
    order = layout.row_order(xs[0])

    def fresh(number: int) -> Tensor:
        if number < len(xs):
            return layout.empty_rows(xs[0].shape, order, xs[0])
        if number < len(xs) + len(vs):
            return layout.empty_row(xs[0].shape[1:], order, vs[0])
        p = ps[number - len(xs) - len(vs)]
        if _tensors(program)[number - len(xs) - len(vs)][1] == "neuron":
            return layout.empty_row(p.shape, order, p)
        return p.new_empty(p.shape)

    return [fresh(number) for number in wanted]


def _scan_backward(
    text: str,
    steps: int,
    numbers: list[float],
    wanted: list[int],
    xs: list[Tensor],
    vs: list[Tensor],
    ps: list[Tensor],
    gys: list[Tensor],
    gws: list[Tensor],
) -> list[Tensor]:
    program = Program.parse(text)
    inputs, states = len(xs), len(vs)
    results = _fresh_gradients(program, wanted, xs, vs, ps)
    place = dict(zip(wanted, results, strict=True))
    if not steps or not xs[0].shape[1:].numel():
        for number, result in place.items():
            if inputs <= number < inputs + states:
                result.copy_(gws[number - inputs])
            else:
                result.zero_()
        return results
    gradient = _adjoint(program, wanted, inputs, states)
    order, shape = layout.row_order(xs[0]), xs[0].shape[1:]
    reached = (gradient.begin or gradient.step).x
    for i in range(inputs):
        if i in place and reached[i] is None:
            place[i].zero_()
    sums = _engine(xs[0]).backward(
        program,
        gradient,
        steps,
        numbers,
        [layout.rows(x, order) for x in xs],
        [_stored(v, order) for v in vs],
        _dense_parameters(program, ps, order),
        [layout.rows(gy, order) for gy in gys],
        [_stored(gw, order) for gw in gws],
        [place.get(i) for i in range(inputs)],
        [place.get(inputs + i, layout.empty_row(shape, order, v)) for i, v in enumerate(vs)],
    )
    for i, (name, _) in enumerate(_tensors(program)):
        if (result := place.get(inputs + states + i)) is not None:
            if name not in sums:
                result.zero_()
            elif result.shape == sums[name].shape:
                result.copy_(sums[name])
            else:
                stored = result.permute(*order)
                stored.copy_(sums[name].view(stored.shape))
    return results


for _device in ("CPU", "CUDA"):
    _LIBRARY.impl("scan", _scan, _device)
    _LIBRARY.impl("scan_backward", _scan_backward, _device)


@torch.library.register_fake("spikeloom::scan", lib=_LIBRARY)
def _scan_fake(
    text: str,
    steps: int,
    numbers: list[float],
    xs: list[Tensor],
    vs: list[Tensor],
    ps: list[Tensor],
) -> list[Tensor]:
    ys, ws = _fresh_outputs(Program.parse(text), steps, xs, vs)
    return [*ys, *ws]


@torch.library.register_fake("spikeloom::scan_backward", lib=_LIBRARY)
def _scan_backward_fake(
    text: str,
    steps: int,
    numbers: list[float],
    wanted: list[int],
    xs: list[Tensor],
    vs: list[Tensor],
    ps: list[Tensor],
    gys: list[Tensor],
    gws: list[Tensor],
) -> list[Tensor]:
    return _fresh_gradients(Program.parse(text), wanted, xs, vs, ps)


# --- Autograd -------------------------------------------------------------------------------


class Scan(torch.autograd.Function):
    """The scan with its gradient; arguments are flat because torch.func needs them so."""

    @staticmethod
    def forward(
        text: str, steps: int, numbers: list[float], counts: Counts, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        groups = _grouped(tensors, counts)
        return tuple(torch.ops.spikeloom.scan(text, steps, numbers, *groups))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.text, ctx.steps, ctx.numbers, ctx.counts, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[4:]
        wanted = [number for number, need in enumerate(needed) if need]
        arguments = (ctx.text, ctx.steps, ctx.numbers, wanted, ctx.counts)
        if torch.compiler.is_compiling():
            found = _differentiate(*arguments, *ctx.saved_tensors, *grads)
        else:
            found = ScanBackward.apply(*arguments, *ctx.saved_tensors, *grads)
        place = dict(zip(wanted, found, strict=True))
        return (None, None, None, None, *(place.get(number) for number in range(len(needed))))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        text, steps, numbers, counts, *tensors = arguments
        return _batched_scan(info.batch_size, in_dims[4:], text, steps, numbers, counts, tensors)


class ScanBackward(torch.autograd.Function):
    """The reverse sweep as a function of its own, so that a second derivative is refused."""

    @staticmethod
    def forward(
        text: str,
        steps: int,
        numbers: list[float],
        wanted: list[int],
        counts: Counts,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        return _differentiate(text, steps, numbers, wanted, counts, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Nothing is kept: there is no second derivative."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        raise RuntimeError(
            "spikeloom: a second derivative was asked for, but surrogate gradients have none; "
            "use implementation='eager' to differentiate the surrogate itself"
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return _batched_backward(info.batch_size, in_dims[5:], *arguments[:5], arguments[5:])


def _grouped(tensors: Sequence[Tensor], counts: Counts) -> tuple[list[Tensor], ...]:
    """A flat list as inputs, states and parameters."""
    return (
        list(tensors[: counts.inputs]),
        list(tensors[counts.inputs : counts.first_param]),
        list(tensors[counts.first_param : counts.first_param + counts.params]),
    )


def _differentiate(
    text: str,
    steps: int,
    numbers: list[float],
    wanted: list[int],
    counts: Counts,
    *tensors: Tensor,
) -> tuple[Tensor, ...]:
    arrived = tensors[counts.first_param + counts.params :]
    gys, gws = list(arrived[: counts.outputs]), list(arrived[counts.outputs :])
    groups = _grouped(tensors, counts)
    return tuple(torch.ops.spikeloom.scan_backward(text, steps, numbers, wanted, *groups, gys, gws))


# --- vmap: a batch is more neurons ----------------------------------------------------------


def _batched_scan(
    size: int,
    dims: Sequence[int | None],
    text: str,
    steps: int,
    numbers: list[float],
    counts: Counts,
    tensors: Sequence[Tensor],
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    program = Program.parse(text)

    def one(*part: Tensor) -> tuple[Tensor, ...]:
        return Scan.forward(text, steps, numbers, counts, *part)

    if _shares_batched(program, dims, counts):
        return _looped(size, dims, tensors, one)
    results = one(*_folded(program, size, dims, tensors, counts))
    return results, tuple(1 if i < counts.outputs else 0 for i in range(len(results)))


def _batched_backward(
    size: int,
    dims: Sequence[int | None],
    text: str,
    steps: int,
    numbers: list[float],
    wanted: list[int],
    counts: Counts,
    tensors: Sequence[Tensor],
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    program = Program.parse(text)
    kinds = [kind for _, kind in _tensors(program)]

    def one(*part: Tensor) -> tuple[Tensor, ...]:
        return _differentiate(text, steps, numbers, wanted, counts, *part)

    first, own = counts.first_param, counts.first_param + counts.params
    shared = any(number >= first and kinds[number - first] != "neuron" for number in wanted)
    # A shared parameter has one gradient per sample: each sample is swept on its own.
    if shared or _shares_batched(program, dims[:own], counts):
        return _looped(size, dims, tensors, one)
    arrived = _folded_rows(size, dims[own:], tensors[own:], counts.outputs)
    results = one(*_folded(program, size, dims[:own], tensors[:own], counts), *arrived)
    return results, tuple(1 if number < counts.inputs else 0 for number in wanted)


def _shares_batched(program: Program, dims: Sequence[int | None], counts: Counts) -> bool:
    """Whether a parameter that all neurons share differs between samples."""
    kinds = [kind for _, kind in _tensors(program)]
    return any(
        dim is not None and kind != "neuron"
        for dim, kind in zip(dims[counts.first_param :], kinds, strict=True)
    )


def _looped(
    size: int, dims: Sequence[int | None], tensors: Sequence[Tensor], one: Any
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    samples = [
        one(*(t if dim is None else t.select(dim, i) for t, dim in zip(tensors, dims, strict=True)))
        for i in range(size)
    ]
    results = tuple(torch.stack(parts) for parts in zip(*samples, strict=True))
    return results, (0,) * len(results)


def _folded(
    program: Program,
    size: int,
    dims: Sequence[int | None],
    tensors: Sequence[Tensor],
    counts: Counts,
) -> list[Tensor]:
    """Inputs, states and per-neuron parameters with the batch as the first axis of the neurons."""
    split = counts.first_param
    rows = _folded_rows(size, dims[:split], tensors[:split], counts.inputs)
    kinds = [kind for _, kind in _tensors(program)]
    rest = zip(tensors[split:], dims[split:], kinds, strict=True)
    return rows + [_at_axis(p, dim, 0, size) if kind == "neuron" else p for p, dim, kind in rest]


def _folded_rows(
    size: int, dims: Sequence[int | None], tensors: Sequence[Tensor], sequences: int
) -> list[Tensor]:
    """The first tensors are sequences, whose time axis stays in front."""
    return [
        _at_axis(tensor, dim, 1 if i < sequences else 0, size)
        for i, (tensor, dim) in enumerate(zip(tensors, dims, strict=True))
    ]


def _at_axis(tensor: Tensor, dim: int | None, axis: int, size: int) -> Tensor:
    if dim is not None:
        return tensor.movedim(dim, axis)
    shape = list(tensor.shape)
    return tensor.unsqueeze(axis).expand([*shape[:axis], size, *shape[axis:]])


@torch.library.register_vmap("spikeloom::scan", lib=_LIBRARY)
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
    dims = [dim for group in in_dims[3:] for dim in group]
    counts = Counts(len(xs), len(vs), len(ps), len(Program.parse(text).outputs))
    results, out = _batched_scan(
        info.batch_size, dims, text, steps, numbers, counts, [*xs, *vs, *ps]
    )
    return list(results), list(out)


@torch.library.register_vmap("spikeloom::scan_backward", lib=_LIBRARY)
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
    gws: list[Tensor],
) -> Any:
    dims = [dim for group in in_dims[4:] for dim in group]
    counts = Counts(len(xs), len(vs), len(ps), len(gys))
    results, out = _batched_backward(
        info.batch_size, dims, text, steps, numbers, wanted, counts, [*xs, *vs, *ps, *gys, *gws]
    )
    return list(results), list(out)
