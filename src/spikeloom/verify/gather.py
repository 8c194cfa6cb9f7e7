"""The second proof: the model computed from additions, comparisons, selections and gathers alone.

Weight layers add the weight columns of the inputs that fired; neurons run their traced step
operation by operation. Every torch operation on the way must be on a short list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.utils import _ntuple
from torch.utils._python_dispatch import _disable_current_modes

from spikeloom.kernel.graph import operands, resolve, schedule
from spikeloom.kernel.trace import Program
from spikeloom.observe import Effect
from spikeloom.observe.run import Call
from spikeloom.verify.kinds import REAL, Kind, evaluated, is_shift, program_kinds
from spikeloom.verify.sealed import within
from spikeloom.verify.sealed_run import SealedRun
from spikeloom.verify.static import Finding, parameters, passes_on

__all__ = ["Gathering"]

# Beside those that pass values on.
FREE = frozenset((Effect.PLACES, Effect.ADDS, Effect.ORDERS, Effect.TESTS, Effect.MAKES))


class Gathering(SealedRun):
    """Runs a model without multiplications, and notes every operation that is one.

    What is not allowed is computed all the same, so that all of it is found.

    Args:
        exempt: Modules that may multiply, and are computed densely.
        dense: Products that are computed densely too, by their numbers
            (:attr:`~spikeloom.verify.sealed_run.SealedRun.products`).

    Attributes:
        findings: The operations that are not on the list, with their modules.
        operations: How often each operation was called.
        accumulated: Synaptic additions of every weight layer that a spike reached; a weight of 0
            adds nothing.
    """

    def __init__(self, exempt: Collection[str], dense: Collection[int] = ()) -> None:
        super().__init__()
        self.exempt, self.dense = exempt, dense
        self.findings: list[Finding] = []
        self.operations: Counter[str] = Counter()
        self.accumulated: Counter[str] = Counter()

    def seen(self, call: Call) -> Any:
        """Rewrite weight layers and neurons; check everything else against the list."""
        is_product = call.effect is Effect.WEIGHS
        if call.module in self.exempt or (is_product and self.products in self.dense):
            return self.compute(call)
        if call.name == "scan":
            text, steps, numbers, xs, vs, ps = call.args
            neuron = _Neuron(text, steps, numbers, ps)
            with self:
                return neuron.run(xs, vs)
        if is_product:
            with self:
                y = self._weighted(call)
            if y is not None:
                return y
        elif not _is_allowed(call):
            self.findings.append(Finding(call.module, f"{call.name} is no addition or selection"))
        self.operations[call.name] += 1
        return self.compute(call)

    def compute(self, call: Call, constant: bool = True) -> Any:
        """Run an operation; the first proof has let only constants be written to open tensors."""
        return super().compute(call, constant)

    # --- Weight layers

    def _weighted(self, call: Call) -> Tensor | None:
        name, args = call.name, call.args
        if name == "convolution":
            return self._convolution(*(_as_convolution(*args) if args[6] else args))
        if name in ("mm", "addmm"):
            x, weight = call.factors
            y = self._gather(x, weight)
            return y if name == "mm" else y + args[0]
        if name == "bmm" and args[0].dim() == 3:
            x, weight = args
            return torch.stack([self._gather(a, b) for a, b in zip(x, weight, strict=True)])
        self.findings.append(Finding(self.module, f"{name} has no form that only gathers"))
        return None

    def _convolution(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        transposed: bool,
        output_padding: Sequence[int],
        groups: int,
    ) -> Tensor:
        kernel = weight.shape[2:]
        sizes = _ntuple(len(kernel))
        windows = _windows(x, kernel, sizes(stride), sizes(padding), sizes(dilation))
        # [batch, channels, *map, *kernel] -> a row for each output position
        rows = windows.movedim(1, len(kernel) + 1)
        positions = rows.shape[: len(kernel) + 1]
        outputs = []
        for part, w in zip(rows.chunk(groups, len(kernel) + 1), weight.chunk(groups), strict=True):
            flat = part.reshape(positions.numel(), -1)
            outputs.append(self._gather(flat, w.flatten(1).t()).unflatten(0, positions))
        y = torch.cat(outputs, -1)
        return (y if bias is None else y + bias).movedim(-1, 1)

    def _gather(self, x: Tensor, weight: Tensor) -> Tensor:
        """``x @ weight`` for whole numbers: add a row of weights for each unit of input."""
        y = weight.new_zeros(x.shape[0], weight.shape[1])
        with _disable_current_modes():  # counting is no part of the run
            synapses = within(weight).count_nonzero(1)
        level = 1
        while True:
            count = 0
            for sign, active in ((1, x >= level), (-1, -x >= level)):
                row, column = active.nonzero().unbind(1)
                if not len(row):
                    continue
                y.index_add_(0, row, weight[column] if sign > 0 else -weight[column])
                count += len(row)
                with _disable_current_modes():
                    self.accumulated[self.module] += int(synapses[within(column)].sum())
            if not count:
                return y
            level += 1


def _is_allowed(call: Call) -> bool:
    if call.name in ("mul", "div"):
        # A shift: by a plain power of two, never by a tensor.
        numbers = [x for x in call.args[:2] if isinstance(x, (int, float))]
        return bool(numbers) and is_shift(numbers[0])
    operation = call.operation
    return operation is not None and (
        passes_on(operation) or operation.effect in FREE or operation.name == "abs"
    )


def _as_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> tuple[Any, ...]:
    """The arguments of the convolution that computes what a transposed one does.

    The input's values are set apart by the stride, with zeros between them, and the kernel is
    turned round.
    """
    kernel = weight.shape[2:]
    sizes = _ntuple(len(kernel))
    stride, padding, dilation = sizes(stride), sizes(padding), sizes(dilation)
    spread = [(n - 1) * step + 1 for n, step in zip(x.shape[2:], stride, strict=True)]
    apart = x.new_zeros(*x.shape[:2], *spread)
    own: Any = (..., *(slice(None, None, step) for step in stride))
    apart[own] = x
    edges = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    ends = [e + more for e, more in zip(edges, sizes(output_padding), strict=True)]
    pads = [side for pair in zip(reversed(edges), reversed(ends), strict=True) for side in pair]
    apart = torch.nn.functional.pad(apart, pads)
    # [inputs, outputs of a group, *kernel] -> [outputs, inputs of a group, *kernel]
    turned = torch.cat([part.transpose(0, 1) for part in weight.chunk(groups)])
    turned = turned.flip(list(range(2, weight.dim())))
    return apart, turned, bias, sizes(1), sizes(0), dilation, False, sizes(0), groups


def _windows(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """What a convolution sees: ``[batch, channels, *map, *kernel]``."""
    pads = [side for pad in reversed(padding) for side in (pad, pad)]
    x = torch.nn.functional.pad(x, pads)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    sizes = [(n - s) // step + 1 for n, s, step in zip(x.shape[2:], spans, stride, strict=True)]
    steps = x.stride()[2:]
    return x.as_strided(
        (*x.shape[:2], *sizes, *kernel),
        (
            *x.stride()[:2],
            *(a * b for a, b in zip(steps, stride, strict=True)),
            *(a * b for a, b in zip(steps, dilation, strict=True)),
        ),
    )


# --- Neurons ---------------------------------------------------------------------------------


class _Neuron:
    """A neuron's program, operation by operation, products with spikes as selections."""

    def __init__(self, text: str, steps: int, numbers: list[float], tensors: list[Tensor]) -> None:
        self.program = Program.parse(text)
        self.steps = steps
        self.params = parameters(self.program, numbers, tensors)
        self.per_step = {name for name, kind in self.program.params if kind in ("step", "gated")}
        self.kinds, _ = program_kinds(
            self.program, [REAL for _ in range(self.program.inputs)], self.params
        )

    def run(self, xs: list[Tensor], vs: list[Tensor]) -> list[Tensor]:
        """What ``spikeloom::scan`` returns: output sequences, then last states."""
        program, like = self.program, vs[0] if vs else xs[0][0]
        state: list[Any] = list(vs)
        if program.begin is not None:
            state = self._evaluate(program.begin, 0, [x[0] for x in xs], state)
        history: list[list[Tensor]] = [[] for _ in program.outputs]
        for t in range(self.steps):
            drive = [None if program.begin is not None else x[t] for x in xs]
            values = self._evaluate((*program.outputs, *program.next), t, drive, state)
            for series, y in zip(history, values, strict=False):
                series.append(_full(y, like))
            state = values[len(history) :]
        empty = like.new_zeros((0, *like.shape))
        ys = [torch.stack(series) if series else empty for series in history]
        return [*ys, *(_full(v, like).contiguous() for v in state)]

    def _evaluate(
        self, roots: Sequence[int], t: int, drive: Sequence[Any], state: Sequence[Any]
    ) -> list[Any]:
        nodes = self.program.nodes
        found: dict[int, Any] = {}
        for number in schedule(nodes, roots):
            operation, *rest = nodes[number]
            if operation == "const":
                value: Any = float(rest[0])
            elif operation == "x":
                value = drive[rest[0]]
            elif operation == "v":
                value = state[rest[0]]
            elif operation == "p":
                value = self._parameter(rest[0], t)
            elif operation == "lookup":
                value = self._parameter(rest[0], t)[found[resolve(nodes, rest[1])].long()]
            else:
                read = [resolve(nodes, i) for i in operands(nodes[number])]
                kinds = [self.kinds[i] for i in read]
                value = _compute(operation, [found[i] for i in read], kinds)
            found[number] = value
        return [found[resolve(nodes, root)] for root in roots]

    def _parameter(self, name: str, t: int) -> Any:
        value = self.params[name]
        return value[..., t] if name in self.per_step else value


def _compute(name: str, values: list[Any], kinds: list[Any]) -> Any:
    if name == "mul" and any(isinstance(value, Tensor) for value in values):
        for choice, other, kind in ((*values, kinds[0]), (*reversed(values), kinds[1])):
            if isinstance(kind, Kind) and kind.signed_spike:
                return _selected(choice, other)
    return evaluated(name, values)


def _selected(choice: Any, other: Any) -> Tensor:
    """``choice * other`` for a choice of -1, 0 and 1."""
    if not isinstance(choice, Tensor):
        return choice * other
    zero = choice.new_zeros(())
    if not isinstance(other, Tensor):
        other = choice.new_full((), other)
    return torch.where(choice > 0, other, torch.where(choice < 0, -other, zero))


def _full(value: Any, like: Tensor) -> Tensor:
    return value.expand(like.shape) if isinstance(value, Tensor) else torch.full_like(like, value)
