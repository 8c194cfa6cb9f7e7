"""The words a neuron's step may use.

A step is ordinary Python arithmetic (``+ - * /``, comparisons, ``& | ~`` on conditions) plus the
words below. Every word accepts torch tensors, where it computes, and traced expressions, where it
records; so one step is at once the reference implementation and the source of every kernel.

No word turns NaN into a number: the spike of a NaN potential is NaN, and so are the sign of NaN and
a table's entry at a row that is NaN; ``maximum``, ``minimum``, ``clamp`` and ``relu`` pass NaN on
as their torch counterparts do. Only a condition cannot show it: a comparison with NaN is false
(``!=`` is true), and what :func:`where` or arithmetic makes of a condition is a number. A step that
decides by comparisons of its own states with :func:`with_nan` which values they depend on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from spikeloom.kernel.freed import save
from spikeloom.kernel.graph import Expr
from spikeloom.kernel.setting import Setting

__all__ = [
    "Surrogate",
    "absolute",
    "clamp",
    "detach",
    "erf",
    "exp",
    "fire",
    "floor",
    "log",
    "lookup",
    "maximum",
    "minimum",
    "relu",
    "rint",
    "sigmoid",
    "sign",
    "sqrt",
    "tanh",
    "where",
    "with_grad",
    "with_nan",
]

# A torch tensor, a traced expression or a number.
Value = Any


class Surrogate(Protocol):
    """What stands in for the derivative of the step function when a neuron fires."""

    def derivative(self, u: Value) -> Value:
        """The partial derivative d spike / d u that training uses, at distance ``u``."""


def _unary(
    method: str, on_number: Callable[[float], float], meaning: str
) -> Callable[[Value], Any]:
    def word(a: Value) -> Any:
        if isinstance(a, Setting):
            return a.derived(method, on_number(a))
        return on_number(a) if isinstance(a, (int, float)) else getattr(a, method)()

    word.__doc__ = meaning
    word.__name__ = word.__qualname__ = method
    return word


exp = _unary("exp", math.exp, "The exponential e**a.")
log = _unary("log", math.log, "The natural logarithm.")
erf = _unary("erf", math.erf, "The Gauss error function.")
floor = _unary("floor", math.floor, "The largest integer not above a; its derivative is 0.")
rint = _unary("round", round, "The nearest integer, ties to even; its derivative is 0.")
absolute = _unary("abs", abs, "The magnitude; its derivative at 0 is 0.")
detach = _unary("detach", float, "The same value, cut from the gradient.")


def sqrt(a: Value) -> Any:
    """The square root, correctly rounded in float32 (in float64 to one unit in the last place)."""
    if isinstance(a, Tensor):
        # torch's own root is one unit off in places; a rounded float64 root is not.
        return a.double().sqrt().to(a.dtype)
    if isinstance(a, Setting):
        return a.derived("sqrt", math.sqrt(a))
    return math.sqrt(a) if isinstance(a, (int, float)) else a.sqrt()


def where(condition: Value, a: Value, b: Value) -> Any:
    """``a`` where the condition holds, else ``b``; gradients follow the chosen branch.

    A plain ``True`` or ``False`` chooses for all neurons. Two plain numbers must be exactly
    representable in float32 (0, 1, -0.5, ...), because the condition alone does not tell whether
    the neuron computes in float32 or float64.
    """
    if isinstance(condition, bool):
        return a if condition else b
    if not isinstance(condition, Tensor):
        return condition.select(a, b)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.where(condition, a, b)
    for number in (a, b):
        if number == number and float(torch.tensor(number, dtype=torch.float32)) != number:
            raise ValueError(
                f"where: {number} is not a float32 number; write one branch as a tensor"
            )
    one = torch.ones((), device=condition.device)
    return torch.where(condition, one * a, one * b)


def with_nan(value: Value, *sources: Value) -> Any:
    """``value``, but NaN where a source is NaN; gradients follow ``value`` where it is taken.

    It is for values that depend on their sources by comparisons, which do not pass NaN on. Unlike
    ``value + 0.0 * source`` it keeps the value where a source is infinite.

    Args:
        value: The value where no source is NaN.
        sources: What the value depends on.
    """
    for source in sources:
        if isinstance(source, (int, float)):
            value = value if source == source else source
        elif isinstance(source, Tensor):
            value = torch.where(source.isnan(), source.detach(), value)
        else:
            value = source.graph.lift(value).with_nan(source)
    return value


class _WithGrad(torch.autograd.Function):
    """Eager form of :func:`with_grad`: forwards a value, differentiates by stated partials."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, *pairs: Any) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        arguments, partials = inputs[1::2], inputs[2::2]
        ctx.shapes = [a.shape if isinstance(a, Tensor) else None for a in arguments]
        ctx.numbers = [None if isinstance(p, Tensor) else p for p in partials]
        save(ctx, *(p for p in partials if isinstance(p, Tensor)))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        (grad,) = grads
        saved = iter(ctx.saved_tensors)
        flow: list[Any] = [None]
        for shape, number in zip(ctx.shapes, ctx.numbers, strict=True):
            partial = next(saved) if number is None else number
            flow += [None if shape is None else (grad * partial).sum_to_size(shape), None]
        return tuple(flow)


def with_grad(value: Value, *pairs: tuple[Value, Value]) -> Any:
    """``value`` in the forward pass; its differential is ``sum(partial * d(argument))``.

    This one word states every surrogate gradient and every straight-through rule. The partials
    are not differentiated.

    Args:
        value: What the forward pass yields.
        pairs: ``(argument, partial)`` pairs, the partial of ``value`` with respect to it.
    """
    if isinstance(value, Tensor):
        arguments = [argument for argument, _ in pairs if isinstance(argument, Tensor)]
        if torch.compiler.is_compiling() and not any(a.requires_grad for a in arguments):
            return value.detach()  # the compiler traces such a function only for a gradient
        return _WithGrad.apply(value.detach(), *(part for pair in pairs for part in pair))
    return value.with_grad(*pairs)


def fire(u: Value, surrogate: Surrogate | None = None, *, strict: bool = False) -> Any:
    """1 where the distance to the threshold ``u = h - threshold`` is >= 0 (> 0 if strict), else 0.

    The spike of a distance that is NaN is NaN.

    Args:
        u: Membrane potential minus threshold.
        surrogate: Supplies ``derivative(u)`` for the backward pass; without it, or where that is
            the number 0, no gradient flows.
        strict: Fire only above the threshold, not at it.
    """
    fired = u > 0 if strict else u >= 0
    spike = with_nan(fired.to(u.dtype) if isinstance(u, Tensor) else where(fired, 1.0, 0.0), u)
    if surrogate is None:
        return spike
    if isinstance(u, Expr):
        surrogate = u.graph.scheduled(surrogate)
    slope = surrogate.derivative(detach(u))
    if isinstance(slope, (int, float)) and slope == 0:
        return spike
    return with_grad(spike, (u, slope))


def lookup(table: Value, row: Value) -> Any:
    """The entry of a gated table (see :class:`~spikeloom.Gated`) that belongs to ``row``.

    ``row`` is a whole number in [0, G), held per neuron; it carries no gradient.
    """
    if isinstance(table, Tensor):
        return with_nan(table[row.detach().nan_to_num().long()], row)
    return with_nan(table.lookup(row), row)


def maximum(a: Value, b: Value) -> Any:
    """The larger of two values; the gradient goes to it, to ``a`` on a tie."""
    return where(a >= b, a, where(b > a, b, a + b))


def minimum(a: Value, b: Value) -> Any:
    """The smaller of two values; the gradient goes to it, to ``a`` on a tie."""
    return where(a <= b, a, where(b < a, b, a + b))


def clamp(a: Value, low: Value, high: Value) -> Any:
    """``a`` limited to [low, high]; the gradient is 1 inside and on the limits."""
    return where(a < low, low, where(a > high, high, a))


def relu(a: Value) -> Any:
    """max(a, 0), with derivative 0 at 0."""
    return where(a <= 0, 0.0, a)


def sign(a: Value) -> Any:
    """-1, 0 or 1; its derivative is 0."""
    return with_nan(where(a > 0, 1.0, where(a < 0, -1.0, 0.0)), a)


def sigmoid(a: Value) -> Any:
    """1 / (1 + exp(-a))."""
    return 1.0 / (1.0 + exp(-a))


def tanh(a: Value) -> Any:
    """The hyperbolic tangent, 2 sigmoid(2a) - 1."""
    return 2.0 * sigmoid(2.0 * a) - 1.0
