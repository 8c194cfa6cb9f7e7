"""The torch operators, which find the plan of a call and follow it.

``spikeloom::scan`` and ``spikeloom::scan_backward`` carry the program as text, so a compiled or
exported graph is complete in itself. The functions behind them may be called as they are where
no operator has to be visible.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spikeloom.kernel import layout
from spikeloom.kernel.layout import Order
from spikeloom.kernel.plan import plan_for
from spikeloom.kernel.trace import Program

Tensors = Sequence[Tensor]

LIBRARY = torch.library.Library("spikeloom", "DEF")
LIBRARY.define(
    "scan(str program, SymInt steps, float[] numbers, Tensor[] xs, Tensor[] vs, Tensor[] ps)"
    " -> Tensor[]"
)
LIBRARY.define(
    "scan_backward(str program, SymInt steps, float[] numbers, int[] wanted, Tensor[] xs,"
    " Tensor[] vs, Tensor[] ps, Tensor[] gys, Tensor?[] gws) -> Tensor[]"
)


def _is_empty(steps: int, x: Tensor) -> bool:
    return steps == 0 or x.shape[1:].numel() == 0


def _check_steps(program: Program, steps: int, xs: Tensors) -> None:
    """Raise if a graph that was recorded for another T reads beyond its input."""
    rows = steps if program.begin is None else 1
    if any(x.shape[0] != rows for x in xs):
        raise ValueError(
            f"spikeloom: this graph was recorded for T={steps}, the input has {xs[0].shape[0]} "
            f"steps; record it again for this length"
        )


def _outputs(
    program: Program, steps: int, order: Order, x: Tensor, vs: Tensors
) -> tuple[list[Tensor], list[Tensor]]:
    """Fresh output sequences and last states."""
    like = x if steps == x.shape[0] else x[:1].expand(steps, *x.shape[1:])
    ys = [layout.empty_rows(like, order) for _ in program.outputs]
    return ys, [layout.empty_row(v, order) for v in vs]


def scan(
    text: str, steps: int, numbers: Sequence[float], xs: Tensors, vs: Tensors, ps: Tensors
) -> list[Tensor]:
    """What ``spikeloom::scan`` computes: the outputs and the last states.

    Args:
        text: The program.
        steps: T.
        numbers: The parameters of kind ``number``, in order.
        xs: Inputs.
        vs: Initial states.
        ps: The other parameters, in order.
    """
    program = Program.parse(text)
    _check_steps(program, steps, xs)
    if not _is_empty(steps, xs[0]):
        return list(plan_for(text, steps, numbers, xs, vs, ps).forward((*xs, *vs, *ps)))
    ys, ws = _outputs(program, steps, layout.row_order(xs[0]), xs[0], vs)
    for w, v in zip(ws, vs, strict=True):
        w.copy_(v)
    return [*ys, *ws]


Fresh = list[Tensor | None]


def _gradients(
    program: Program, wanted: Sequence[int], order: Order, xs: Tensors, vs: Tensors, ps: Tensors
) -> tuple[Fresh, Fresh, Fresh]:
    """Fresh tensors for the wanted gradients of inputs, states and parameters, else None."""
    kinds = [kind for _, kind in program.tensors]
    states, params = len(xs), len(xs) + len(vs)
    return (
        [layout.empty_rows(x, order) if i in wanted else None for i, x in enumerate(xs)],
        [layout.empty_row(v, order) if i in wanted else None for i, v in enumerate(vs, states)],
        [
            layout.empty_row(p, order if kind == "neuron" else ()) if i in wanted else None
            for i, (p, kind) in enumerate(zip(ps, kinds, strict=True), params)
        ],
    )


def _found(*groups: Fresh) -> list[Tensor]:
    return [gradient for group in groups for gradient in group if gradient is not None]


def scan_backward(
    text: str,
    steps: int,
    numbers: Sequence[float],
    wanted: Sequence[int],
    xs: Tensors,
    vs: Tensors,
    ps: Tensors,
    gys: Tensors,
    gws: Sequence[Tensor | None],
) -> list[Tensor]:
    """What ``spikeloom::scan_backward`` computes: the wanted gradients.

    Args:
        text: The program.
        steps: T.
        numbers: The parameters of kind ``number``, in order.
        wanted: Which of the tensors ``[*xs, *vs, *ps]``, in ascending order.
        xs: Inputs.
        vs: Initial states.
        ps: The other parameters, in order.
        gys: Gradients of the outputs.
        gws: Gradients of the last states; None is zero.
    """
    if not _is_empty(steps, xs[0]):
        plan = plan_for(text, steps, numbers, xs, vs, ps)
        return plan.backward(tuple(wanted), (*xs, *vs, *ps), gys, gws)
    order = layout.row_order(xs[0])
    gxs, gvs, gps = _gradients(Program.parse(text), wanted, order, xs, vs, ps)
    for result in _found(gxs, gvs, gps):
        result.zero_()
    for gv, gw in zip(gvs, gws, strict=True):
        if gv is not None and gw is not None:
            gv.copy_(gw)
    return _found(gxs, gvs, gps)


def check_trace(*, gradient: bool) -> None:
    """Raise if a trace that is recorded cannot hold the gradient of a kernel.

    Args:
        gradient: Whether a gradient is wanted.

    Raises:
        RuntimeError: Saying what to do instead.
    """
    if gradient and torch.jit.is_tracing():
        raise RuntimeError(
            "spikeloom: torch.jit.trace cannot record the gradient of a neuron's kernel; trace "
            "under torch.no_grad() for inference, use implementation='eager', or "
            "plugins.<host>.to_host(net), a copy with its neurons"
        )


for _device in ("CPU", "CUDA"):
    LIBRARY.impl("scan", scan, _device)
    LIBRARY.impl("scan_backward", scan_backward, _device)


@torch.library.register_fake("spikeloom::scan", lib=LIBRARY)
def _scan_fake(
    text: str, steps: int, numbers: list[float], xs: Tensors, vs: Tensors, ps: Tensors
) -> list[Tensor]:
    if torch.onnx.is_in_onnx_export():
        raise RuntimeError(
            "spikeloom: this program was recorded with a neuron's kernel, for which ONNX has no "
            "operator; give torch.onnx.export the module itself, or record the program with "
            "implementation='eager'"
        )
    ys, ws = _outputs(Program.parse(text), steps, layout.row_order(xs[0]), xs[0], vs)
    return [*ys, *ws]


@torch.library.register_fake("spikeloom::scan_backward", lib=LIBRARY)
def _scan_backward_fake(
    text: str,
    steps: int,
    numbers: list[float],
    wanted: list[int],
    xs: Tensors,
    vs: Tensors,
    ps: Tensors,
    gys: Tensors,
    gws: Sequence[Tensor | None],
) -> list[Tensor]:
    order = layout.row_order(xs[0])
    return _found(*_gradients(Program.parse(text), wanted, order, xs, vs, ps))
