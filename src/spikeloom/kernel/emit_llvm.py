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

from collections.abc import Sequence

from spikeloom.kernel.adjoint import Adjoint, Gradients, learned
from spikeloom.kernel.graph import resolve
from spikeloom.kernel.llvm_scan import Assume, Find, Scan, Step
from spikeloom.kernel.llvm_text import Lanes
from spikeloom.kernel.trace import Program

# Parameter kinds whose gradient is one sum over all neurons (at each step).
SHARED = ("scalar", "step")


def forward_words(program: Program, assume: Assume) -> list[str]:
    """The forward kernel's argument words."""
    words = ["steps", "neurons", "first", "last", "tile", "scratch", "nan"]
    for i in range(program.inputs):
        words += [f"x{i}", f"x{i}.stride"]
    words += [f"y{i}" for i in range(len(program.outputs))]
    words += [f"w{i}" for i in range(program.states)]
    for i in range(program.states):
        words += [f"v{i}", f"v{i}.stride"]
    words += ["index"] if assume.indexed else []
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
    """The tensors' addresses, then the numbers."""
    words = []
    for name, kind in program.tensors:
        words += [f"p.{name}", f"p.{name}.rows"] if kind == "gated" else [f"p.{name}"]
    return words + [f"p.{name}" for name, kind in program.params if kind == "number"]


def forward(program: Program, dtype: str, assume: Assume | None = None) -> str:
    """The module whose function ``forward`` runs the neuron through time.

    Args:
        program: The traced neuron.
        dtype: What the inputs and outputs are stored as, such as ``bfloat16``.
        assume: What the kernel may take for granted; by default nothing.
    """
    assume = assume or Assume()
    return Forward(program, "forward", forward_words(program, assume), dtype, assume).emit()


def backward(program: Program, gradient: Adjoint, dtype: str, assume: Assume | None = None) -> str:
    """The module whose function ``backward`` runs the reverse sweep; arguments as above."""
    words = backward_words(program, gradient)
    return Backward(program, "backward", words, dtype, assume or Assume(), gradient).emit()


class Forward(Scan):
    """The forward kernel."""

    def emit(self) -> str:
        """The module's text."""
        f, which = self.f, range(self.program.states)
        self.rows_ahead = "next" if self.stream else ""
        states = [self.scratch(str(i)) for i in which]
        with self.tiles() as (base, count):
            self.begin(base, count, which, states)
            with f.loop("0", f.word("steps")) as t:
                self.advance(base, count, t, which, states, self._output, self.program.outputs)
            self.each(count, lambda lanes, lane: self._finish(lanes, lane, base, states))
        return self.module()

    def _output(self, lanes: Lanes, lane: str, step: Step, find: Find) -> None:
        row = self.f.add(self.f.mul(step.t, self.f.word("neurons")), step.neuron)
        for i, number in enumerate(self.program.outputs):
            target = self.f.word(f"y{i}", "ptr")
            lanes.store_stored(find(number), target, row, stream=self.stream)

    def _finish(self, lanes: Lanes, lane: str, base: str, states: list[str]) -> None:
        """Write the last states, and note whether any of them is NaN."""
        f = self.f
        for i, buffer in enumerate(states):
            value = lanes.load(buffer, lane)
            lanes.store(value, f.word(f"w{i}", "ptr"), f.add(base, lane))
            found = lanes.any(lanes.compare("uno", value, value))
            # As good as never, so that no vector has to wait for what the one before has noted.
            with f.loop("0", f.value(f"zext i1 {found} to i64")):
                f.do(f"store i64 1, ptr {f.word('nan', 'ptr')}")


class Backward(Scan):
    """The backward kernel.

    Scratch holds, in buffers of one tile: the gradients of the states; the states on their way
    through a segment; the history of the segment; the states at the start of every segment.
    """

    def __init__(
        self,
        program: Program,
        name: str,
        words: Sequence[str],
        dtype: str,
        assume: Assume,
        gradient: Adjoint,
    ) -> None:
        super().__init__(program, name, words, dtype, assume)
        self.gradient = gradient
        self.sums = [name for name, kind in learned(program, gradient) if kind in SHARED]
        self.moving = [self.scratch(str(program.states + k)) for k in range(len(gradient.history))]

    def emit(self) -> str:
        """The module's text."""
        f = self.f
        steps, segment = f.word("steps"), f.word("segment")
        segments = f.quotient(f.add(steps, f.sub(segment, "1")), segment)
        with self.tiles() as (base, count):
            self._arrive(base, count)
            self.begin(base, count, self.gradient.history, self.moving)
            with f.loop("0", f.sub(segments, "1")) as s:
                self._copy(count, self.moving, self._noted(s))
                start = f.mul(s, segment)
                with f.loop(start, f.add(start, segment)) as t:
                    self.advance(base, count, t, self.gradient.history, self.moving)
            last = f.sub(segments, "1")
            with f.countdown("0", segments) as s:
                start = f.mul(s, segment)
                stop = f.least(f.add(start, segment), steps)
                earlier = f.value(f"icmp ne i64 {s}, {last}")
                nothing = f.value(f"select i1 {earlier}, i64 {count}, i64 0")
                self._copy(nothing, self._noted(s), self.moving)
                with f.loop(start, stop) as t:
                    self._recompute(base, count, t, self._past(f.sub(t, start)))
                with f.countdown(start, stop) as t:
                    self._sweep(base, count, t, self.gradient.step, self._past(f.sub(t, start)))
            if self.gradient.begin is not None:
                self._sweep(base, count, "0", self.gradient.begin, None)
            self._leave(base, count)
        return self.module()

    def _past(self, index: str) -> list[str]:
        """The history at this step of a segment."""
        f, kept = self.f, len(self.gradient.kept)
        first = f.add(f.mul(index, str(kept)), str(self.program.states + len(self.moving)))
        return [self.scratch(f.add(first, str(k))) for k in range(kept)]

    def _noted(self, segment: str) -> list[str]:
        """The states at the start of this segment."""
        f, moving = self.f, len(self.moving)
        history = f.mul(f.word("segment"), str(len(self.gradient.kept)))
        first = f.add(
            f.add(history, str(self.program.states + moving)), f.mul(segment, str(moving))
        )
        return [self.scratch(f.add(first, str(k))) for k in range(moving)]

    def _arrive(self, base: str, count: str) -> None:
        """The gradients of the last states."""

        def body(lanes: Lanes, lane: str) -> None:
            for i in range(self.program.states):
                arrived = self.initial(lanes, f"gw{i}", self.f.add(base, lane))
                lanes.store(arrived, self.scratch(str(i)), lane)

        self.each(count, body)

    def _recompute(self, base: str, count: str, t: str, past: list[str]) -> None:
        """One step of a segment again, keeping what the sweep starts from."""
        kept = self.gradient.kept

        def keep(lanes: Lanes, lane: str, step: Step, find: Find) -> None:
            for number, buffer in zip(kept, past, strict=True):
                lanes.store(find(number), buffer, lane)

        self.advance(base, count, t, self.gradient.history, self.moving, keep, kept)

    def _copy(self, count: str, old: list[str], new: list[str]) -> None:
        def body(lanes: Lanes, lane: str) -> None:
            for source, target in zip(old, new, strict=True):
                lanes.store(lanes.load(source, lane), target, lane)

        self.each(count, body)

    def _sweep(
        self, base: str, count: str, t: str, found: Gradients, past: list[str] | None
    ) -> None:
        """One step back in time: gradients of the inputs, the states and the parameters."""
        f, nodes = self.f, self.gradient.nodes
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
            step = Step(self, lanes, t, f.add(base, lane), prefetch="last")
            if past is None:
                for i in range(self.program.states):
                    first = self.initial(lanes, f"v{i}", step.neuron)
                    step.known[self.program.leaf("v", i)] = first
            else:
                for number, buffer in zip(self.gradient.kept, past, strict=True):
                    step.known[resolve(nodes, number)] = lanes.load(buffer, lane)
            for i in range(self.program.states):
                step.known[nodes.index(("gw", i))] = lanes.load(self.scratch(str(i)), lane)
            find = step.evaluate(nodes, found.roots)
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
                target = f.word(f"gx{i}", "ptr")
                lanes.store_stored(find(number), target, row, stream=self.stream)
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

    def _leave(self, base: str, count: str) -> None:
        """The gradients of the initial states, where there is room for them."""
        f = self.f
        for i in range(self.program.states):
            target, buffer = f.word(f"gv{i}", "ptr"), self.scratch(str(i))
            asked = f.value(f"icmp ne ptr {target}, null")
            wanted = f.value(f"select i1 {asked}, i64 {count}, i64 0")

            def body(lanes: Lanes, lane: str, target: str = target, buffer: str = buffer) -> None:
                lanes.store(lanes.load(buffer, lane), target, f.add(base, lane))

            self.each(wanted, body)
