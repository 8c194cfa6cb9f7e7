"""Graph -> CUDA C: the scan on a GPU.

A thread carries a few neighbouring neurons through time, their states in registers, and moves
them with accesses of up to 16 bytes. A step of one neuron is a function of its own; the kernel
around it is one template for all neurons. The arithmetic is exactly the graph's: compiled without
contraction and fast-math, the forward pass rounds as the eager step does.

The backward pass goes through time in segments whose history fits in registers: from the last
segment to the first, a segment is recomputed and swept back over. It starts from the states at the
start of every segment, which the forward pass has noted. Where it has not, the backward pass goes
through time once more to note them itself. Parameters that neurons share are summed by each thread
for itself, or by a warp where they are tables of few rows; nothing is atomic, and results are the
same in every run.

Arguments, in order. Forward: T, N; per input its rows and the stride between them; per state its
first value, the stride of that (0 or 1) and where the last goes; per output its rows. Backward: T,
N; per input its rows, their stride and, if it has one, its gradient's rows; per state its first
value and stride, the gradient that arrives at the last (null is zero) and its stride, and where the
first one's gradient goes, or null; per output the rows of its gradient and their stride. Both then
take the parameters: a number by value, a tensor's address, and a gated table's number of rows after
it. Forward ends with the place for its notes, if it makes any; backward with whether states are
noted, the place for them, and per learned parameter its sums.
"""

from __future__ import annotations

from collections.abc import Sequence

from spikeloom.kernel.adjoint import Adjoint, Gradients, learned
from spikeloom.kernel.cuda_scan import Function, Result, Scan, Title, inside, noted
from spikeloom.kernel.cuda_shape import WARPS, Shape, history
from spikeloom.kernel.trace import Program


def forward(program: Program, shape: Shape, title: Title | None = None) -> str:
    """The module whose kernel ``forward`` runs a neuron through time."""
    return Forward(program, shape, title or Title()).emit()


def backward(program: Program, gradient: Adjoint, shape: Shape, title: Title | None = None) -> str:
    """The module whose kernel ``backward`` runs the reverse sweep."""
    return Backward(program, shape, title or Title(), gradient).emit()


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
        body = [
            *self.start(every, begin),
            *self._through_time(at_t),
            *(f"save({v}_last + n, {v});" for v in self.vs),
        ]
        scratch = ["real* __restrict__ notes"] if self.shape.noting else []
        kernel = self.kernel("forward", self._arguments(), body, scratch=scratch)
        return self.module("forward through time", [begin, step], kernel)

    def _through_time(self, at_t: list[str]) -> list[str]:
        if not self.shape.noting:
            return ["#pragma unroll 4", "for (long long t = 0; t < T; ++t) {", *inside(at_t), "}"]
        every = self.shape.noting
        noting = [
            *(f"save({self.slot('notes', i)}, {self.vs[i]});" for i in noted(self.program)),
            f"const long long start = segment * {every};",
            f"const long long end = T - start < {every} ? T : start + {every};",
            "#pragma unroll 4",
            "for (long long t = start; t < end; ++t) {",
            *inside(at_t),
            "}",
        ]
        return [
            "// The states at the start of every segment are noted for the sweep.",
            f"for (long long segment = 0; segment * {every} < T; ++segment) {{",
            *inside(noting),
            "}",
        ]

    def _arguments(self) -> list[str]:
        found = []
        for x in self.xs:
            found += [f"const stored* __restrict__ {x}_rows", f"long long {x}_stride"]
        for v in self.vs:
            found += [f"const real* __restrict__ {v}_first", f"long long {v}_stride"]
            found += [f"real* __restrict__ {v}_last"]
        return found + [f"stored* __restrict__ {y}_rows" for y in self.ys]


# Where a learned parameter's gradient goes: a share a thread or warp, except for per-neuron ones.
_SUMS = {
    "scalar": ("double", "{}_sums"),
    "step": ("real", "{}_sums"),
    "gated": ("real", "{}_sums"),
    "neuron": ("real", "g_{}_data"),
}


class Backward(Scan):
    """The backward kernel."""

    def __init__(self, program: Program, shape: Shape, title: Title, gradient: Adjoint) -> None:
        super().__init__(program, shape, title)
        self.gradient = gradient
        self.learned = [(self.ps[name], kind) for name, kind in learned(program, gradient)]
        # What is kept of the past at each step: a charged potential, say, or the states.
        leaves = self.spelled(gradient.nodes)
        kept = history(program, gradient)
        self.kept = {n: leaves[n] if n in leaves else self._claim("h") for n in kept}

        self.scalars, self.own = (
            [p for p, kind in self.learned if kind == wish] for wish in ("scalar", "neuron")
        )

    def emit(self) -> str:
        """The module's text."""
        gradient = self.gradient
        begin = self.beginning(gradient.history) if gradient.history else None
        sweep = self._sweep("sweep", "One step back in time.", gradient.step, self.kept)
        functions, back = self._through_time(sweep)
        if gradient.begin is not None:
            first = self._sweep("sweep_begin", "Back through the beginning.", gradient.begin, {})
            functions.append(first)
            back += self._back_to_begin(first, gradient.begin)
        body = [
            *self._active(),
            *(f"Pack g_{v} = initial(g_{v}_last, g_{v}_stride, n);" for v in self.vs),
            *(f"Pack g_{p} = {{}};" for p in self.own),
            *(f"real g_{p} = 0;" for p in self.scalars),
            *self.start(gradient.history, begin),
            *back,
            *(f"if (g_{v}_first) save(g_{v}_first + n, g_{v});" for v in self.vs),
            *(f"save(g_{p}_data + n, g_{p});" for p in self.own),
            *(f"{p}_total += g_{p};" for p in self.scalars),
        ]
        before, after = self._around()
        kernel = self.kernel(
            "backward", self._arguments(), body, before, after, self._working_memory()
        )
        what = "gradients, backward through time"
        return self.module(what, [begin, *functions], kernel)

    # --- Functions of one neuron ---

    def _sweep(self, name: str, comment: str, found: Gradients, given: dict[int, str]) -> Function:
        """The function that turns gradients after a step into those before it."""
        xs, vs = zip(self.xs, found.x, strict=True), zip(self.vs, found.v, strict=True)
        results = [Result(f"g_{x}", node) for x, node in xs if node is not None]
        results += [Result(f"g_{v}", node) for v, node in vs]
        for parameter, pairs in found.p.items():
            g = f"g_{self.ps[parameter]}"
            results += [Result(g, n, add=True, table=parameter, row=row) for row, n in pairs]
        return self.function(name, comment, self.gradient.nodes, results, given)

    def _advance(self, name: str, comment: str, results: Sequence[Result] = ()) -> Function:
        """The function that takes the states of the history one step on."""
        nodes = self.gradient.nodes
        named = {n: name for n, name in self.kept.items() if nodes[n][0] != "v"}
        every = [*results, *self.following(self.gradient.history)]
        return self.function(name, comment, nodes, every, named=named)

    # --- Pieces of the kernel ---

    def _through_time(self, sweep: Function) -> tuple[list[Function], list[str]]:
        """The functions of a step, and the lines that go back through all of them."""
        if not self.kept:
            return [sweep], self._withouthistory(sweep)
        recompute = self._advance(
            "recompute",
            "One step again: what the sweep starts from, and the states after it.",
            [Result(f"kept_{name}", node) for node, name in self.kept.items()],
        )
        if not self.shape.checkpointed:
            return [recompute, sweep], self._segment("", recompute, sweep)
        advance = self._advance("advance", "The states after one step.")
        return [advance, recompute, sweep], self._checkpointed(advance, recompute, sweep)

    def _arguments(self) -> list[str]:
        found = []
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
        return found

    def _working_memory(self) -> list[str]:
        found = ["long long noted", "real* __restrict__ checkpoints"]
        for p, kind in self.learned:
            type_, name = _SUMS[kind]
            found.append(f"{type_}* __restrict__ {name.format(p)}")
        return found

    def _sweep_at_t(
        self, sweep: Function, found: Gradients, place: dict[str, str], rows: Sequence[str]
    ) -> list[str]:
        """One call of a sweep, with what it reads and where its gradients go."""
        g_xs = [x for x, node in zip(self.xs, found.x, strict=True) if node is not None]
        steps = [self.ps[name] for name in found.p if dict(self.program.params)[name] == "step"]
        closed = [name for name, *_ in self.shape.tables if name in found.p]
        place = {f"g_{name}": f"g_{name}[l]" for name in (*self.xs, *self.vs, *self.ys)} | place
        place |= {f"g_{v}_next": f"g_{v}[l]" for v in self.vs}
        place |= {
            f"g_{p}": f"g_{p}[l]" if kind == "neuron" else f"g_{p}" for p, kind in self.learned
        }
        return [
            *rows,
            *(f"Pack g_{x};" for x in g_xs),
            *(f"real g_{p} = 0;" for p in steps),
            *sweep.call(self.places(**place)),
            *(f"save(g_{x}_rows + t * N + n, g_{x});" for x in g_xs),
            *(f"{p}_total.add(0, t, g_{p});" for p in steps),
            *(f"{self._sum_of(name)}.close(t, active);" for name in closed),
        ]

    def _withouthistory(self, sweep: Function) -> list[str]:
        """Back through all steps, where no past value matters."""
        at_t = self._sweep_at_t(sweep, self.gradient.step, {}, self.rows(sweep))
        return ["#pragma unroll 4", "for (long long t = T - 1; t >= 0; --t) {", *inside(at_t), "}"]

    def _segment(self, start: str, recompute: Function, sweep: Function) -> list[str]:
        """One segment forward, keeping its history, and back.

        On the way back a step is read while the one after it is computed: where there are branches
        in between, as divisions have them, the compiler moves no load across. Sums of tables leave
        no registers for that.
        """
        kept = {f"kept_{name}": f"{name}_past[k][l]" for name in self.kept.values()}
        past = {name: f"anew({name}_past[k][l], zero)" for name in self.kept.values()}
        at_k, end = [f"const long long t = {start}k;"], "end"
        if self.shape.ragged:
            at_k, end = [*at_k, "if (t > last) continue;"], "(T < end ? T : end)"
        again = [*at_k, *self.rows(recompute), *recompute.call(self.places(**kept))]
        ahead = [] if self.shape.tables else self.sequences(sweep)
        rows = [f"const Pack {name} = {name}_ahead;" for name in ahead] or self.rows(sweep)
        rows += [f"if (k) {name}_ahead = {self.row(name, '(t - 1)')};" for name in ahead]
        bounds = [f"const long long end = {start}SEGMENT;", f"const long long last = {end} - 1;"]
        back = [*at_k, *self._sweep_at_t(sweep, self.gradient.step, past, rows)]
        return [
            *(f"Pack {name}_past[SEGMENT];" for name in self.kept.values()),
            *(bounds if ahead or self.shape.ragged else []),
            "#pragma unroll",
            "for (int k = 0; k < SEGMENT; ++k) {",
            *inside(again),
            "}",
            *(f"Pack {name}_ahead = {self.row(name, 'last')};" for name in ahead),
            "#pragma unroll",
            "for (int k = SEGMENT - 1; k >= 0; --k) {",
            *inside(back),
            "}",
        ]

    def _checkpointed(self, advance: Function, recompute: Function, sweep: Function) -> list[str]:
        """Forward once, noting the states at every segment's start; back segment by segment."""
        slots = [
            (self.vs[i], self.slot("checkpoints", i))
            for i in noted(self.program)
            if i in self.gradient.history
        ]
        forth = [
            *(f"save({slot}, {v});" for v, slot in slots),
            "#pragma unroll 4",
            "for (long long t = segment * SEGMENT; t < (segment + 1) * SEGMENT; ++t) {",
            *inside([*self.rows(advance), *advance.call(self.places())]),
            "}",
        ]
        back = [
            "if (noted || segment < segments - 1) {",
            *inside([f"{v} = load({slot});" for v, slot in slots]),
            "}",
            *self._segment("segment * SEGMENT + ", recompute, sweep),
        ]
        return [
            "const long long segments = (T + SEGMENT - 1) / SEGMENT;",
            "// Forward once, noting the states at the start of every segment but the last.",
            "for (long long segment = 0; !noted && segment < segments - 1; ++segment) {",
            *inside(forth),
            "}",
            "// From the last segment to the first: forward again, keeping its history, and back.",
            "for (long long segment = segments - 1; segment >= 0; --segment) {",
            *inside(back),
            "}",
        ]

    def _back_to_begin(self, sweep: Function, found: Gradients) -> list[str]:
        """Back through the beginning, from the states it had."""
        firsts = [self.first(i) for i, v in enumerate(self.vs) if v in sweep.arguments]
        lines = ["const long long t = 0;", *firsts]
        lines += self._sweep_at_t(sweep, found, {}, self.rows(sweep))
        return ["{", *inside(lines), "}"]

    def _around(self) -> tuple[list[str], list[str]]:
        """What a thread does before and after its neurons: sums over all of them."""
        before = []
        if self.kept:
            before += [f"constexpr int SEGMENT = {self.shape.segment};  // steps in registers"]
            before += ["const unsigned int zero = N >> 62;"]
        before += [f"double {p}_total = 0;" for p in self.scalars]
        after = [f"{p}_sums[thread] = {p}_total;" for p in self.scalars]
        cells = {name: cells for name, _, cells in self.shape.tables}
        for name, kind in learned(self.program, self.gradient):
            if kind not in ("step", "gated"):
                continue
            p, total = self.ps[name], self._sum_of(name)
            if name in cells:
                before.append(f"__shared__ real {p}_cells[{WARPS} * {cells[name]}];")
                mine = f"{p}_cells + threadIdx.x / 32 * {cells[name]}"
                before.append(f"{self.sums(name)} {total} = {{{mine}, T}};")
                after.append(f"{total}.leave({p}_sums + thread / 32, threads / 32);")
            else:
                rows = f"{p}_rows" if kind == "gated" else "1"
                before.append(f"Sums {total} = {{{p}_sums + thread, threads, {rows}, T}};")
            before.append(f"{total}.clear();")
        return before, after

    def _sum_of(self, name: str) -> str:
        """What sums the gradient of a parameter that changes with time."""
        p = self.ps[name]
        return f"{p}_total" if dict(self.program.params)[name] == "step" else f"g_{p}"

    def _active(self) -> list[str]:
        """How many threads of a warp have a neuron, where that matters."""
        if not self.shape.tables:
            return []
        return [
            "const long long left = (N - n + VEC - 1) / VEC + threadIdx.x % 32;",
            "const int active = left < 32 ? left : 32;",
        ]
