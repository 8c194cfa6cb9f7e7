"""What both directions of a CUDA kernel share: names, arguments, functions of one neuron."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from spikeloom.kernel.adjoint import adjoint
from spikeloom.kernel.cuda_prelude import DEVICE, REAL, prelude
from spikeloom.kernel.cuda_shape import BLOCK, Shape
from spikeloom.kernel.cuda_text import LINE, Body, Names, literal, signature, wrap
from spikeloom.kernel.graph import Node, schedule
from spikeloom.kernel.trace import Program


@lru_cache(maxsize=1024)
def noted(program: Program) -> tuple[int, ...]:
    """The states that are noted for the sweep: those that it may depend on, and that change.

    Args:
        program: The traced neuron.
    """
    leaves = frozenset(leaf for leaf in program.leaves if leaf[0] != "v")
    return tuple(i for i in adjoint(program, leaves).history if not program.constant(i))


@dataclass(frozen=True)
class Title:
    """Names for the reader of a kernel: the neuron's and its states'."""

    neuron: str = "A neuron"
    states: tuple[str, ...] = ()


@dataclass(frozen=True)
class Function:
    """A device function and the names of its arguments, in order."""

    name: str
    arguments: tuple[str, ...]
    text: tuple[str, ...]

    def call(self, place: Mapping[str, str]) -> list[str]:
        """The loop that calls it for every lane, each argument where ``place`` says."""
        passed = ", ".join(place[argument] for argument in self.arguments)
        return [
            "#pragma unroll",
            "for (int l = 0; l < VEC; ++l) {",
            *wrap(f"{self.name}({passed});", width=LINE - 16),
            "}",
        ]


@dataclass(frozen=True)
class Result:
    """Where a function leaves the value of a node.

    Attributes:
        name: The argument that receives it.
        node: The node; None is zero.
        add: Whether it is added to what is there.
        table: For the gradient of a parameter, the parameter.
        row: For that of a gated table, the node of the row that it belongs to.
    """

    name: str
    node: int | None
    add: bool = False
    table: str = ""
    row: int | None = None


class Scan:
    """What both directions share: names, arguments and the functions of one neuron."""

    def __init__(self, program: Program, shape: Shape, title: Title) -> None:
        self.program = program
        self.shape = shape
        self.title = title
        self.names = Names()
        states = title.states or numbered("v", program.states)
        sums = [f"sum{i}" for i in range(program.states - len(states))]
        self.xs = [self._claim(x) for x in numbered("x", program.inputs)]
        self.vs = [self._claim(v) for v in (*states, *sums)]
        self.ys = [self._claim(y) for y in numbered("y", len(program.outputs))]
        self.ps = {name: self._claim(name) for name, _ in program.params}
        results = [*program.outputs, *program.next, *(program.begin or ())]
        self._exact = frozenset(schedule(program.nodes, results))

    def _claim(self, wish: str) -> str:
        ends = (
            "",
            "_rows",
            "_stride",
            "_first",
            "_last",
            "_next",
            "_past",
            "_data",
            "_sums",
            "_cells",
            "_total",
            "_ahead",
        )
        forms = [head + "{}" + end for head in ("", "g_") for end in ends]
        return self.names.claim(wish, [*forms, "kept_{}"])

    # --- Functions of one neuron ---

    def spelled(self, nodes: Sequence[Node]) -> dict[int, str]:
        """The leaves of a graph by the names they have here."""
        names: dict[str, Callable[[Any], str]] = {
            "x": lambda i: self.xs[i],
            "v": lambda i: self.vs[i],
            "p": lambda name: self.ps[name],
            "gy": lambda i: f"g_{self.ys[i]}",
            "gw": lambda i: f"g_{self.vs[i]}_next",
        }
        return {n: names[node[0]](node[1]) for n, node in enumerate(nodes) if node[0] in names}

    def function(
        self,
        name: str,
        comment: str,
        nodes: Sequence[Node],
        results: Sequence[Result],
        given: Mapping[int, str] | None = None,
        named: Mapping[int, str] | None = None,
    ) -> Function:
        """A function of one neuron.

        Args:
            name: Its name.
            comment: What it does.
            nodes: The graph.
            results: What it leaves behind.
            given: Nodes that it receives under these names.
            named: Nodes that it computes under these names.
        """
        given = given or {}
        spelled = {**self.spelled(nodes), **given}
        roots = [n for r in results for n in (r.node, r.row) if n is not None]
        needed = schedule(nodes, roots, frozenset(spelled))
        read = [*(n for n in given if n in needed), *(n for n in needed if n not in given)]
        arguments = {spelled[n]: f"real {spelled[n]}" for n in read if n in spelled}
        tables = {nodes[n][1] for n in needed if nodes[n][0] == "lookup"}
        tables |= {r.table for r in results if r.row is not None}
        for table in (p for name, p in self.ps.items() if name in tables):
            arguments |= {table: f"const Table& {table}", "t": "long long t"}
        for r in results:
            arguments[r.name] = f"{'real' if r.row is None else self.sums(r.table)}& {r.name}"
        body = Body(
            nodes,
            spelled,
            REAL[self.shape.dtype],
            powers=self.shape.powers,
            tables=self.ps,
            names=self.names.scope(),
            named=named or {},
            own=len(self.program.nodes),
            exact=self._exact,
        )
        body.evaluate(roots)
        lines = [f"// {comment}", *signature(f"{DEVICE} void {name}", list(arguments.values()))]
        lines += [*body.lines, *(line for r in results for line in self._leave(body, r)), "}", ""]
        return Function(name, tuple(arguments), tuple(lines))

    def _leave(self, body: Body, result: Result) -> list[str]:
        value = literal(0.0, body.real) if result.node is None else body.text(result.node)
        if result.row is not None:
            row = f"{self.ps[result.table]}.nearest({body.text(result.row)})"
            return wrap(f"{result.name}.add({row}, t, {value});")
        return wrap(f"{result.name} {'+=' if result.add else '='} {value};")

    def sums(self, table: str) -> str:
        """The type that sums the gradient of a table."""
        rows = {name: rows for name, rows, _ in self.shape.tables}
        return f"WarpSums<{rows[table]}>" if table in rows else "Sums"

    def following(self, which: Sequence[int]) -> list[Result]:
        """The next values of these states, but for those that never change."""
        moving = (i for i in which if not self.program.constant(i))
        return [Result(f"{self.vs[i]}_next", self.program.next[i]) for i in moving]

    def beginning(self, which: Sequence[int]) -> Function | None:
        """The function that sets these states from the input, if the neuron has one."""
        begin = self.program.begin
        if begin is None:
            return None
        results = [Result(f"{self.vs[i]}_next", begin[i]) for i in which]
        return self.function("begin", "The input enters, once.", self.program.nodes, results)

    # --- Pieces of a kernel ---

    def places(self, **more: str) -> dict[str, str]:
        """Where a kernel has the arguments of the functions, at a lane ``l``."""
        found = {name: f"{name}[l]" for name in (*self.xs, *self.vs, *self.ys)}
        found |= {f"{v}_next": f"{v}[l]" for v in self.vs}
        for name, kind in self.program.params:
            p = self.ps[name]
            found[p] = {"step": f"{p}_data[t]", "neuron": f"{p}[l]"}.get(kind, p)
        return {**found, "t": "t", **more}

    def parameters(self) -> list[str]:
        """The parameters as arguments of a kernel."""
        found = []
        for name, kind in self.program.params:
            p = self.ps[name]
            found.append(f"real {p}" if kind == "number" else f"const real* __restrict__ {p}_data")
            found += [f"long long {p}_rows"] if kind == "gated" else []
        return found

    def sequences(self, function: Function) -> list[str]:
        """The sequences of which a function reads a step: inputs, and gradients of outputs."""
        every = (*self.xs, *(f"g_{y}" for y in self.ys))
        return [name for name in every if name in function.arguments]

    def row(self, name: str, t: str = "t") -> str:
        """What a sequence holds at a step for the neurons of a thread."""
        return f"load({name}_rows + {t} * {name}_stride + n)"

    def rows(self, function: Function) -> list[str]:
        """The sequences that a function reads, at step t."""
        return [f"const Pack {name} = {self.row(name)};" for name in self.sequences(function)]

    def first(self, i: int) -> str:
        """A state before the first step."""
        v = self.vs[i]
        return f"Pack {v} = initial({v}_first, {v}_stride, n);"

    def slot(self, where: str, i: int) -> str:
        """The address of a state that is noted at the start of a segment."""
        states = noted(self.program)
        row = "segment" if len(states) == 1 else f"(segment * {len(states)} + {states.index(i)})"
        return f"{where} + {row} * N + n"

    def start(self, which: Sequence[int], begin: Function | None) -> list[str]:
        """These states as the first step finds them."""
        if begin is None:
            return [self.first(i) for i in which]
        read = [i for i, v in enumerate(self.vs) if i in which or v in begin.arguments]
        enter = [*self.rows(begin), *begin.call(self.places())]
        return [
            *(self.first(i) for i in read),
            "{",
            *inside(["const long long t = 0;", *enter]),
            "}",
        ]

    def kernel(
        self,
        name: str,
        arguments: Sequence[str],
        body: Sequence[str],
        before: Sequence[str] = (),
        after: Sequence[str] = (),
        scratch: Sequence[str] = (),
    ) -> list[str]:
        """The kernel: ``body`` for the neurons n ... n + VEC - 1 of a thread, in turn."""
        lines = [
            "const long long thread = blockIdx.x * (long long) blockDim.x + threadIdx.x;",
            "const long long threads = gridDim.x * (long long) blockDim.x;",
        ]
        each = []
        for parameter, kind in self.program.params:
            p = self.ps[parameter]
            if kind == "scalar":
                lines.append(f"const real {p} = *{p}_data;")
            elif kind == "gated":
                lines.append(f"const Table {p} = {{{p}_data, {p}_rows, T}};")
            elif kind == "neuron":
                each.append(f"const Pack {p} = load({p}_data + n);")
        loop = "for (long long n = VEC * thread; n < N; n += VEC * threads) {"
        lines += [*before, loop, *inside([*each, *body]), "}", *after]
        bounds = f"{BLOCK}, {self.shape.blocks}" if self.shape.blocks else f"{BLOCK}"
        head = f'extern "C" __global__ void __launch_bounds__({bounds}) {name}'
        every = ["long long T", "long long N", *arguments, *self.parameters(), *scratch]
        return [*signature(head, every), *inside(lines), "}"]

    def module(self, what: str, functions: Sequence[Function | None], kernel: list[str]) -> str:
        """The finished text."""
        text = [line for function in functions if function for line in function.text]
        name = re.sub(r"[^ -~]|\\", "?", self.title.neuron)
        lines = [
            f"// {name}: {what}.",
            "// Generated by spikeloom from the neuron's step. Compile with --fmad=false.",
            "//",
            "// Sequences are T rows of N neurons. v_first and v_last are a state before the first",
            "// and after the last step, v_next after this one; g_ marks a gradient.",
            "",
        ]
        lines += prelude(self.shape.dtype, self.shape.vec, "\n".join([*text, *kernel]))
        lines += ["", *text, *kernel]
        return "\n".join(lines) + "\n"


def numbered(letter: str, count: int) -> tuple[str, ...]:
    """Names for so many things: a letter, with numbers if there are several."""
    return (letter,) if count == 1 else tuple(f"{letter}{i}" for i in range(count))


def inside(lines: Sequence[str]) -> list[str]:
    """Lines of a block, indented."""
    return [f"    {line}" if line else line for line in lines]
