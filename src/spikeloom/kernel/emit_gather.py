"""LLVM IR of the sums of the rows of a table that bits name.

With the transposed weight as the table this is the product of a linear layer; with the gradient of
the output as the table, and the bits transposed, it is the gradient of the layer's weight.

Sums are taken over runs of ``chunk`` words, in each of which bits are added in ascending order, the
positive ones first; the sums of the runs are added in order. Nothing depends on the threads.
"""

from __future__ import annotations

from spikeloom.kernel.emit_bits import BITS
from spikeloom.kernel.llvm_text import LANES, Function, Lanes

__all__ = ["gather"]

# Vectors of columns whose sums are kept in registers.
BLOCK = 8
# Entries of the list of set bits that are written before anybody looks whether there are so many.
AT_ONCE = 4

GATHER = ["first", "last", "words", "chunk", "bits", "negative", "table", "table.stride"]
GATHER += ["scale", "start", "y", "columns", "list"]


def gather(dtype: str, *, signed: bool, scaled: bool) -> str:
    """The module whose function ``gather`` adds rows of a table.

    Row i of ``y`` becomes ``start + scale[i] * sum(table[j] for the bits j of row i)``; ``list`` is
    working memory for ``64 * chunk`` entries and a few more.

    Args:
        dtype: ``float32`` or ``float64``, of everything but the bits.
        signed: Whether rows are subtracted whose bit is in ``negative`` too.
        scaled: Whether there is a ``scale``; else it is one.
    """
    f = Function("gather", GATHER, dtype)
    with (
        f.loop("0", f.word("words"), f.word("chunk")) as word,
        f.loop(f.word("first"), f.word("last")) as row,
    ):
        _Gathered(f, word, row, signed, scaled).emit()
    return f.module()


class _Gathered:
    """One row of the result, and a run of its words."""

    def __init__(self, f: Function, word: str, row: str, signed: bool, scaled: bool) -> None:
        self.f, self.word, self.row = f, word, row
        self.signed, self.scaled = signed, scaled
        self.lanes = Lanes(f, LANES[f.real])
        columns = f.word("columns")
        self.y = f.at(f.word("y", "ptr"), f.mul(row, columns))
        begins = f.value(f"icmp eq i64 {word}, 0")
        start = f.word("start", "ptr")
        self.before = f.value(f"select i1 {begins}, ptr {start}, ptr {self.y}")
        self.list = f.word("list", "ptr")
        self.stride = f.mul(f.word("table.stride"), str(self.lanes.bytes))

    def emit(self) -> None:
        f, width = self.f, self.lanes.width
        plus, end = self._listed()
        columns = f.word("columns")
        wide = f.mul(f.quotient(columns, str(BLOCK * width)), str(BLOCK * width))
        with f.loop("0", wide, str(BLOCK * width)) as column:
            self._block(column, BLOCK, plus, end)
        full = f.mul(f.quotient(columns, str(width)), str(width))
        with f.loop(wide, full, str(width)) as column:
            self._block(column, 1, plus, end)
        with f.loop(full, columns, str(width)) as column:
            self._block(column, 1, plus, end, self.lanes.first(f.sub(columns, column)))

    def _listed(self) -> tuple[str, str]:
        """Write the places of the table's rows; returns where the positive and all of them end."""
        f = self.f
        length = f.variable("i64")
        f.do(f"store i64 0, ptr {length}")
        self._list(length, negative=False)
        plus = f.value(f"load i64, ptr {length}")
        if not self.signed:
            return plus, plus
        self._list(length, negative=True)
        return plus, f.value(f"load i64, ptr {length}")

    def _list(self, length: str, *, negative: bool) -> None:
        f, words = self.f, f"{self.f.word('words')}"
        stop = f.least(f.add(self.word, f.word("chunk")), words)
        row = f.mul(self.row, words)
        left, place = f.variable("i64"), f.variable("i64")
        with f.loop(self.word, stop) as word:
            bits = f.load("i64", f.word("bits", "ptr"), f.add(row, word))
            if self.signed:
                minus = f.load("i64", f.word("negative", "ptr"), f.add(row, word))
                minus = minus if negative else f.value(f"xor i64 {minus}, -1")
                bits = f.value(f"and i64 {bits}, {minus}")
            f.do(f"store i64 {bits}, ptr {left}")
            now = f.value(f"load i64, ptr {length}")
            f.do(f"store i64 {now}, ptr {place}")
            base = f.mul(word, str(BITS))

            def any_left(left: str = left) -> str:
                return f.value(f"icmp ne i64 {f.value(f'load i64, ptr {left}')}, 0")

            with f.repeat(any_left):
                self._write(left, place, base)
            ones = f.call("i64", "llvm.ctpop.i64", ("i64", bits))
            f.do(f"store i64 {f.add(now, ones)}, ptr {length}")

    def _write(self, left: str, place: str, base: str) -> None:
        """Some bits of a word; beyond its last one something is written that is not read."""
        f = self.f
        bits, at = f.value(f"load i64, ptr {left}"), f.value(f"load i64, ptr {place}")
        for i in range(AT_ONCE):
            bit = f.call("i64", "llvm.cttz.i64", ("i64", bits), ("i1", "false"))
            offset = f.mul(f.add(base, bit), self.stride)
            f.do(f"store i64 {offset}, ptr {f.at(self.list, f.add(at, str(i)), 'i64')}")
            bits = f.value(f"and i64 {bits}, {f.sub(bits, '1')}")
        f.do(f"store i64 {bits}, ptr {left}")
        f.do(f"store i64 {f.add(at, str(AT_ONCE))}, ptr {place}")

    def _block(self, column: str, count: int, plus: str, end: str, some: str | None = None) -> None:
        """The sums of ``count`` vectors of columns, of which the last may be cut off."""
        f, lanes = self.f, self.lanes
        table = f.at(f.word("table", "ptr"), column)
        sums = [f.variable(lanes.type) for _ in range(count)]
        for total in sums:
            f.do(f"store {lanes.type} zeroinitializer, ptr {total}")
        parts = [("add", "0", plus)] + ([("sub", plus, end)] if self.signed else [])
        for operation, first, last in parts:
            with f.loop(first, last) as entry:
                offset = f.load("i64", self.list, entry)
                row = f.value(f"getelementptr i8, ptr {table}, i64 {offset}")
                for number, total in enumerate(sums):
                    value = self._load(row, str(number * lanes.width), some)
                    now = f.value(f"load {lanes.type}, ptr {total}")
                    now = lanes.real_op(operation, now, value)
                    f.do(f"store {lanes.type} {now}, ptr {total}")
        for number, total in enumerate(sums):
            at = f.add(column, str(number * lanes.width))
            value = f.value(f"load {lanes.type}, ptr {total}")
            if self.scaled:
                scale = f.at(f.word("scale", "ptr"), self.row)
                factor = lanes.splat(f.value(f"load {f.real}, ptr {scale}"))
                value = lanes.real_op("mul", value, factor)
            value = lanes.real_op("add", self._load(self.before, at, some), value)
            if some is None:
                lanes.store(value, self.y, at)
            else:
                lanes.store_some(value, self.y, at, some)

    def _load(self, base: str, index: str, some: str | None) -> str:
        if some is None:
            return self.lanes.load(base, index)
        return self.lanes.load_some(base, index, some)
