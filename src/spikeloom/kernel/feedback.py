"""A neuron whose spikes return through a weight at the next step, on a CPU.

Forward and backward go through the steps one by one with the neuron's one-step kernels, in memory
that is made once for the whole sequence, and without autograd at each step. Where few spikes are to
return, the rows of the weight that they name are added; else the product is torch's. The gradient
of the weight is one product after the last step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikeloom.kernel import events
from spikeloom.kernel.events import DTYPES, Spikes
from spikeloom.kernel.freed import save, saved_tensors
from spikeloom.kernel.plan import Plan

__all__ = ["Loop", "run_loop"]

Tensors = tuple[Tensor, ...]
Gradients = tuple[Tensor | None, ...]

# Products a step below which torch's product is quicker than to look for spikes.
WORTH_EVENTS = 1 << 20
SECOND = (
    "spikeloom: a second derivative was asked for, but surrogate gradients have none; "
    "use implementation='eager' to differentiate the surrogate itself"
)

BATCHED_KEYS = "Batched", "FuncTorchBatched"
BATCHED = (
    "spikeloom: Recurrent's loop takes one gradient at a time, and so not those of "
    "torch.autograd.grad(is_grads_batched=True), of torch.autograd.functional with vectorize=True "
    "or of torch.vmap around torch.autograd.grad; use torch.func.jacrev, or "
    "implementation='eager'"
)


class Loop(NamedTuple):
    """What a loop is, besides its tensors.

    Attributes:
        plan: Of one step, whose inputs are the layer's input and what returns.
        threshold: The share of neurons that fire up to which weights are added one by one.
        constant: Which results have no gradient: 0 is the output, then come the states.
    """

    plan: Plan
    threshold: float
    constant: tuple[int, ...]


def run_loop(
    loop: Loop,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    spikes: Tensor | None,
    tensors: Sequence[Tensor],
) -> Tensors:
    """The output ``[T, *, N]`` and the last states; all tensors are contiguous.

    Args:
        loop: What to run.
        x: ``[T, *, N]``, not empty.
        weight: ``[N, N]``.
        bias: ``[N]``, or None.
        spikes: Those before the first step, ``[*, N]``; None is zeros.
        tensors: The initial states and the other parameters.

    Raises:
        ValueError: If a state has become NaN.
    """
    return Feedback.apply(loop, x, weight, bias, spikes, *tensors)


class Feedback(torch.autograd.Function):
    """The loop with its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        loop: Loop,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        spikes: Tensor | None,
        *tensors: Tensor,
    ) -> Tensors:
        learns = any(ctx.needs_input_grad)
        states, ps = _split(loop, tensors)
        y, fed, kept = _run(loop, x, _Product(loop, x, weight, bias), spikes, states, ps, learns)
        results = (y, *(_last(seq, len(x)) for seq in kept))
        if learns:
            ctx.loop, ctx.inputs, ctx.dtype = loop, weight.shape[1], x.dtype
            ctx.set_materialize_grads(False)
            returned = _returned(loop, y) if ctx.needs_input_grad[2] else (None,) * 4
            save(ctx, x, weight, spikes, *returned, fed, *kept, *ps)
            ctx.mark_non_differentiable(*[results[i] for i in loop.constant])
        return results

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        saved = [None if t is None else t.contiguous() for t in saved_tensors(ctx)]
        # Kernels read what lies in memory, which torch may have left to be negated.
        grads = tuple(None if g is None else g.resolve_neg() for g in grads)
        if any(g is not None and _is_batched(g) for g in grads):
            raise NotImplementedError(BATCHED)
        sweep = _Sweep(ctx.loop, ctx.needs_input_grad[1:], ctx.inputs, ctx.dtype)
        if torch.is_grad_enabled():
            return None, *_Swept.apply(sweep, len(grads), *grads, *saved)
        return None, *sweep(grads, saved)


def _is_batched(gradient: Tensor) -> bool:
    """Whether this stands for many gradients, of either kind of vmap."""
    keys = torch._C._dispatch_keys(gradient)
    return any(keys.has(key) for key in BATCHED_KEYS)


class _Swept(torch.autograd.Function):
    """The reverse sweep as a function of its own, so that a second derivative is refused."""

    @staticmethod
    def forward(ctx: Any, sweep: _Sweep, count: int, *tensors: Tensor | None) -> Gradients:
        return sweep(tensors[:count], tensors[count:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        raise RuntimeError(SECOND)


# --- Forward ---


def _run(
    loop: Loop,
    x: Tensor,
    product: _Product,
    spikes: Tensor | None,
    states: Sequence[Tensor],
    ps: Sequence[Tensor],
    keeps: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The output, what returned at each step, and the states before each step and after the last.

    What is not needed later is overwritten: one step returns into the place of the one before, and
    states go to and fro between two places.
    """
    steps = len(x)
    y = torch.empty_like(x)
    fed = x.new_empty(steps if keeps else 1, *x.shape[1:])
    kept = [v.new_empty(steps + 1 if keeps else 2, *v.shape) for v in states]
    for seq, v in zip(kept, states, strict=True):
        seq[0].copy_(v)
    places = list(zip(*(seq.unbind() for seq in kept), strict=True)) or [()]
    returned = fed.unbind()
    for t, (now, after) in enumerate(zip(x.unbind(), y.unbind(), strict=True)):
        back = returned[t % len(returned)]
        product(spikes, back)
        vs, ws = places[t % len(places)], places[(t + 1) % len(places)]
        try:
            loop.plan.write((now, back, *vs, *ps), [after], ws)
        except ValueError as error:
            raise ValueError(
                f"Recurrent: a state is NaN at step {t} of {steps}; the input, the weight or an "
                f"initial state holds NaN, the recurrence diverged, or a potential was "
                f"infinite (a hard reset takes inf * 0, a decay may take inf - inf, which are NaN)"
            ) from error
        spikes = after
    return y, fed, kept


class _Product:
    """What spikes bring back through the weight, by events or as torch has it.

    Args:
        loop: What is run.
        x: Its input.
        weight: The weight.
        bias: The bias, or None.
    """

    def __init__(self, loop: Loop, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self._bias, self._table, self._width = bias, weight.t(), weight.shape[0]
        products = x[0].numel() * self._width
        self._threshold = loop.threshold if products >= WORTH_EVENTS and x.dtype in DTYPES else 0.0
        if self._threshold:
            self._table = self._table.contiguous()

    def __call__(self, spikes: Tensor | None, out: Tensor) -> None:
        """Write what the next step gets.

        Args:
            spikes: Of the step before; None is zeros.
            out: Receives it.
        """
        out = out.view(-1, self._width)
        if spikes is None:
            out.copy_(self._bias) if self._bias is not None else out.zero_()
            return
        spikes = spikes.view(-1, self._width)
        packed = _few(spikes, self._threshold)
        if packed is not None:
            bits, signs, scale = packed.bits, packed.negative, packed.amplitude
            events.gather(bits, signs, self._table, scale=scale, start=self._bias, out=out)
        elif self._bias is None:
            torch.mm(spikes, self._table, out=out)
        else:
            torch.addmm(self._bias, spikes, self._table, out=out)


def _few(rows: Tensor, threshold: float) -> Spikes | None:
    """Rows as spikes, if they are, and no larger share of them fires."""
    found = events.pack(rows) if threshold else None
    return None if found is None or found[1] > threshold * rows.numel() else found[0]


def _returned(loop: Loop, y: Tensor) -> tuple[Tensor | None, ...]:
    """The spikes that returned: their bits, signs and amplitudes, or else the output itself."""
    rows = y[:-1].reshape(-1, y.shape[-1])
    found = _few(rows, loop.threshold if rows.numel() and y.dtype in DTYPES else 0.0)
    if found is None:
        return None, None, None, y
    return found.bits, found.negative, found.amplitude, None


def _last(seq: Tensor, steps: int) -> Tensor:
    """The states after the last step, in memory of their own."""
    return seq[steps % len(seq)].clone()


def _split(loop: Loop, tensors: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """The initial states and the other parameters."""
    states = loop.plan.given - loop.plan.inputs
    return tensors[:states], tensors[states:]


# --- Backward ---


class _Sweep(NamedTuple):
    """The reverse sweep of a loop.

    Attributes:
        loop: What was run.
        needed: Whether its gradient is needed, for each tensor argument of the loop.
        inputs: N.
        dtype: Of the input.
    """

    loop: Loop
    needed: tuple[bool, ...]
    inputs: int
    dtype: torch.dtype

    def __call__(self, grads: Sequence[Tensor | None], saved: Sequence[Any]) -> Gradients:
        """The gradient of each tensor argument; None where it is not needed.

        Args:
            grads: Those of the output and of the last states; None is zero.
            saved: What the loop kept.
        """
        (x, weight, spikes), returned, fed, rest = saved[:3], saved[3:7], saved[7], saved[8:]
        need_x, need_weight, need_bias, need_spikes, *need = self.needed
        gx = torch.empty_like(x) if need_x else None
        back = torch.empty_like(x)
        others = self._through_time(grads, (x, fed), rest, weight, (gx, back))
        rows = back.view(len(x), -1, self.inputs)
        return (
            gx,
            self._weight_gradient(rows, returned, spikes) if need_weight else None,
            rows.sum((0, 1)) if need_bias else None,
            (rows[0] @ weight).view_as(spikes) if need_spikes else None,
            *(found if needed else None for found, needed in zip(others, need, strict=True)),
        )

    def _through_time(
        self,
        grads: Sequence[Tensor | None],
        inputs: tuple[Tensor, Tensor],
        rest: Sequence[Tensor],
        weight: Tensor,
        places: tuple[Tensor | None, Tensor],
    ) -> list[Tensor | None]:
        """The gradients of the initial states and of the parameters.

        Args:
            grads: Those of the output and of the last states; None is zero.
            inputs: The input, and what returned.
            rest: The states before each step, and the parameters.
            weight: The weight.
            places: Receive the gradients of the inputs; None where the first is not needed.
        """
        plan, steps = self.loop.plan, len(inputs[0])
        kept, ps = _split(self.loop, rest)
        learned = [i for i in range(len(ps)) if self.needed[4 + len(kept) + i]]
        wanted = (*(() if places[0] is None else (0,)), *range(1, 2 + len(kept)))
        wanted = (*wanted, *(2 + len(kept) + i for i in learned))
        gy = torch.zeros_like(inputs[0]) if grads[0] is None else grads[0].contiguous()
        gvs: list[Tensor | None] = list(grads[1:])
        totals: list[Any] = [None] * len(ps)
        arriving = gy.unbind()
        read = list(zip(*(seq.unbind()[:steps] for seq in (*inputs, *kept)), strict=True))
        gxs = [None] * steps if places[0] is None else places[0].unbind()
        backs = places[1].unbind()
        for t in reversed(range(steps)):
            g = arriving[t]
            if t + 1 < steps:
                rows = g.view(-1, self.inputs), backs[t + 1].view(-1, self.inputs)
                g = torch.addmm(*rows, weight).view_as(g)
            into = gxs[t], backs[t]
            found = plan.backward(wanted, (*read[t], *ps), [g], gvs, into=into)
            gvs = list(found[len(found) - len(kept) - len(learned) :][: len(kept)])
            for i, gradient in zip(learned, found[len(found) - len(learned) :], strict=True):
                totals[i] = gradient.double() if totals[i] is None else totals[i] + gradient
        gps = [None if g is None else g.to(p.dtype) for g, p in zip(totals, ps, strict=True)]
        return [*gvs, *gps]

    def _weight_gradient(
        self, rows: Tensor, returned: Sequence[Tensor | None], spikes: Tensor | None
    ) -> Tensor:
        """That of the weight: what each step wanted to get, times the spikes before it.

        Args:
            rows: The gradients of what returned, ``[T, rows, N]``.
            returned: The spikes of all steps but the last.
            spikes: Those before the first step; None is zeros.
        """
        *bits, y = returned
        later = rows[1:].reshape(-1, self.inputs)
        if y is None:
            gw = events.weight_gradient(Spikes(self.inputs, self.dtype, *bits), later)  # type: ignore[arg-type]  # the bits are there
        else:
            gw = later.t() @ y[:-1].reshape(-1, self.inputs)
        return gw if spikes is None else gw + rows[0].t() @ spikes.view(-1, self.inputs)
