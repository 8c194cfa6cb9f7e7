"""What both directions of an LLVM kernel share: loops over tiles, and a step of some neurons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from spikeloom.kernel import elementary, ladder
from spikeloom.kernel.graph import LEAVES, Node, resolve, schedule
from spikeloom.kernel.llvm_text import LANES, Function, Lanes
from spikeloom.kernel.trace import Program

Find = Callable[[int], str]


@dataclass(frozen=True)
class Assume:
    """What a kernel may take for granted in the calls it serves.

    Attributes:
        powers: Number parameters that are powers of two: dividing by them is multiplying.
        stream: Outputs are larger than the cache and their rows aligned: write past it.
        indexed: The rows of the inputs are not dense; an index tells where each neuron's value is.
        permutes: The CPU permutes the lanes of whole registers, as AVX-512 does.
    """

    powers: frozenset[str] = frozenset()
    stream: bool = False
    indexed: bool = False
    permutes: bool = False


class Step:
    """The graph's values for some neurons at one step.

    Attributes:
        known: Node number -> value, for what the caller has at hand (states, their gradients).
        prefetch: Which row of the sequences comes after this one: ``next``, ``last`` or none.
    """

    def __init__(self, scan: Scan, lanes: Lanes, t: str, neuron: str, prefetch: str = "") -> None:
        self.scan = scan
        self.prefetch = prefetch
        self.lanes = lanes
        self.t = t
        self.neuron = neuron
        self.known: dict[int, str] = {}
        self._reached: dict[tuple[int, str, tuple[float, ...]], str] = {}

    def evaluate(self, nodes: Sequence[Node], roots: Sequence[int]) -> Find:
        """Compute the roots; returns how to find the value of a node."""
        values = dict(self.known)
        if self.scan.permutes and self.lanes.width == ladder.REGISTER:
            nodes = ladder.with_ladders(tuple(nodes))

        def find(number: int) -> str:
            return values[resolve(nodes, number)]

        for number in schedule(nodes, roots, frozenset(self.known)):
            op, *operands = nodes[number]
            if number in values:
                continue
            if op == "const":
                values[number] = self.lanes.number(float(operands[0]))
            elif op == "lookup":
                values[number] = self._lookup(operands[0], find(operands[1]))
            elif op == ladder.LADDER:
                values[number] = self._entry(operands[0], resolve(nodes, operands[1]), find)
            elif op in LEAVES:
                values[number] = self._leaf(op, operands[0])
            elif op == "div" and self._inverts_exactly(nodes, operands[1]):
                inverse = self.lanes.real_op("div", self.lanes.number(1.0), find(operands[1]))
                values[number] = self.lanes.real_op("mul", find(operands[0]), inverse)
            else:
                # Beyond the program's own nodes lie its gradients, where a multiplication and an
                # addition may share one rounding.
                flags = "" if number < len(self.scan.program.nodes) else "contract "
                found = [find(operand) for operand in operands]
                values[number] = operation(self.lanes, op, *found, flags=flags)
        return find

    def _entry(self, column: ladder.Ladder, source: int, find: Find) -> str:
        """The entry of a column; columns of the same edges are searched once."""
        key = source, column.how, column.edges
        if key not in self._reached:
            self._reached[key] = ladder.reached(self.lanes, column, find(source))
        return ladder.entry(self.lanes, column, self._reached[key])

    def _inverts_exactly(self, nodes: Sequence[Node], divisor: int) -> bool:
        op, *name = nodes[resolve(nodes, divisor)]
        return op == "p" and name[0] in self.scan.powers

    def _leaf(self, op: str, name: str | int) -> str:
        if op == "p":
            return self._parameter(str(name))
        f, word = self.scan.f, f"{op}{name}"
        stride = f.word(f"{word}.stride")
        if self.scan.indexed:
            row = f.at(f.word(word, "ptr"), f.mul(self.t, stride))
            return self.lanes.load_indexed(row, f.word("index", "ptr"), self.neuron)
        offset = f.add(f.mul(self.t, stride), self.neuron)
        # Tiles jump from row to row, which the hardware does not foresee.
        if self.prefetch == "next":
            self.lanes.prefetch(f.word(word, "ptr"), f.add(offset, stride))
        elif self.prefetch == "last":
            self.lanes.prefetch(f.word(word, "ptr"), f.sub(offset, stride))
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
        rows = lanes.truncated(lanes.limited(row, 0.0, 2.0**30))
        for number in lanes.per_lane(rows, f"i{8 * lanes.bytes}"):
            wide = f.value(f"sext i32 {number} to i64") if lanes.bytes == 4 else number
            indices.append(f.add(f.mul(f.least(wide, last), f.word("steps")), self.t))
        return indices

    def _lookup(self, name: str, row: str) -> str:
        f, table = self.scan.f, self.scan.f.word(f"p.{name}", "ptr")
        entries = [f.value(f"load {f.real}, ptr {f.at(table, c)}") for c in self.cells(name, row)]
        return self.lanes.gathered(entries)


def operation(lanes: Lanes, op: str, *operands: str, flags: str = "") -> str:
    """One operation of the graph on a vector of neurons."""
    if op in ("add", "sub", "mul", "div"):
        a, b = operands
        return lanes.real_op(op, a, b, flags)
    if op in ("gt", "ge", "eq"):
        return lanes.compare(f"o{op}", *operands)
    if op in ("and", "or"):
        return lanes.f.value(f"{op} {lanes.bool} {operands[0]}, {operands[1]}")
    if op == "not":
        return lanes.f.value(f"xor {lanes.bool} {operands[0]}, {lanes.literal('i1', 'true')}")
    if op == "where":
        return lanes.select(*operands)
    if op == "with_nan":
        value, source = operands
        return lanes.select(lanes.compare("uno", source, source), source, value)
    if op == "neg":
        return lanes.f.value(f"fneg {lanes.type} {operands[0]}")
    if op in ("exp", "log", "erf"):
        return elementary.apply(lanes, op, operands[0])
    intrinsic = {"abs": "fabs", "sqrt": "sqrt", "rint": "roundeven", "floor": "floor"}[op]
    return lanes.intrinsic(intrinsic, *operands)


class Scan:
    """What both directions share: the loops over tiles and neurons, and scratch memory."""

    def __init__(
        self, program: Program, name: str, words: Sequence[str], dtype: str, assume: Assume
    ) -> None:
        self.program = program
        self.stream, self.indexed = assume.stream, assume.indexed
        self.kinds = dict(program.params)
        self.powers, self.permutes = assume.powers, assume.permutes
        self.f = Function(name, words, dtype)
        self.rows_ahead = "next"
        self.wide = Lanes(self.f, LANES[self.f.real])
        self.single = Lanes(self.f, 1)

    def module(self) -> str:
        """The finished text."""
        if self.stream:
            self.f.do("fence seq_cst")
        return "\n".join([*sorted(self.f.declared), self.f.text(), "!0 = !{i32 1}", ""])

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
        firsts = program.begin or [program.leaf("v", i) for i in range(program.states)]
        numbers = [firsts[i] for i in which]

        def body(lanes: Lanes, lane: str) -> None:
            step = Step(self, lanes, "0", f.add(base, lane))
            for i in range(program.states):
                step.known[program.leaf("v", i)] = self.initial(lanes, f"v{i}", step.neuron)
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
        buffers: Sequence[str],
        leave: Callable[[Lanes, str, Step, Find], None] | None = None,
        also: Sequence[int] = (),
    ) -> None:
        """One step for a tile: these states move on in their buffers.

        Args:
            base: The tile's first neuron.
            count: How many it holds.
            t: The step.
            which: The states.
            buffers: Where they are.
            leave: Emits what else is done with the values of a step.
            also: The further nodes that ``leave`` needs.
        """
        program, f = self.program, self.f
        moving = [(i, b) for i, b in zip(which, buffers, strict=True) if not program.constant(i)]

        def body(lanes: Lanes, lane: str) -> None:
            step = Step(self, lanes, t, f.add(base, lane), self.rows_ahead)
            for i, buffer in zip(which, buffers, strict=True):
                step.known[program.leaf("v", i)] = lanes.load(buffer, lane)
            find = step.evaluate(program.nodes, [*also, *(program.next[i] for i, _ in moving)])
            if leave is not None:
                leave(lanes, lane, step, find)
            for i, buffer in moving:
                lanes.store(find(program.next[i]), buffer, lane)

        self.each(count, body)
