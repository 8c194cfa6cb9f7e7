"""LLVM IR of event-driven products: spikes as bits, and sums of the rows that they name.

A row of spikes becomes 64-bit words, one bit an input, as many words that tell which spikes are
negative, and their magnitude. Five functions do everything:

- ``pack`` reads floats once, writes their bits, and sees whether each row has a single magnitude;
- ``unpack`` writes the floats again;
- ``transpose`` turns bits by rows into bits by inputs;
- ``unfold`` collects the bits that each output of a convolution sees;
- ``gather`` adds, for each row of bits, the rows of a table that the set bits name. With the
  transposed weight as the table this is the product of a linear layer; with the gradient of the
  output as the table, and the bits transposed, it is the gradient of its weight.

Sums are taken over runs of ``chunk`` words, in each of which bits are added in ascending order, the
positive ones first; the sums of the runs are added in order. Nothing depends on the threads.
"""

from __future__ import annotations

from collections.abc import Callable

from spikeloom.kernel.llvm_text import LANES, Function, Lanes

__all__ = ["gather", "pack", "transpose", "unfold", "unpack"]

# Bits of a word.
BITS = 64
# Vectors of columns whose sums are kept in registers.
BLOCK = 8
# Entries of the list of set bits that are written before anybody looks whether there are so many.
AT_ONCE = 4

PACK = ["first", "last", "inputs", "words", "x", "x.stride", "bits", "negative", "amplitude"]
PACK += ["found"]
UNPACK = ["first", "last", "inputs", "words", "x", "bits", "negative", "amplitude"]
TRANSPOSE = ["first", "last", "rows", "inputs", "words", "bits", "to.words", "to", "block"]
UNFOLD = ["first", "last", "outputs", "taps", "channels", "pixels", "words", "bits", "places"]
UNFOLD += ["to.words", "to"]
GATHER = ["first", "last", "words", "chunk", "bits", "negative", "table", "table.stride"]
GATHER += ["scale", "start", "y", "columns", "list"]
# What ``pack`` notes in ``found``.
UNEVEN, SIGNED, SCALED, COUNT = range(4)


def _module(f: Function) -> str:
    return "\n".join([*sorted(f.declared), f.text()])


# --- pack ---


def pack(dtype: str) -> str:
    """The module whose function ``pack`` turns rows of floats into bits.

    ``amplitude`` receives the magnitude of a row's spikes, 1 if it has none. The four words of
    ``found`` are added to: whether a row has spikes of several magnitudes, whether one is negative,
    whether a magnitude is not 1, and the number of spikes.

    Args:
        dtype: ``float32`` or ``float64``.
    """
    f = Function("pack", PACK, dtype)
    with f.loop(f.word("first"), f.word("last")) as row:
        _Packed(f, row).emit()
    return _module(f)


class _Packed:
    """One row on its way into bits."""

    def __init__(self, f: Function, row: str) -> None:
        self.f, self.row = f, row
        self.lanes = Lanes(f, LANES[f.real])
        self.size = 8 * self.lanes.bytes
        self.x = f.at(f.word("x", "ptr"), f.mul(row, f.word("x.stride")))
        self.place = f.mul(row, f.word("words"))
        # Magnitudes compare as integers; less one, zeros are the largest of all.
        self.high, self.low = f.variable(self.lanes.int), f.variable(self.lanes.int)
        self.count, self.minus = f.variable("i64"), f.variable("i64")

    def emit(self) -> None:
        f, lanes = self.f, self.lanes
        f.do(f"store {lanes.int} zeroinitializer, ptr {self.high}")
        f.do(f"store {lanes.int} {lanes.integer(-1)}, ptr {self.low}")
        for number in (self.count, self.minus):
            f.do(f"store i64 0, ptr {number}")
        full = f.quotient(f.word("inputs"), str(BITS))
        with f.loop("0", full) as word:
            self._word(word, lambda at: lanes.load(self.x, at))
        with f.loop(full, f.word("words")) as word:
            self._word(word, self._within)
        self._leave()

    def _within(self, at: str) -> str:
        """Values whose end may lie beyond the row; zeros from there on."""
        f, lanes = self.f, self.lanes
        return lanes.load_some(self.x, at, lanes.first(f.sub(f.word("inputs"), at)))

    def _word(self, word: str, load: Callable[[str], str]) -> None:
        f, lanes = self.f, self.lanes
        first = f.mul(word, str(BITS))
        bits, negative = "0", "0"
        for part in range(0, BITS, lanes.width):
            value = lanes.cast("bitcast", load(f.add(first, str(part))), lanes.type, lanes.int)
            magnitude = lanes.int_op("and", value, lanes.integer(2 ** (self.size - 1) - 1))
            self._widen(self.high, "umax", magnitude)
            self._widen(self.low, "umin", lanes.int_op("sub", magnitude, lanes.integer(1)))
            fires = f.value(f"icmp ne {lanes.int} {magnitude}, zeroinitializer")
            below_zero = f.value(f"icmp slt {lanes.int} {value}, zeroinitializer")
            bits = self._shifted_in(bits, fires, part)
            minus = f.value(f"and {lanes.bool} {fires}, {below_zero}")
            negative = self._shifted_in(negative, minus, part)
        for name, value, total in (("bits", bits, self.count), ("negative", negative, self.minus)):
            address = f.at(f.word(name, "ptr"), f.add(self.place, word), "i64")
            f.do(f"store i64 {value}, ptr {address}")
            ones = f.call("i64", "llvm.ctpop.i64", ("i64", value))
            sum_ = f.add(f.value(f"load i64, ptr {total}"), ones)
            f.do(f"store i64 {sum_}, ptr {total}")

    def _widen(self, variable: str, name: str, value: str) -> None:
        f, lanes = self.f, self.lanes
        now = f.value(f"load {lanes.int}, ptr {variable}")
        operation = f"llvm.{name}.v{lanes.width}i{self.size}"
        f.do(
            f"store {lanes.int} "
            f"{f.call(lanes.int, operation, (lanes.int, now), (lanes.int, value))}, ptr {variable}"
        )

    def _shifted_in(self, word: str, conditions: str, part: int) -> str:
        f, lanes = self.f, self.lanes
        short = f.value(f"bitcast {lanes.bool} {conditions} to i{lanes.width}")
        wide = f.value(f"zext i{lanes.width} {short} to i64")
        return f.value(f"or i64 {word}, {f.value(f'shl i64 {wide}, {part}')}")

    def _leave(self) -> None:
        f, kind = self.f, f"i{self.size}"
        high, low = (
            f.call(
                kind,
                f"llvm.vector.reduce.{name}.v{self.lanes.width}{kind}",
                (self.lanes.int, f.value(f"load {self.lanes.int}, ptr {variable}")),
            )
            for variable, name in ((self.high, "umax"), (self.low, "umin"))
        )
        count = f.value(f"load i64, ptr {self.count}")
        one = f.value(f"bitcast {f.real} 1.0 to {kind}")
        silent = f.value(f"icmp eq i64 {count}, 0")
        amplitude = f.value(f"select i1 {silent}, {kind} {one}, {kind} {high}")
        f.do(f"store {kind} {amplitude}, ptr {f.at(f.word('amplitude', 'ptr'), self.row, kind)}")
        least_less = f.value(f"sub {kind} {high}, 1")
        for place, condition in (
            (UNEVEN, f"icmp ne {kind} {least_less}, {low}"),
            (SIGNED, f"icmp ne i64 {f.value(f'load i64, ptr {self.minus}')}, 0"),
            (SCALED, f"icmp ne {kind} {amplitude}, {one}"),
        ):
            self._note(place, f.value(f"zext i1 {f.value(condition)} to i64"))
        self._note(COUNT, count)

    def _note(self, place: int, more: str) -> None:
        f = self.f
        address = f.at(f.word("found", "ptr"), str(place), "i64")
        f.do(f"store i64 {f.add(f.value(f'load i64, ptr {address}'), more)}, ptr {address}")


# --- unpack ---


def unpack(dtype: str, *, signed: bool) -> str:
    """The module whose function ``unpack`` writes the floats that bits stand for.

    Args:
        dtype: ``float32`` or ``float64``.
        signed: Whether spikes are negative whose bit is in ``negative`` too.
    """
    f = Function("unpack", UNPACK, dtype)
    lanes = Lanes(f, LANES[f.real])
    with f.loop(f.word("first"), f.word("last")) as row:
        x = f.at(f.word("x", "ptr"), f.mul(row, f.word("inputs")))
        amplitude = f.value(f"load {f.real}, ptr {f.at(f.word('amplitude', 'ptr'), row)}")
        plus = lanes.splat(amplitude)
        minus = lanes.splat(f.value(f"fneg {f.real} {amplitude}"))

        def write(word: str, *, whole: bool, row: str = row, x: str = x) -> None:
            place = f.add(f.mul(row, f.word("words")), word)
            names = ("bits", "negative") if signed else ("bits",)
            words = [_load(f, f.word(name, "ptr"), place) for name in names]
            for part in range(0, BITS, lanes.width):
                value = lanes.number(0.0)
                for bits, amount in zip(words, (plus, minus), strict=False):
                    value = lanes.select(_part(lanes, bits, part), amount, value)
                at = f.add(f.mul(word, str(BITS)), str(part))
                if whole:
                    lanes.store(value, x, at)
                else:
                    some = lanes.first(f.sub(f.word("inputs"), at))
                    lanes.store_some(value, x, at, some)

        full = f.quotient(f.word("inputs"), str(BITS))
        with f.loop("0", full) as word:
            write(word, whole=True)
        with f.loop(full, f.word("words")) as word:
            write(word, whole=False)
    return _module(f)


def _part(lanes: Lanes, word: str, part: int) -> str:
    """Some bits of a word as conditions."""
    f = lanes.f
    short = f.value(f"trunc i64 {f.value(f'lshr i64 {word}, {part}')} to i{lanes.width}")
    return f.value(f"bitcast i{lanes.width} {short} to {lanes.bool}")


# --- transpose ---


def transpose() -> str:
    """The module whose function ``transpose`` turns bits by rows into bits by inputs.

    It does so for several samples one after another. ``first`` and ``last`` count words of a row,
    those of all samples: with each go blocks of 64 rows and 64 inputs.
    """
    f = Function("transpose", TRANSPOSE, "float32")
    block, rows, words = f.word("block", "ptr"), f.word("rows"), f.word("words")
    down_words = f.word("to.words")
    with f.loop(f.word("first"), f.word("last")) as number, f.loop("0", down_words) as down:
        sample = f.quotient(number, words)
        across = f.sub(number, f.mul(sample, words))
        source = f.mul(sample, f.mul(rows, words))
        target = f.mul(sample, f.mul(f.word("inputs"), down_words))
        top, left = f.mul(down, str(BITS)), f.mul(across, str(BITS))
        with f.loop("0", str(BITS)) as i:
            # Rows beyond the last one are read as the last one, and made zero.
            row = f.add(top, i)
            near = f.add(source, f.mul(f.least(row, f.sub(rows, "1")), words))
            word = _load(f, f.word("bits", "ptr"), f.add(near, across))
            inside = f.value(f"icmp slt i64 {row}, {rows}")
            f.do(
                f"store i64 {f.value(f'select i1 {inside}, i64 {word}, i64 0')}, "
                f"ptr {f.at(block, i, 'i64')}"
            )
        distance, mask = BITS // 2, 2 ** (BITS // 2) - 1
        while distance:
            _exchange(f, block, distance, mask)
            distance //= 2
            mask ^= mask << distance
        count = f.least(str(BITS), f.sub(f.word("inputs"), left))
        with f.loop("0", count) as i:
            place = f.add(f.mul(f.add(left, i), down_words), down)
            address = f.at(f.word("to", "ptr"), f.add(target, place), "i64")
            f.do(f"store i64 {_load(f, block, i)}, ptr {address}")
    return _module(f)


def _load(f: Function, base: str, index: str) -> str:
    return f.value(f"load i64, ptr {f.at(base, index, 'i64')}")


def _exchange(f: Function, block: str, distance: int, mask: int) -> None:
    """Exchange the upper right and the lower left part of every square of twice this size."""
    mask &= 2**BITS - 1
    with f.loop("0", str(BITS), str(2 * distance)) as square, f.loop("0", str(distance)) as i:
        upper, lower = f.add(square, i), f.add(square, f.add(i, str(distance)))
        a, b = _load(f, block, upper), _load(f, block, lower)
        # Bit j of a word is column j: the right part of the upper row is in its high bits.
        moved = f.value(f"xor i64 {f.value(f'lshr i64 {a}, {distance}')}, {b}")
        moved = f.value(f"and i64 {moved}, {mask}")
        for value, place, change in (
            (b, lower, moved),
            (a, upper, f.value(f"shl i64 {moved}, {distance}")),
        ):
            changed = f.value(f"xor i64 {value}, {change}")
            f.do(f"store i64 {changed}, ptr {f.at(block, place, 'i64')}")


# --- unfold ---


def unfold() -> str:
    """The module whose function ``unfold`` collects what each output of a convolution sees.

    A row of the result holds, tap by tap, the bits of the channels of the pixel that ``places``
    names, and zeros for a pixel outside, which is called -1.
    """
    f = Function("unfold", UNFOLD, "float32")
    taps, words, to_words = f.word("taps"), f.word("words"), f.word("to.words")
    with f.loop(f.word("first"), f.word("last")) as row:
        sample = f.quotient(row, f.word("outputs"))
        place = f.mul(f.sub(row, f.mul(sample, f.word("outputs"))), taps)
        image = f.mul(sample, f.word("pixels"))
        target = f.at(f.word("to", "ptr"), f.mul(row, to_words), "i64")
        with f.loop("0", to_words) as word:
            f.do(f"store i64 0, ptr {f.at(target, word, 'i64')}")
        with f.loop("0", taps) as tap:
            pixel = _load(f, f.word("places", "ptr"), f.add(place, tap))
            inside = f.value(f"icmp sge i64 {pixel}, 0")
            count = f.value(f"select i1 {inside}, i64 {words}, i64 0")
            source = f.mul(f.add(image, pixel), words)
            begin = f.mul(tap, f.word("channels"))
            with f.loop("0", count) as word:
                bits = _load(f, f.word("bits", "ptr"), f.add(source, word))
                at = f.add(begin, f.mul(word, str(BITS)))
                low = f.quotient(at, str(BITS))
                shift = f.sub(at, f.mul(low, str(BITS)))
                _join(f, target, low, f.value(f"shl i64 {bits}, {shift}"))
                # What a row's last word has no room for is zeros.
                high = f.least(f.add(low, "1"), f.sub(to_words, "1"))
                rest = f.value(f"lshr i64 {bits}, 1")
                rest = f.value(f"lshr i64 {rest}, {f.sub(str(BITS - 1), shift)}")
                _join(f, target, high, rest)
    return _module(f)


def _join(f: Function, base: str, index: str, bits: str) -> None:
    address = f.at(base, index, "i64")
    joined = f.value(f"or i64 {f.value(f'load i64, ptr {address}')}, {bits}")
    f.do(f"store i64 {joined}, ptr {address}")


# --- gather ---


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
    return _module(f)


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
        plus, minus = self._listed()
        columns = f.word("columns")
        wide = f.mul(f.quotient(columns, str(BLOCK * width)), str(BLOCK * width))
        with f.loop("0", wide, str(BLOCK * width)) as column:
            self._block(column, BLOCK, plus, minus)
        full = f.mul(f.quotient(columns, str(width)), str(width))
        with f.loop(wide, full, str(width)) as column:
            self._block(column, 1, plus, minus)
        with f.loop(full, columns, str(width)) as column:
            self._block(column, 1, plus, minus, self.lanes.first(f.sub(columns, column)))

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
            bits = _load(f, f.word("bits", "ptr"), f.add(row, word))
            if self.signed:
                minus = _load(f, f.word("negative", "ptr"), f.add(row, word))
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
                offset = _load(f, self.list, entry)
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
