"""Value kinds: what a tensor may hold whatever the data, and what arithmetic does to that.

A kind follows from the operations that made a tensor, never from the values of one batch: an
all-zero map of real values is real, a map of comparisons is {0, 1}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel.counted import unseen
from spikeloom.kernel.graph import CONDITIONS, Node, operands, resolve, schedule
from spikeloom.kernel.run_traced import OPERATIONS
from spikeloom.kernel.trace import Program

__all__ = ["REAL", "SAMPLE", "SPIKE", "Kind", "NotFree", "evaluated", "program_kinds"]


class NotFree(Exception):
    """An operation that needs a multiplication of real values; the message says which."""


@dataclass(frozen=True)
class Kind:
    """Whole numbers between two bounds, or real values.

    Attributes:
        low: Smallest whole number; None for real values.
        high: Largest whole number; None for real values.
        sample: Whether these are the model's own input values.
    """

    low: int | None = None
    high: int | None = None
    sample: bool = False

    @property
    def whole(self) -> bool:
        """Whether only whole numbers occur."""
        return self.low is not None

    @property
    def signed_spike(self) -> bool:
        """Whether only -1, 0 and 1 occur, so that a product with it is a selection."""
        return self.low is not None and self.high is not None and -1 <= self.low <= self.high <= 1

    def __str__(self) -> str:
        if self.low is None:
            return "sample" if self.sample else "real"
        return "spike" if (self.low, self.high) == (0, 1) else f"{self.low}..{self.high}"


DOUBLE = torch.float64
REAL = Kind()
SAMPLE = Kind(sample=True)
SPIKE = Kind(0, 1)
# A constant is a number or a tensor that does not depend on the sample; its values may be read.
Constant = float | int | bool | Tensor
Operand = Kind | Constant


def kind_of(value: Operand) -> Kind:
    """The kind of a kind (itself) or of a constant."""
    if isinstance(value, Kind):
        return value
    tensor = torch.as_tensor(value).double()
    if tensor.numel() == 0:
        return Kind(0, 0)
    if not bool((tensor == tensor.round()).all()) or not bool(tensor.isfinite().all()):
        return REAL
    return Kind(int(tensor.min()), int(tensor.max()))


def join(*values: Operand) -> Kind:
    """A kind that holds all of these."""
    kinds = [kind_of(value) for value in values]
    lows = [kind.low for kind in kinds if kind.low is not None]
    highs = [kind.high for kind in kinds if kind.high is not None]
    if len(lows) < len(kinds):
        return SAMPLE if all(kind.sample for kind in kinds) else REAL
    return Kind(min(lows), max(highs))


def plus(a: Operand, b: Operand, sign: int = 1) -> Kind:
    """``a + sign * b``: whole numbers stay whole, their ranges add."""
    x, y = kind_of(a), kind_of(b)
    if x.low is None or x.high is None or y.low is None or y.high is None:
        return REAL
    ends = (sign * y.low, sign * y.high)
    return Kind(x.low + min(ends), x.high + max(ends))


def negative(a: Operand) -> Kind:
    """``-a``."""
    kind = kind_of(a)
    return kind if kind.low is None or kind.high is None else Kind(-kind.high, -kind.low)


def many(a: Kind, count: int) -> Kind:
    """The sum of ``count`` such values."""
    if a.low is None or a.high is None:
        return REAL
    return Kind(min(a.low * count, a.low), max(a.high * count, a.high))


def is_shift(factor: Constant) -> bool:
    """Whether all values are powers of two, up to sign, or zero."""
    tensor = torch.as_tensor(factor, dtype=torch.float64).abs()
    mantissa, _ = torch.frexp(tensor)
    return bool(((mantissa == 0.5) | (tensor == 0)).all())


def times(a: Operand, b: Operand) -> Kind:
    """A product that is a selection or a shift.

    Raises:
        NotFree: If it is a multiplication.
    """
    if not isinstance(a, Kind):
        a, b = b, a
    assert isinstance(a, Kind)
    for choice, other in ((a, b), (b, a)):
        if isinstance(choice, Kind) and choice.signed_spike:
            kind = kind_of(other)
            return join(0, kind, *((negative(kind),) if choice.low == -1 else ()))
    if isinstance(b, Kind):
        raise NotFree(f"multiplies {_values(a)} by {_values(b)}")
    if not is_shift(b):
        raise NotFree(f"multiplies {_values(a)} by {_shown(b)}, which is no power of two")
    factor = kind_of(b)
    if a.low is None or a.high is None or factor.low is None or factor.high is None:
        return REAL
    ends = [x * y for x in (a.low, a.high) for y in (factor.low, factor.high)]
    return Kind(min(ends), max(ends))


def over(a: Operand, b: Operand) -> Kind:
    """A quotient that is a shift.

    Raises:
        NotFree: If it is a division.
    """
    if isinstance(b, Kind) or not is_shift(b):
        by = _values(b) if isinstance(b, Kind) else f"{_shown(b)}, which is no power of two"
        raise NotFree(f"divides {_values(kind_of(a))} by {by}")
    return REAL


def _values(kind: Kind) -> str:
    return "spikes" if kind.signed_spike else "whole numbers" if kind.whole else "real values"


def _shown(constant: Constant) -> str:
    if isinstance(constant, Tensor) and constant.numel() != 1:
        return f"a constant of shape {tuple(constant.shape)}"
    return f"{float(constant):.6g}"


# --- A neuron's program ----------------------------------------------------------------------

RULES: Mapping[str, Callable[..., Kind]] = {
    "add": plus,
    "sub": lambda a, b: plus(a, b, -1),
    "mul": times,
    "div": over,
    "neg": negative,
    "abs": lambda a: join(a, negative(a)),
    "where": lambda c, a, b: join(a, b),
    "with_nan": lambda value, source: kind_of(value),
    **dict.fromkeys(CONDITIONS, lambda *values: SPIKE),
}


def program_kinds(
    program: Program, inputs: Sequence[Kind], params: Mapping[str, Constant]
) -> tuple[dict[int, Operand], list[str]]:
    """What every node of a neuron's program may hold, and the operations that are not free.

    States count as real. Surrogate derivatives are training's business and are not looked at.

    Args:
        program: The traced neuron.
        inputs: Kinds of its inputs.
        params: Its parameters' values.

    Returns:
        The kind of each node that inference needs (or its value, if constant), and a sentence for
        every multiplication.
    """
    roots = [*program.outputs, *program.next, *(program.begin or ())]
    found: dict[int, Operand] = {}
    problems: list[str] = []
    params = _crossed(program, params)
    for number in schedule(program.nodes, roots):
        node = program.nodes[number]
        values = [found[resolve(program.nodes, i)] for i in operands(node)]
        try:
            found[number] = _node_kind(node, values, inputs, params)
        except NotFree as problem:
            problems.append(str(problem))
            found[number] = REAL
    return found, problems


def _crossed(program: Program, params: Mapping[str, Constant]) -> dict[str, Constant]:
    """Parameters in which the value of every step meets that of every neuron."""
    kinds = dict(program.params)
    return {
        name: value[..., None] if kinds[name] == "neuron" and isinstance(value, Tensor) else value
        for name, value in params.items()
    }


def _node_kind(
    node: Node, values: list[Operand], inputs: Sequence[Kind], params: Mapping[str, Constant]
) -> Operand:
    name = node[0]
    if name == "const":
        return float(node[1])
    if name == "x":
        return inputs[node[1]]
    if name == "v":
        return REAL
    if name == "p":
        return params[node[1]]
    if name == "lookup":
        return kind_of(params[node[1]])
    if not any(isinstance(value, Kind) for value in values):
        return evaluated(name, [_number(value) for value in values])
    if name in RULES:
        return RULES[name](*values)
    if all(kind_of(value).whole for value in values) and name in ("floor", "rint"):
        return join(*values)
    raise NotFree(f"computes {name} of a real value")


def _number(value: Operand) -> Any:
    """A one-element tensor as a number, so that constants combine."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    return value


def evaluated(name: str, values: Sequence[Any]) -> Any:
    """What an operation of a program makes of tensors and numbers.

    Args:
        name: The operation's.
        values: Its operands.

    Returns:
        A number, if all operands are.
    """
    if any(isinstance(value, Tensor) for value in values):
        # torch joins conditions of tensors only.
        tensors = [torch.tensor(v) if isinstance(v, bool) else v for v in values]
        return OPERATIONS[name](*tensors)
    with unseen():  # once for all, before the network runs
        tensors = [torch.tensor(v, dtype=None if isinstance(v, bool) else DOUBLE) for v in values]
        return OPERATIONS[name](*tensors).item()
