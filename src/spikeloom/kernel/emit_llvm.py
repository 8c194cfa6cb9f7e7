"""Graph -> LLVM IR: the scan on a CPU.

Neurons are walked in tiles. A tile keeps its states in scratch memory and goes through time; at
each step a loop over the tile computes many neurons at once with vector instructions, and a second
copy of its body takes the rest one by one. Within a step the arithmetic is exactly the graph's:
no fast-math flag is ever written and nothing is fused, so the forward pass rounds as the eager
step does.

The backward pass reads only the inputs and the initial states. It goes through a tile once to
note the states at the start of every segment of time; then, from the last segment to the first,
it recomputes the segment's states and sweeps back over them.

All arguments arrive in one array of 64-bit words, named by :func:`forward_words` and
:func:`backward_words`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from spikeloom.kernel import elementary
from spikeloom.kernel.adjoint import Adjoint, Gradients
from spikeloom.kernel.llvm_text import LANES, Function, Lanes
from spikeloom.kernel.trace import Node, Program, resolve, schedule

Find = Callable[[int], str]

# Parameter kinds whose gradient is one sum over all neurons (at each step).
SHARED = ("scalar", "step")


def learned(program: Program, gradient: Adjoint) -> list[tuple[str, str]]:
    """The ``(name, kind)`` of the parameters that receive a gradient."""
    found = {*gradient.step.p, *(gradient.begin.p if gradient.begin else ())}
    return [(name, kind) for name, kind in program.params if name in found]


def forward_words(program: Program) -> list[str]:
    """The forward kernel's argument words."""
    words = ["steps", "neurons", "first", "last", "tile", "scratch", "nan"]
    for i in range(program.inputs):
        words += [f"x{i}", f"x{i}.stride"]
    for i in range(program.states):
        words += [f"v{i}", f"v{i}.stride", f"w{i}"]
    words += [f"y{i}" for i in range(len(program.outputs))]
    return words + _parameter_words(program)


def backward_words(program: Program, gradient: Adjoint) -> list[str]:
    """The backward kernel's argument words."""
    words = ["steps", "neurons", "first", "last", "tile", "scratch", "segment"]
    for i in range(program.inputs):
        words += [f"x{i}", f"x{i}.stride", f"gx{i}"]
    for i in range(program.states):
        words += [f"v{i}", f"v{i}.stride", f"gw{i}", f"gw{i}.stride", f"gv{i}"]
    for i in range(len(program.outputs)):
        words += [f"gy{i}", f"gy{i}.stride"]
    words += [f"g.{name}" for name, _ in learned(program, gradient)]
    return words + _parameter_words(program)


def _parameter_words(program: Program) -> list[str]:
    words = []
    for name, kind in program.params:
        words += [f"p.{name}", f"p.{name}.rows"] if kind == "gated" else [f"p.{name}"]
    return words


def forward(program: Program, dtype: str) -> str:
    """The module whose function ``forward`` runs the neuron through time.

    Args:
        program: The traced neuron.
        dtype: What the inputs and outputs are stored as, such as ``bfloat16``.
    """
    return Forward(program, "forward", forward_words(program), dtype).emit()


def backward(program: Program, gradient: Adjoint, dtype: str) -> str:
    """The module whose function ``backward`` runs the reverse sweep."""
    words = backward_words(program, gradient)
    return Backward(program, "backward", words, dtype, gradient).emit()


class Step:
    """The leaves of the graph for some neurons at one step: where each value is found."""

    def __init__(self, scan: Scan, lanes: Lanes, t: str, neuron: str) -> None:
        self.scan = scan
        self.lanes = lanes
        self.t = t
        self.neuron = neuron
        self.known: dict[Node, str] = {}

    def evaluate(self, nodes: Sequence[Node], roots: Sequence[int]) -> Find:
        """Compute the roots; returns how to find the value of a node."""
        values: dict[int, str] = {}

        def find(number: int) -> str:
            return values[resolve(nodes, number)]

        for number in schedule(nodes, roots):
            op, *operands = nodes[number]
            if op == "const":
                values[number] = self.lanes.number(float(operands[0]))
            elif op == "lookup":
                values[number] = self._lookup(operands[0], find(operands[1]))
            elif op in ("x", "v", "p", "gy", "gw"):
                values[number] = self._leaf((op, *operands))
            else:
                values[number] = operation(self.lanes, op, *(find(operand) for operand in operands))
        return find

    def _leaf(self, node: Node) -> str:
        if node not in self.known:
            op, name = node
            self.known[node] = self._parameter(name) if op == "p" else self._sequence(f"{op}{name}")
        return self.known[node]

    def _sequence(self, word: str) -> str:
        f = self.scan.f
        offset = f.add(f.mul(self.t, f.word(f"{word}.stride")), self.neuron)
        return self.lanes.load_stored(f.word(word, "ptr"), offset)

    def _parameter(self, name: str) -> str:
        f, kind = self.scan.f, self.scan.kinds[name]
        if kind == "neuron":
            return self.lanes.load(f.word(f"p.{name}", "ptr"), self.neuron)
        if kind == "number":
            value = f.word(f"p.{name}", "double")
            if f.real == "float":
                value = f.value(f"fptrunc double {value} to float")
        else:
            address = f.word(f"p.{name}", "ptr")
            address = f.at(address, self.t) if kind == "step" else address
            value = f.value(f"load {f.real}, ptr {address}")
        return self.lanes.splat(value)

    def cells(self, name: str, row: str) -> list[str]:
        """For each neuron, the index of its entry in a gated table at this step."""
        f, lanes = self.scan.f, self.lanes
        last, indices = f.sub(f.word(f"p.{name}.rows"), "1"), []
        for number in lanes.per_lane(lanes.truncated(row), f"i{8 * lanes.bytes}"):
            wide = f.value(f"sext i32 {number} to i64") if lanes.bytes == 4 else number
            safe = f.call("i64", "llvm.smax.i64", ("i64", f.least(wide, last)), ("i64", "0"))
            indices.append(f.add(f.mul(safe, f.word("steps")), self.t))
        return indices

    def _lookup(self, name: str, row: str) -> str:
        f, table = self.scan.f, self.scan.f.word(f"p.{name}", "ptr")
        entries = [f.value(f"load {f.real}, ptr {f.at(table, c)}") for c in self.cells(name, row)]
        return self.lanes.gathered(entries)


def operation(lanes: Lanes, op: str, *operands: str) -> str:
    """One operation of the graph on a vector of neurons."""
    if op in ("add", "sub", "mul", "div"):
        return lanes.real_op(op, *operands)
    if op in ("gt", "ge", "eq"):
        return lanes.compare(f"o{op}", *operands)
    if op in ("and", "or"):
        return lanes.f.value(f"{op} {lanes.bool} {operands[0]}, {operands[1]}")
    if op == "not":
        return lanes.f.value(f"xor {lanes.bool} {operands[0]}, {lanes.literal('i1', 'true')}")
    if op == "where":
        return lanes.select(*operands)
    if op == "neg":
        return lanes.f.value(f"fneg {lanes.type} {operands[0]}")
    if op in ("exp", "log", "erf"):
        return elementary.apply(lanes, op, operands[0])
    intrinsic = {"abs": "fabs", "sqrt": "sqrt", "rint": "roundeven", "floor": "floor"}[op]
    return lanes.intrinsic(intrinsic, *operands)


class Scan:
    """What both directions share: the loops over tiles and neurons, and scratch memory."""

    def __init__(self, program: Program, name: str, words: Sequence[str], dtype: str) -> None:
        self.program = program
        self.kinds = dict(program.params)
        self.f = Function(name, words, dtype)
        self.wide = Lanes(self.f, LANES[self.f.real])
        self.single = Lanes(self.f, 1)

    def module(self) -> str:
        """The finished text."""
        return "\n".join([*sorted(self.f.declared), self.f.text()]) + "\n"

    @contextmanager
    def tiles(self) -> Iterator[tuple[str, str]]:
        """The first neuron of each tile, and how many it holds."""
        f = self.f
        last, tile = f.word("last"), f.word("tile")
        with f.loop(f.word("first"), last, tile) as base:
            yield base, f.least(f.sub(last, base), tile)

    def each(self, count: str, body: Callable[[Lanes, str], None]) -> None:
        """A loop over ``count`` neurons: full vectors, then the rest one by one."""
        f = self.f
        full = f.value(f"and i64 {count}, {-self.wide.width}")
        with f.loop("0", full, str(self.wide.width)) as lane:
            body(self.wide, lane)
        with f.loop(full, count) as lane:
            body(self.single, lane)

    def scratch(self, index: str) -> str:
        """The address of the index-th buffer of one tile."""
        return self.f.at(self.f.word("scratch", "ptr"), self.f.mul(index, self.f.word("tile")))

    def initial(self, lanes: Lanes, word: str, neuron: str) -> str:
        """One value a neuron; with stride 0 the same few values serve them all."""
        index = self.f.mul(neuron, self.f.word(f"{word}.stride"))
        return lanes.load(self.f.word(word, "ptr"), index)

    def begin(self, base: str, count: str, which: Sequence[int], buffers: Sequence[str]) -> None:
        """Fill the buffers with these states as they are before the first step."""
        program, f = self.program, self.f

        def body(lanes: Lanes, lane: str) -> None:
            step = Step(self, lanes, "0", f.add(base, lane))
            for i in range(program.states):
                step.known["v", i] = self.initial(lanes, f"v{i}", step.neuron)
            numbers = [program.leaf("v", i) for i in which]
            if program.begin is not None:
                numbers = [program.begin[i] for i in which]
            find = step.evaluate(program.nodes, numbers)
            for number, buffer in zip(numbers, buffers, strict=True):
                lanes.store(find(number), buffer, lane)

        self.each(count, body)

    def advance(
        self,
        base: str,
        count: str,
        t: str,
        which: Sequence[int],
        old: Sequence[str],
        new: Sequence[str],
        outputs: bool = False,
    ) -> None:
        """One step for a tile: these states from the old buffers to the new ones."""
        program, f = self.program, self.f
        roots = [*(program.outputs if outputs else ()), *(program.next[i] for i in which)]

        def body(lanes: Lanes, lane: str) -> None:
            step = Step(self, lanes, t, f.add(base, lane))
            for i, buffer in zip(which, old, strict=True):
                step.known["v", i] = lanes.load(buffer, lane)
            find = step.evaluate(program.nodes, roots)
            if outputs:
                row = f.add(f.mul(t, f.word("neurons")), step.neuron)
                for i, number in enumerate(program.outputs):
                    lanes.store_stored(find(number), f.word(f"y{i}", "ptr"), row)
            for i, buffer in zip(which, new, strict=True):
                lanes.store(find(program.next[i]), buffer, lane)

        self.each(count, body)


class Forward(Scan):
    """The forward kernel."""

    def emit(self) -> str:
        """The module's text."""
        f, which = self.f, range(self.program.states)
        states = [self.scratch(str(i)) for i in which]
        with self.tiles() as (base, count):
            self.begin(base, count, which, states)
            with f.loop("0", f.word("steps")) as t:
                self.advance(base, count, t, which, states, states, outputs=True)
            self.each(count, lambda lanes, lane: self._finish(lanes, lane, base, states))
        return self.module()

    def _finish(self, lanes: Lanes, lane: str, base: str, states: list[str]) -> None:
        """Write the last states, and note whether any of them is NaN."""
        f = self.f
        for i, buffer in enumerate(states):
            value = lanes.load(buffer, lane)
            lanes.store(value, f.word(f"w{i}", "ptr"), f.add(base, lane))
            found = lanes.any(lanes.compare("uno", value, value))
            seen = f.value(f"load i64, ptr {f.word('nan', 'ptr')}")
            both = f.value(f"or i64 {seen}, {f.value(f'zext i1 {found} to i64')}")
            f.do(f"store i64 {both}, ptr {f.word('nan', 'ptr')}")


class Backward(Scan):
    """The backward kernel.

    Scratch holds, in buffers of one tile: the gradients of the states, the history of one
    segment, and the states at the start of every segment.
    """

    def __init__(
        self, program: Program, name: str, words: Sequence[str], dtype: str, gradient: Adjoint
    ) -> None:
        super().__init__(program, name, words, dtype)
        self.gradient = gradient
        self.sums = [name for name, kind in learned(program, gradient) if kind in SHARED]

    def emit(self) -> str:
        """The module's text."""
        f = self.f
        steps, segment = f.word("steps"), f.word("segment")
        segments = f.quotient(f.add(steps, f.sub(segment, "1")), segment)
        with self.tiles() as (base, count):
            self._arrive(base, count)
            self.begin(base, count, self.gradient.history, self._noted("0"))
            with f.loop("0", f.sub(segments, "1")) as s:
                self._note_next(base, count, s)
            with f.countdown("0", segments) as s:
                start = f.mul(s, segment)
                stop = f.least(f.add(start, segment), steps)
                self._recompute(base, count, s, start, stop)
                with f.countdown(start, stop) as t:
                    past = self._past(f.sub(t, start))
                    self._sweep(base, count, t, self.gradient.step, past)
            if self.gradient.begin is not None:
                self._sweep(base, count, "0", self.gradient.begin, None)
            self.each(count, lambda lanes, lane: self._leave(lanes, lane, base))
        return self.module()

    def _buffers(self, index: str) -> list[str]:
        """The buffers of all recomputed states at this place in the history."""
        f, kept = self.f, self.gradient.history
        first = f.add(f.mul(index, str(len(kept))), str(self.program.states))
        return [self.scratch(f.add(first, str(k))) for k in range(len(kept))]

    def _past(self, index: str) -> list[str]:
        return self._buffers(index)

    def _noted(self, segment: str) -> list[str]:
        return self._buffers(self.f.add(self.f.word("segment"), segment))

    def _arrive(self, base: str, count: str) -> None:
        """The gradients of the last states."""

        def body(lanes: Lanes, lane: str) -> None:
            for i in range(self.program.states):
                arrived = self.initial(lanes, f"gw{i}", self.f.add(base, lane))
                lanes.store(arrived, self.scratch(str(i)), lane)

        self.each(count, body)

    def _note_next(self, base: str, count: str, segment: str) -> None:
        """From the states at the start of a segment, those at the start of the next."""
        f, which = self.f, self.gradient.history
        new = self._noted(f.add(segment, "1"))
        self._copy(count, self._noted(segment), new)
        start = f.mul(segment, f.word("segment"))
        with f.loop(start, f.add(start, f.word("segment"))) as t:
            self.advance(base, count, t, which, new, new)

    def _recompute(self, base: str, count: str, segment: str, start: str, stop: str) -> None:
        """The states before each step of a segment."""
        f, which = self.f, self.gradient.history
        self._copy(count, self._noted(segment), self._past("0"))
        with f.loop(start, f.sub(stop, "1")) as t:
            index = f.sub(t, start)
            self.advance(base, count, t, which, self._past(index), self._past(f.add(index, "1")))

    def _copy(self, count: str, old: list[str], new: list[str]) -> None:
        def body(lanes: Lanes, lane: str) -> None:
            for source, target in zip(old, new, strict=True):
                lanes.store(lanes.load(source, lane), target, lane)

        self.each(count, body)

    def _sweep(
        self, base: str, count: str, t: str, found: Gradients, past: list[str] | None
    ) -> None:
        """One step back in time: gradients of the inputs, the states and the parameters."""
        f = self.f
        sums = {
            (name, lanes.width): f.variable(lanes.type)
            for name in self.sums
            for lanes in (self.wide, self.single)
            if name in found.p
        }
        for (_, width), variable in sums.items():
            kind = self.wide.type if width > 1 else self.single.type
            f.do(f"store {kind} zeroinitializer, ptr {variable}")

        def body(lanes: Lanes, lane: str) -> None:
            step = Step(self, lanes, t, f.add(base, lane))
            if past is None:
                for i in range(self.program.states):
                    step.known["v", i] = self.initial(lanes, f"v{i}", step.neuron)
            else:
                for i, buffer in zip(self.gradient.history, past, strict=True):
                    step.known["v", i] = lanes.load(buffer, lane)
            for i in range(self.program.states):
                step.known["gw", i] = lanes.load(self.scratch(str(i)), lane)
            find = step.evaluate(self.gradient.nodes, found.roots)
            self._store_gradients(lanes, lane, step, find, found)
            for name, pairs in found.p.items():
                for row, number in pairs:
                    self._collect(lanes, step, name, find, row, number, sums)

        self.each(count, body)
        for name in self.sums:
            if name in found.p:
                self._add_sum(name, base, t, sums)

    def _store_gradients(
        self, lanes: Lanes, lane: str, step: Step, find: Find, found: Gradients
    ) -> None:
        f = self.f
        for i, number in enumerate(found.x):
            if number is not None:
                row = f.add(f.mul(step.t, f.word("neurons")), step.neuron)
                lanes.store_stored(find(number), f.word(f"gx{i}", "ptr"), row)
        for i, number in enumerate(found.v):
            value = lanes.number(0.0) if number is None else find(number)
            lanes.store(value, self.scratch(str(i)), lane)

    def _collect(
        self,
        lanes: Lanes,
        step: Step,
        name: str,
        find: Find,
        row: int | None,
        number: int,
        sums: dict[tuple[str, int], str],
    ) -> None:
        """Add a parameter's gradient to where its kind keeps the sum."""
        f, value = self.f, find(number)
        if (name, lanes.width) in sums:
            variable = sums[name, lanes.width]
            total = lanes.real_op("add", f.value(f"load {lanes.type}, ptr {variable}"), value)
            f.do(f"store {lanes.type} {total}, ptr {variable}")
        elif row is None:
            base = f.word(f"g.{name}", "ptr")
            total = lanes.real_op("add", lanes.load(base, step.neuron), value)
            lanes.store(total, base, step.neuron)
        else:
            size = f.mul(f.word(f"p.{name}.rows"), f.word("steps"))
            table = f.at(f.word(f"g.{name}", "ptr"), f.mul(self._tile(step.neuron), size))
            entries = lanes.per_lane(value, f.real)
            for cell, entry in zip(step.cells(name, find(row)), entries, strict=True):
                self._add(f.at(table, cell), entry)

    def _tile(self, neuron: str) -> str:
        return self.f.quotient(neuron, self.f.word("tile"))

    def _add(self, address: str, value: str) -> None:
        f = self.f
        total = f.value(f"fadd {f.real} {f.value(f'load {f.real}, ptr {address}')}, {value}")
        f.do(f"store {f.real} {total}, ptr {address}")

    def _add_sum(self, name: str, base: str, t: str, sums: dict[tuple[str, int], str]) -> None:
        """A tile's share of a shared parameter's gradient at step t."""
        f = self.f
        cell = f.add(f.mul(self._tile(base), f.word("steps")), t)
        address = f.at(f.word(f"g.{name}", "ptr"), cell)
        for lanes in (self.wide, self.single):
            total = f.value(f"load {lanes.type}, ptr {sums[name, lanes.width]}")
            for value in lanes.per_lane(total, f.real):
                self._add(address, value)

    def _leave(self, lanes: Lanes, lane: str, base: str) -> None:
        """The gradients of the initial states."""
        for i in range(self.program.states):
            value = lanes.load(self.scratch(str(i)), lane)
            lanes.store(value, self.f.word(f"gv{i}", "ptr"), self.f.add(base, lane))
