"""Graph -> CUDA C: the scan on a GPU.

A thread carries a few neighbouring neurons through time, their states in registers, and moves
them with accesses of up to 16 bytes. A step of one neuron is a function of its own; the kernel
around it is one template for all neurons. The arithmetic is exactly the graph's: compiled without
contraction and fast-math, the forward pass rounds as the eager step does.

The backward pass reads only the inputs and the initial states. It goes through time in segments,
whose history fits in registers: the states at the start of every segment are noted on the way
forward; then, from the last segment to the first, a segment is recomputed and swept back over.
Parameters that neurons share are summed by each thread for itself, so nothing is atomic and
results are the same in every run.

Arguments, in order. Forward: T, N; per input its rows and the stride between them; per state its
first value, the stride of that (0 or 1) and where the last goes; per output its rows. Backward:
T, N, the checkpoints; per input its rows, their stride and, if it has one, its gradient's rows;
per state its first value and stride, the gradient that arrives at the last and its stride, and
where the first one's gradient goes; per output the rows of its gradient and their stride; per
learned parameter its sums. Both then take the parameters: a number by value, a tensor's address,
and a gated table's number of rows after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from spikeloom.kernel.adjoint import Adjoint, Gradients, learned
from spikeloom.kernel.cuda_prelude import BYTES, DEVICE, REAL, prelude
from spikeloom.kernel.cuda_text import LINE, Body, Names, literal, signature, wrap
from spikeloom.kernel.trace import Node, Program, schedule

# Threads of a block.
BLOCK = 128
# Bytes of one access to memory, at most.
ACCESS = 16
# Steps of a segment, at most, and 32-bit registers that the history of a thread may take.
SEGMENT = 16
HISTORY = 64


@dataclass(frozen=True)
class Shape:
    """What is fixed when a kernel is compiled.

    Attributes:
        dtype: What sequences are stored as, such as ``bfloat16``.
        vec: Neurons a thread carries; more than 1 needs aligned rows and N divisible by it.
        segment: Steps whose history the backward pass keeps in registers.
        checkpointed: Whether there may be more steps than one segment has.
        ragged: Whether the last segment may be shorter than the others.
        powers: Number parameters that are powers of two: dividing by them is multiplying.
    """

    dtype: str = "float32"
    vec: int = 1
    segment: int = 16
    checkpointed: bool = True
    ragged: bool = True
    powers: frozenset[str] = frozenset()


def widest(dtype: str) -> int:
    """Neurons that one access can take."""
    return ACCESS // BYTES[dtype]


@lru_cache(maxsize=1024)
def backward_shape(
    program: Program,
    gradient: Adjoint,
    steps: int,
    dtype: str,
    vec: int,
    powers: frozenset[str] = frozenset(),
) -> Shape:
    """The backward kernel for so many steps; ``vec`` falls until the history fits in registers."""
    segment = min(SEGMENT, 1 << (steps - 1).bit_length())
    registers = len(_history(program, gradient)) * (2 if dtype == "float64" else 1)
    while vec > 1 and vec * segment * registers > HISTORY:
        vec //= 2
    return Shape(dtype, vec, segment, steps > segment, steps % segment != 0, powers)


def _history(program: Program, gradient: Adjoint) -> list[int]:
    """The nodes whose value the backward pass keeps for every step of a segment."""
    constant = {program.leaf("v", i) for i in range(program.states) if program.constant(i)}
    return [node for node in gradient.kept if node not in constant]


@dataclass(frozen=True)
class Title:
    """Names for the reader of a kernel: the neuron's and its states'."""

    neuron: str = "A neuron"
    states: tuple[str, ...] = ()


def forward(program: Program, shape: Shape, title: Title | None = None) -> str:
    """The module whose kernel ``forward`` runs a neuron through time."""
    return Forward(program, shape, title or Title()).emit()


def backward(program: Program, gradient: Adjoint, shape: Shape, title: Title | None = None) -> str:
    """The module whose kernel ``backward`` runs the reverse sweep."""
    return Backward(program, shape, title or Title(), gradient).emit()


# --- Functions of one neuron ---


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
        states = title.states or _numbered("v", program.states)
        sums = [f"sum{i}" for i in range(program.states - len(states))]
        self.xs = [self._claim(x) for x in _numbered("x", program.inputs)]
        self.vs = [self._claim(v) for v in (*states, *sums)]
        self.ys = [self._claim(y) for y in _numbered("y", len(program.outputs))]
        self.ps = {name: self._claim(name) for name, _ in program.params}

    def _claim(self, wish: str) -> str:
        ends = ("", "_rows", "_stride", "_first", "_last", "_next", "_past", "_data", "_sums")
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
            arguments[r.name] = f"{'real' if r.row is None else 'Sums'}& {r.name}"
        body = Body(
            nodes,
            spelled,
            REAL[self.shape.dtype],
            powers=self.shape.powers,
            tables=self.ps,
            names=self.names.scope(),
            named=named or {},
            own=len(self.program.nodes),
        )
        body.evaluate(roots)
        lines = [f"// {comment}", *signature(f"{DEVICE} void {name}", list(arguments.values()))]
        lines += [*body.lines, *(line for r in results for line in self._leave(body, r)), "}", ""]
        return Function(name, tuple(arguments), tuple(lines))

    def _leave(self, body: Body, result: Result) -> list[str]:
        value = literal(0.0, body.real) if result.node is None else body.text(result.node)
        if result.row is not None:
            cell = f"{self.ps[result.table]}.cell({body.text(result.row)}, t)"
            return wrap(f"{result.name}.add({cell}, {value});")
        return wrap(f"{result.name} {'+=' if result.add else '='} {value};")

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

    def rows(self, function: Function) -> list[str]:
        """The inputs that a function reads at step t."""
        return [
            f"const Pack {x} = load({x}_rows + t * {x}_stride + n);"
            for x in self.xs
            if x in function.arguments
        ]

    def first(self, i: int) -> str:
        """A state before the first step."""
        v = self.vs[i]
        return f"Pack {v} = initial({v}_first, {v}_stride, n);"

    def start(self, which: Sequence[int], begin: Function | None) -> list[str]:
        """These states as the first step finds them."""
        if begin is None:
            return [self.first(i) for i in which]
        read = [i for i, v in enumerate(self.vs) if i in which or v in begin.arguments]
        enter = [*self.rows(begin), *begin.call(self.places())]
        return [
            *(self.first(i) for i in read),
            "{",
            *_inside(["const long long t = 0;", *enter]),
            "}",
        ]

    def kernel(
        self,
        name: str,
        arguments: Sequence[str],
        body: Sequence[str],
        before: Sequence[str] = (),
        after: Sequence[str] = (),
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
        lines += [*before, loop, *_inside([*each, *body]), "}", *after]
        head = f'extern "C" __global__ void __launch_bounds__({BLOCK}) {name}'
        opening = signature(head, ["long long T", "long long N", *arguments, *self.parameters()])
        return [*opening, *_inside(lines), "}"]

    def module(self, what: str, functions: Sequence[Function | None], kernel: list[str]) -> str:
        """The finished text."""
        text = [line for function in functions if function for line in function.text]
        gated = any(kind == "gated" for _, kind in self.program.params)
        summed = any("Sums& " in line for line in text)
        name = re.sub(r"[^ -~]|\\", "?", self.title.neuron)
        lines = [
            f"// {name}: {what}.",
            "// Generated by spikeloom from the neuron's step. Compile with --fmad=false.",
            "//",
            "// Sequences are T rows of N neurons. v_first and v_last are a state before the first",
            "// and after the last step, v_next after this one; g_ marks a gradient.",
            "",
        ]
        lines += [*prelude(self.shape.dtype, self.shape.vec, gated, summed), "", *text, *kernel]
        return "\n".join(lines) + "\n"


class Forward(Scan):
    """The forward kernel."""

    def emit(self) -> str:
        """The module's text."""
        program, every = self.program, range(self.program.states)
        outputs = [Result(y, node) for y, node in zip(self.ys, program.outputs, strict=True)]
        results = [*outputs, *self.following(every)]
        step = self.function("step", "One step of one neuron.", program.nodes, results)
        begin = self.beginning(every)
        at_t = [
            *self.rows(step),
            *(f"Pack {y};" for y in self.ys),
            *step.call(self.places()),
            *(f"save({y}_rows + t * N + n, {y});" for y in self.ys),
        ]
        through_time = ["#pragma unroll 4", "for (long long t = 0; t < T; ++t) {"]
        body = [
            *self.start(every, begin),
            *through_time,
            *_inside(at_t),
            "}",
            *(f"save({v}_last + n, {v});" for v in self.vs),
        ]
        kernel = self.kernel("forward", self._arguments(), body)
        return self.module("forward through time", [begin, step], kernel)

    def _arguments(self) -> list[str]:
        found = []
        for x in self.xs:
            found += [f"const stored* __restrict__ {x}_rows", f"long long {x}_stride"]
        for v in self.vs:
            found += [f"const real* __restrict__ {v}_first", f"long long {v}_stride"]
            found += [f"real* __restrict__ {v}_last"]
        return found + [f"stored* __restrict__ {y}_rows" for y in self.ys]


class Backward(Scan):
    """The backward kernel."""

    def __init__(self, program: Program, shape: Shape, title: Title, gradient: Adjoint) -> None:
        super().__init__(program, shape, title)
        self.gradient = gradient
        self.learned = [(self.ps[name], kind) for name, kind in learned(program, gradient)]
        # What is kept of the past at each step: a charged potential, say, or the states.
        leaves = self.spelled(gradient.nodes)
        kept = _history(program, gradient)
        self.kept = {n: leaves[n] if n in leaves else self._claim("h") for n in kept}

    def emit(self) -> str:
        """The module's text."""
        gradient, nodes = self.gradient, self.gradient.nodes
        recalled = [Result(f"kept_{name}", node) for node, name in self.kept.items()]
        following = self.following(gradient.history)
        named = {n: name for n, name in self.kept.items() if nodes[n][0] != "v"}
        recompute = self.function(
            "recompute",
            "One step again: what the sweep starts from, and the states after it.",
            nodes,
            [*recalled, *following],
            named=named,
        )
        advance = self.function(
            "advance", "The states after one step.", nodes, following, named=named
        )
        sweep = self.function(
            "sweep", "One step back in time.", nodes, self._results(gradient.step), self.kept
        )
        begin = self.beginning(gradient.history) if gradient.history else None
        functions = [begin, *([recompute] if self.kept else []), sweep]
        if self.shape.checkpointed and self.kept:
            functions.insert(1, advance)
        body = [
            *(f"Pack g_{v} = initial(g_{v}_last, g_{v}_stride, n);" for v in self.vs),
            *(f"Pack g_{p} = {{}};" for p, kind in self.learned if kind == "neuron"),
            *self.start(gradient.history, begin),
        ]
        if not self.kept:
            body += self._without_history(sweep)
        elif self.shape.checkpointed:
            body += self._checkpointed(advance, recompute, sweep)
        else:
            body += self._segment("", recompute, sweep)
        if gradient.begin is not None:
            first = self.function(
                "sweep_begin", "Back through the beginning.", nodes, self._results(gradient.begin)
            )
            functions.append(first)
            body += self._back_to_begin(first)
        body += [f"save(g_{v}_first + n, g_{v});" for v in self.vs]
        body += [f"save(g_{p}_data + n, g_{p});" for p, kind in self.learned if kind == "neuron"]
        kernel = self.kernel("backward", self._arguments(), body, *self._around())
        return self.module("gradients, backward through time", functions, kernel)

    def _arguments(self) -> list[str]:
        found = ["real* __restrict__ checkpoints"]
        reached = (self.gradient.begin or self.gradient.step).x
        for x, number in zip(self.xs, reached, strict=True):
            found += [f"const stored* __restrict__ {x}_rows", f"long long {x}_stride"]
            found += [] if number is None else [f"stored* __restrict__ g_{x}_rows"]
        for v in self.vs:
            found += [f"const real* __restrict__ {v}_first", f"long long {v}_stride"]
            found += [f"const real* __restrict__ g_{v}_last", f"long long g_{v}_stride"]
            found += [f"real* __restrict__ g_{v}_first"]
        for y in self.ys:
            found += [f"const stored* __restrict__ g_{y}_rows", f"long long g_{y}_stride"]
        for p, kind in self.learned:
            found += [f"real* __restrict__ {f'g_{p}_data' if kind == 'neuron' else f'{p}_sums'}"]
        return found

    def _sweep_at_t(self, sweep: Function, found: Gradients, place: dict[str, str]) -> list[str]:
        """One call of a sweep, with what it reads and where its gradients go."""
        g_xs = [x for x, node in zip(self.xs, found.x, strict=True) if node is not None]
        steps = [self.ps[name] for name in found.p if dict(self.program.params)[name] == "step"]
        place = {f"g_{name}": f"g_{name}[l]" for name in (*self.xs, *self.vs, *self.ys)} | place
        place |= {f"g_{v}_next": f"g_{v}[l]" for v in self.vs}
        place |= {
            f"g_{p}": f"g_{p}[l]" if kind == "neuron" else f"g_{p}" for p, kind in self.learned
        }
        return [
            *self.rows(sweep),
            *(
                f"const Pack g_{y} = load(g_{y}_rows + t * g_{y}_stride + n);"
                for y in self.ys
                if f"g_{y}" in sweep.arguments
            ),
            *(f"Pack g_{x};" for x in g_xs),
            *(f"real g_{p} = 0;" for p in steps),
            *sweep.call(self.places(**place)),
            *(f"save(g_{x}_rows + t * N + n, g_{x});" for x in g_xs),
            *(f"{p}_sums[t * threads + thread] += g_{p};" for p in steps),
        ]

    def _without_history(self, sweep: Function) -> list[str]:
        """Back through all steps, where no past value matters."""
        at_t = self._sweep_at_t(sweep, self.gradient.step, {})
        return ["#pragma unroll 4", "for (long long t = T - 1; t >= 0; --t) {", *_inside(at_t), "}"]

    def _segment(self, start: str, recompute: Function, sweep: Function) -> list[str]:
        """One segment forward, keeping its history, and back."""
        past = {name: f"{name}_past[k][l]" for name in self.kept.values()}
        kept = {f"kept_{name}": place for name, place in past.items()}
        at_k = [f"const long long t = {start}k;"]
        length = f"T - {start.rstrip(' +')}" if start else "T"
        guard = [f"if (k >= {length}) continue;"] if self.shape.ragged else []
        again = [*guard, *at_k, *self.rows(recompute), *recompute.call(self.places(**kept))]
        back = [*guard, *at_k, *self._sweep_at_t(sweep, self.gradient.step, past)]
        return [
            *(f"Pack {name}_past[SEGMENT];" for name in self.kept.values()),
            "#pragma unroll",
            "for (int k = 0; k < SEGMENT; ++k) {",
            *_inside(again),
            "}",
            "#pragma unroll",
            "for (int k = SEGMENT - 1; k >= 0; --k) {",
            *_inside(back),
            "}",
        ]

    def _checkpointed(self, advance: Function, recompute: Function, sweep: Function) -> list[str]:
        """Forward once, noting the states at every segment's start; back segment by segment."""
        moving = [self.vs[i] for i in self.gradient.history if not self.program.constant(i)]
        row = "segment" if len(moving) == 1 else f"(segment * {len(moving)} + {{}})"
        slots = [(v, f"checkpoints + {row.format(i)} * N + n") for i, v in enumerate(moving)]
        forth = [
            *(f"save({slot}, {v});" for v, slot in slots),
            "#pragma unroll 4",
            "for (long long t = segment * SEGMENT; t < (segment + 1) * SEGMENT; ++t) {",
            *_inside([*self.rows(advance), *advance.call(self.places())]),
            "}",
        ]
        back = [
            "if (segment < segments - 1) {",
            *_inside([f"{v} = load({slot});" for v, slot in slots]),
            "}",
            *self._segment("segment * SEGMENT + ", recompute, sweep),
        ]
        return [
            "const long long segments = (T + SEGMENT - 1) / SEGMENT;",
            "// Forward once, noting the states at the start of every segment but the last.",
            "for (long long segment = 0; segment < segments - 1; ++segment) {",
            *_inside(forth),
            "}",
            "// From the last segment to the first: forward again, keeping its history, and back.",
            "for (long long segment = segments - 1; segment >= 0; --segment) {",
            *_inside(back),
            "}",
        ]

    def _back_to_begin(self, sweep: Function) -> list[str]:
        assert self.gradient.begin is not None
        lines = ["const long long t = 0;"]
        lines += [self.first(i) for i, v in enumerate(self.vs) if v in sweep.arguments]
        lines += self._sweep_at_t(sweep, self.gradient.begin, {})
        return ["{", *_inside(lines), "}"]

    def _around(self) -> tuple[list[str], list[str]]:
        """What a thread does before and after its neurons: sums over all of them."""
        before = []
        if self.kept:
            before += [f"constexpr int SEGMENT = {self.shape.segment};  // steps in registers"]
        before += [f"real g_{p} = 0;" for p, kind in self.learned if kind == "scalar"]
        before += [
            f"Sums g_{p} = {{{p}_sums + thread, threads}};"
            for p, kind in self.learned
            if kind == "gated"
        ]
        return before, [
            f"{p}_sums[thread] = g_{p};" for p, kind in self.learned if kind == "scalar"
        ]

    def _results(self, found: Gradients) -> list[Result]:
        results = [
            Result(f"g_{x}", node)
            for x, node in zip(self.xs, found.x, strict=True)
            if node is not None
        ]
        results += [Result(f"g_{v}", node) for v, node in zip(self.vs, found.v, strict=True)]
        for name, pairs in found.p.items():
            for row, node in pairs:
                results.append(Result(f"g_{self.ps[name]}", node, add=True, table=name, row=row))
        return results


def _numbered(letter: str, count: int) -> tuple[str, ...]:
    return (letter,) if count == 1 else tuple(f"{letter}{i}" for i in range(count))


def _inside(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" if line else line for line in lines]
