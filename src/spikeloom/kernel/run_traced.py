"""A traced program on torch tensors, one operation after another, for who counts operations.

It computes what the step computes, with the operations that the kernels need: each distinct
expression once, what numbers alone decide once for a call, and a surrogate's derivative only if a
gradient is wanted.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from spikeloom.kernel import run_eager, vocabulary
from spikeloom.kernel.counted import uncounted, unseen
from spikeloom.kernel.graph import LEAVES, operands, resolve, schedule
from spikeloom.kernel.neuron import Neuron
from spikeloom.kernel.trace import Program

# Node number, operation, operands: numbers of nodes before it. A leaf says instead what it is; a
# lookup says first in which table.
Instruction = tuple[int, str, tuple[Any, ...]]


def scan(
    neuron: Neuron,
    xs: tuple[Tensor, ...],
    state: tuple[Tensor, ...],
    params: Mapping[str, float | Tensor],
    steps: int,
    dtype: torch.dtype,
) -> tuple[tuple[list[Tensor], ...], tuple[list[Tensor], ...]]:
    """Run the program of a neuron; arguments and results are those of the eager scan.

    Args:
        neuron: What to run; it has a program.
        xs: Inputs ``[T, ...]``; ``[1, ...]`` for a neuron with a beginning.
        state: Initial states, in ``dtype``.
        params: Values by name, tensors without their wrappers.
        steps: T.
        dtype: What the step computes in.
    """
    assert neuron.program is not None
    program = Program.parse(neuron.program)
    tensors = [value for value in (*xs, *state, *params.values()) if isinstance(value, Tensor)]
    learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    decided = {**params, **neuron.surrogate_numbers}
    machine = _Machine(program, learns, decided, dtype, xs[0].device)
    begin = None if program.begin is None else machine.begin
    return run_eager.loop(machine.step, begin, neuron.kinds, params, xs, state, steps, dtype)


class _Machine:
    """The step and the beginning of a program, as functions of tensors.

    Args:
        program: The program.
        learns: Whether gradients are wanted.
        params: Values by name.
        dtype: What is computed in.
        device: Where.
    """

    def __init__(
        self,
        program: Program,
        learns: bool,
        params: Mapping[str, float | Tensor],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.program, self.learns, self.dtype = program, learns, dtype
        # On the CPU, for which a GPU need not wait.
        self.device = torch.device("cpu")
        self.numbers = self._decided(params)
        self.device = device

    def _decided(self, params: Mapping[str, float | Tensor]) -> dict[int, Any]:
        """The nodes that constants and numbers alone decide, as Python values."""
        numbers: dict[int, Any] = {}
        for number, node in enumerate(self.program.nodes):
            if node[0] == "const":
                numbers[number] = float(node[1])
            elif node[0] == "p" and isinstance(value := params[node[1]], float):
                numbers[number] = value
            elif node[0] not in LEAVES and node[0] != "lookup":
                given = [numbers.get(operand) for operand in operands(node)]
                if None not in given:
                    with unseen():
                        numbers[number] = self._result(node[0], given).item()
        return numbers

    def step(self, x: Any, state: tuple[Tensor, ...], p: SimpleNamespace) -> tuple[Any, Any]:
        """Outputs and next states."""
        outputs, following = self.program.outputs, self.program.next
        values = self._computed((*outputs, *following), x, state, p)
        return values[: len(outputs)], values[len(outputs) :]

    def begin(self, x: Any, state: tuple[Tensor, ...], p: SimpleNamespace) -> tuple[Any, ...]:
        """The first states."""
        assert self.program.begin is not None
        return self._computed(self.program.begin, x, state, p)

    def _computed(self, roots: tuple[int, ...], x: Any, state: Any, p: Any) -> tuple[Any, ...]:
        xs = x if isinstance(x, tuple) else (x,)
        read: dict[str, Callable[[Any], Any]] = {
            "x": xs.__getitem__,
            "v": state.__getitem__,
            "p": lambda name: getattr(p, name),
        }
        values = dict(self.numbers)
        for number, name, given in _instructions(self.program, roots, self.learns):
            if number in values:
                continue
            if name in LEAVES:
                values[number] = read[name](*given)
            elif name == "lookup":
                table, row = given
                values[number] = read["p"](table)[_index(values[row])]
            else:
                values[number] = self._result(name, [values[operand] for operand in given])
        return tuple(values[_carrier(self.program, root, self.learns)] for root in roots)

    def _result(self, name: str, given: list[Any]) -> Any:
        if name == "where":
            return self._selected(*given)
        if name in TENSORS_ONLY:
            given = [self._tensor(value) for value in given]
        elif name == "with_grad" or not any(isinstance(value, Tensor) for value in given):
            given = [self._tensor(given[0]), *given[1:]]
        return OPERATIONS[name](*given)

    def _selected(self, condition: Any, a: Any, b: Any) -> Tensor:
        if isinstance(condition, bool):
            return self._tensor(a if condition else b)
        if isinstance(a, float) and isinstance(b, float) and (a, b) == (1.0, 0.0):
            return condition.to(self.dtype)  # a condition as a number, as every spike is
        return torch.where(condition, self._tensor(a), self._tensor(b))

    def _tensor(self, value: Any) -> Tensor:
        dtype = torch.bool if isinstance(value, bool) else self.dtype
        if isinstance(value, Tensor):
            return value
        with uncounted():
            return torch.tensor(value, dtype=dtype, device=self.device)


def _with_grad(value: Tensor, *flat: Any) -> Any:
    return vocabulary.with_grad(value, *zip(flat[::2], flat[1::2], strict=True))


def _index(row: Tensor) -> Tensor:
    """A row as an index; what NaN reads is replaced by NaN afterwards, see ``with_nan``."""
    with uncounted():
        return row.detach().nan_to_num().long()


def _with_nan(value: Tensor, source: Tensor) -> Any:
    # A guard, not an operation of the neuron: arithmetic passes NaN on by itself.
    with uncounted():
        return vocabulary.with_nan(value, source)


# What each operation of a program does to tensors.
OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "neg": operator.neg,
    "gt": operator.gt,
    "ge": operator.ge,
    "eq": operator.eq,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "not": torch.logical_not,
    "where": torch.where,
    "exp": vocabulary.exp,
    "log": vocabulary.log,
    "sqrt": vocabulary.sqrt,
    "erf": vocabulary.erf,
    "floor": vocabulary.floor,
    "rint": vocabulary.rint,
    "abs": vocabulary.absolute,
    "detach": vocabulary.detach,
    "with_nan": _with_nan,
    "with_grad": _with_grad,
}
# torch divides by a Python number inexactly on some devices.
TENSORS_ONLY = frozenset({"div", "and", "or", "with_nan"})


def _carrier(program: Program, number: int, learns: bool) -> int:
    """The node that is computed for this one."""
    return number if learns else resolve(program.nodes, number)


@lru_cache(maxsize=1024)
def _instructions(
    program: Program, roots: tuple[int, ...], learns: bool
) -> tuple[Instruction, ...]:
    """What computes the roots, in order; without gradients only what their values need."""
    nodes = program.nodes
    order = _reached(program, roots) if learns else schedule(nodes, roots)
    return tuple(_instruction(program, number, learns) for number in order)


def _instruction(program: Program, number: int, learns: bool) -> Instruction:
    node = program.nodes[number]
    if node[0] in LEAVES:
        return number, node[0], node[1:]
    given = tuple(_carrier(program, operand, learns) for operand in operands(node))
    return number, node[0], (node[1], *given) if node[0] == "lookup" else given


def _reached(program: Program, roots: Sequence[int]) -> list[int]:
    """All nodes beneath the roots, those of gradients included."""
    found: set[int] = set()
    ahead = list(roots)
    while ahead:
        number = ahead.pop()
        if number not in found:
            found.add(number)
            ahead.extend(operands(program.nodes[number]))
    return sorted(found)
