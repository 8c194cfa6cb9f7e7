"""The torch operators: tensors made dense, results allocated, the device's kernel called.

``spikeloom::scan`` and ``spikeloom::scan_backward`` carry the program as text, so a compiled or
exported graph is complete in itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel import layout
from spikeloom.kernel.adjoint import adjoint
from spikeloom.kernel.layout import Order
from spikeloom.kernel.trace import Program

Leaf = tuple[str, Any]

LIBRARY = torch.library.Library("spikeloom", "DEF")
LIBRARY.define(
    "scan(str program, int steps, float[] numbers, Tensor[] xs, Tensor[] vs, Tensor[] ps)"
    " -> Tensor[]"
)
LIBRARY.define(
    "scan_backward(str program, int steps, float[] numbers, int[] wanted, Tensor[] xs,"
    " Tensor[] vs, Tensor[] ps, Tensor[] gys, Tensor[] gws) -> Tensor[]"
)


@cache
def _engine(device: str) -> ModuleType:
    if device == "cuda":
        from spikeloom.kernel import run_cuda

        return run_cuda
    from spikeloom.kernel import run_cpu

    return run_cpu


def _is_empty(steps: int, x: Tensor) -> bool:
    return steps == 0 or x.shape[1:].numel() == 0


def _state(v: Tensor, order: Order) -> Tensor:
    """A state for the kernel: dense, or one number that serves all neurons."""
    if v.numel() > 1 and not any(v.stride()):
        return v.as_strided((), ())
    return layout.row(v, order)


def _dense(
    program: Program, order: Order, xs: list[Tensor], vs: list[Tensor], ps: list[Tensor]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The tensors of a call as a kernel takes them."""
    parameters = [
        layout.row(p, order) if kind == "neuron" else p.contiguous()
        for p, (_, kind) in zip(ps, program.tensors, strict=True)
    ]
    return [layout.rows(x, order) for x in xs], [_state(v, order) for v in vs], parameters


def _outputs(
    program: Program, steps: int, order: Order, x: Tensor, vs: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Fresh output sequences and last states."""
    shape = x.shape[1:]
    ys = [layout.empty_rows((steps, *shape), order, x) for _ in program.outputs]
    return ys, [layout.empty_row(shape, order, v) for v in vs]


def _scan(
    text: str,
    steps: int,
    numbers: list[float],
    xs: list[Tensor],
    vs: list[Tensor],
    ps: list[Tensor],
) -> list[Tensor]:
    program, order = Program.parse(text), layout.row_order(xs[0])
    ys, ws = _outputs(program, steps, order, xs[0], vs)
    if _is_empty(steps, xs[0]):
        for w, v in zip(ws, vs, strict=True):
            w.copy_(v)
    else:
        dense = _dense(program, order, xs, vs, ps)
        _engine(xs[0].device.type).forward(program, steps, numbers, *dense, ys, ws)
    return [*ys, *ws]


def _gradients(
    program: Program,
    wanted: Sequence[int],
    order: Order,
    xs: list[Tensor],
    vs: list[Tensor],
    ps: list[Tensor],
) -> dict[Leaf, Tensor]:
    """Fresh tensors for the wanted gradients, by the leaf they belong to."""
    leaves: list[Leaf] = [("x", i) for i in range(len(xs))]
    leaves += [("v", i) for i in range(len(vs))]
    leaves += [("p", name) for name, _ in program.tensors]
    tensors, kinds = [*xs, *vs, *ps], dict(program.tensors)

    def fresh(leaf: Leaf, like: Tensor) -> Tensor:
        if leaf[0] == "x":
            return layout.empty_rows(like.shape, order, like)
        if leaf[0] == "v" or kinds[leaf[1]] == "neuron":
            return layout.empty_row(like.shape, order, like)
        return like.new_empty(like.shape)

    return {leaves[number]: fresh(leaves[number], tensors[number]) for number in wanted}


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
    program, order = Program.parse(text), layout.row_order(xs[0])
    results = _gradients(program, wanted, order, xs, vs, ps)
    if _is_empty(steps, xs[0]):
        for (kind, which), result in results.items():
            result.copy_(gws[which]) if kind == "v" else result.zero_()
        return list(results.values())
    gradient = adjoint(program, frozenset(leaf for leaf in results if leaf[0] != "v"))
    reached = (gradient.begin or gradient.step).x
    gxs = [results.get(("x", i)) for i in range(len(xs))]
    for gx, number in zip(gxs, reached, strict=True):
        if gx is not None and number is None:
            gx.zero_()
    shape = xs[0].shape[1:]
    gvs = [
        results[leaf] if (leaf := ("v", i)) in results else layout.empty_row(shape, order, v)
        for i, v in enumerate(vs)
    ]
    arrived = [layout.rows(gy, order) for gy in gys], [_state(gw, order) for gw in gws]
    dense = _dense(program, order, xs, vs, ps)
    sums = _engine(xs[0].device.type).backward(
        program, gradient, steps, numbers, *dense, *arrived, gxs, gvs
    )
    for name, kind in program.tensors:
        if ("p", name) not in results:
            continue
        result = results["p", name]
        if name not in sums:
            result.zero_()
        elif kind == "neuron":
            stored = result.permute(order)
            stored.copy_(sums[name].view(stored.shape))
        else:
            result.copy_(sums[name])
    return list(results.values())


for _device in ("CPU", "CUDA"):
    LIBRARY.impl("scan", _scan, _device)
    LIBRARY.impl("scan_backward", _scan_backward, _device)


@torch.library.register_fake("spikeloom::scan", lib=LIBRARY)
def _scan_fake(
    text: str,
    steps: int,
    numbers: list[float],
    xs: list[Tensor],
    vs: list[Tensor],
    ps: list[Tensor],
) -> list[Tensor]:
    ys, ws = _outputs(Program.parse(text), steps, layout.row_order(xs[0]), xs[0], vs)
    return [*ys, *ws]


@torch.library.register_fake("spikeloom::scan_backward", lib=LIBRARY)
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
    order = layout.row_order(xs[0])
    return list(_gradients(Program.parse(text), wanted, order, xs, vs, ps).values())
