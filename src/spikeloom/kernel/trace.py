"""A step, run once on symbols: the program that every kernel is made from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import SimpleNamespace
from typing import Any

from spikeloom.kernel.graph import Graph, Node, operands, resolve


@dataclass(frozen=True, eq=False)
class Program:
    """A traced neuron: one graph, and which of its nodes are outputs and next states.

    Programs are compared by identity: :meth:`parse` gives one object for one text.

    Attributes:
        nodes: The graph; node i may only read nodes before it.
        inputs: How many input sequences the step reads.
        states: How many states it carries.
        params: ``(name, kind)`` pairs; kind is ``number`` (a Python float), ``scalar`` (a 0-d
            tensor), ``step`` ([T]), ``neuron`` (one value a neuron) or ``gated`` ([G, T]).
        outputs: Nodes that leave at every step.
        next: Nodes that become the states.
        begin: Nodes that set the states once, from the summed input; None if the step reads the
            input itself.
        settings: How many of the parameters, the last ones, are numbers of surrogates.
    """

    nodes: tuple[Node, ...]
    inputs: int
    states: int
    params: tuple[tuple[str, str], ...]
    outputs: tuple[int, ...]
    next: tuple[int, ...]
    begin: tuple[int, ...] | None = None
    settings: int = 0

    @cached_property
    def text(self) -> str:
        """The program as text, from which :meth:`parse` makes it again."""
        fields = [self.nodes, self.inputs, self.states, self.params, self.outputs, self.next]
        return json.dumps([*fields, self.begin, self.settings])

    @staticmethod
    @lru_cache(maxsize=4096)
    def parse(text: str) -> Program:
        """The program that a text describes."""
        nodes, inputs, states, params, outputs, following, begin, settings = json.loads(text)
        return Program(
            tuple(tuple(node) for node in nodes),
            inputs,
            states,
            tuple((name, kind) for name, kind in params),
            tuple(outputs),
            tuple(following),
            None if begin is None else tuple(begin),
            settings,
        )

    @cached_property
    def tensors(self) -> tuple[tuple[str, str], ...]:
        """The ``(name, kind)`` of the parameters that are tensors."""
        return tuple((name, kind) for name, kind in self.params if kind != "number")

    @cached_property
    def leaves(self) -> tuple[Node, ...]:
        """The leaves that are tensors of a call: inputs, states and parameters."""
        inputs = [("x", i) for i in range(self.inputs)]
        states = [("v", i) for i in range(self.states)]
        return (*inputs, *states, *(("p", name) for name, _ in self.tensors))

    def powers(self, numbers: Sequence[float]) -> frozenset[str]:
        """The divisors that are powers of two here: dividing by them is multiplying.

        A surrogate's are not among them, so that a schedule of them needs one kernel only.

        Args:
            numbers: The parameters of kind ``number``, in order.
        """
        names = [name for name, kind in self.params if kind == "number"]
        return frozenset(
            name
            for name, number in zip(names, numbers, strict=True)
            if name in self._divisors
            and abs(math.frexp(number)[0]) == 0.5
            and 1e-30 < abs(number) < 1e30
        )

    @cached_property
    def _divisors(self) -> frozenset[str]:
        """The parameters of the neuron that something is divided by."""
        divisors = [self.nodes[resolve(self.nodes, n[2])] for n in self.nodes if n[0] == "div"]
        own = {name for name, _ in self.params[: len(self.params) - self.settings]}
        return frozenset(node[1] for node in divisors if node[0] == "p" and node[1] in own)

    def leaf(self, *leaf: Any) -> int:
        """The number of a leaf such as ``("v", 0)``; tracing makes one for everything declared."""
        return self.nodes.index(leaf)

    def constant(self, state: int) -> bool:
        """Whether a state never changes, such as the row of a gated table."""
        return resolve(self.nodes, self.next[state]) == self.leaf("v", state)


def trace(
    step: Callable[..., Any],
    states: int,
    kinds: Mapping[str, str],
    inputs: int = 1,
    begin: Callable[..., Any] | None = None,
) -> tuple[Program, Mapping[str, float]]:
    """Run a step (and its beginning) once on symbols.

    Args:
        step: ``step(x, state, p) -> (y, new_state)``; ``x`` is None if there is a beginning.
        states: How many states the step carries.
        kinds: Parameter name -> kind, see :class:`Program`.
        inputs: How many inputs; with more than one, ``x`` is a tuple.
        begin: ``begin(x, state, p) -> state``, or None.

    Returns:
        The program, and the numbers of the step's surrogates by the names that they have in it.

    Raises:
        TypeError: If the step does something that has no symbol; the message says what instead.
        ValueError: If it returns another number of states than declared.
    """
    graph = Graph(taken=kinds)
    xs = tuple(graph.add("x", i) for i in range(inputs))
    x: Any = xs[0] if inputs == 1 else xs
    state = tuple(graph.add("v", i) for i in range(states))
    p = SimpleNamespace(**{name: graph.add("p", name) for name in kinds})
    first = None
    if begin is not None:
        first = _numbers(graph, checked_states(begin(x, state, p), states, "begin"))
        x = None
    outputs, following = checked_results(step(x, state, p), states)
    left, after = _numbers(graph, outputs), _numbers(graph, following)
    # The graph is read last: a plain number among the results has become a node of its own.
    nodes = tuple(graph.nodes)
    params = (*kinds.items(), *((name, "number") for name in graph.settings))
    settings = len(graph.settings)
    program = Program(nodes, inputs, states, params, left, after, first, settings)
    _check_tables(program)
    return program, graph.settings


def checked_results(result: Any, states: int) -> tuple[Sequence[Any], Sequence[Any]]:
    """The outputs and the next states among what a step has returned.

    Args:
        result: What it has returned.
        states: How many states it carries.

    Raises:
        ValueError: If these are not outputs and that many states.
    """
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        many = isinstance(result, (tuple, list))
        got = f"a {type(result).__name__} of {len(result)}" if many else type(result).__name__
        raise ValueError(f"step: must return (y, new_state), got {got}")
    y, following = result
    return y if isinstance(y, tuple) else (y,), checked_states(following, states, "step")


def checked_states(values: Any, count: int, who: str) -> Sequence[Any]:
    """The states that a step or a beginning has returned.

    Args:
        values: What it has returned for them.
        count: How many there are.
        who: ``step`` or ``begin``, for errors.

    Raises:
        ValueError: If these are not that many states.
    """
    if not isinstance(values, (tuple, list)) or len(values) != count:
        many = isinstance(values, (tuple, list))
        got = f"{len(values)} of them" if many else type(values).__name__
        raise ValueError(f"{who}: must return its {count} states as a tuple, got {got}")
    return values


def _numbers(graph: Graph, values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(graph.lift(value)._real().number for value in values)


def _check_tables(program: Program) -> None:
    gated = {name for name, kind in program.params if kind == "gated"}
    for node in program.nodes:
        if node[0] == "lookup" and node[1] not in gated:
            raise TypeError(
                f"lookup: parameter {node[1]!r} is no gated table; wrap it in Gated(...)"
            )
        for number in operands(node):
            operand = program.nodes[number]
            if operand[0] == "p" and operand[1] in gated:
                raise TypeError(f"parameter {operand[1]!r} is a gated table; read it with lookup")
