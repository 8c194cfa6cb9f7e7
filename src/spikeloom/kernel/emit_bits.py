"""LLVM IR that turns spikes into bits, and moves the bits.

A row of spikes becomes 64-bit words, one bit an input, as many words that tell which spikes are
negative, and their magnitude.

- ``pack`` reads floats once, writes their bits, and sees whether each row has a single magnitude;
- ``unpack`` writes the floats again;
- ``transpose`` turns bits by rows into bits by inputs;
- ``unfold`` collects the bits that each output of a convolution sees.

All arguments arrive in one array of 64-bit words, in the order of the lists below.
"""

from __future__ import annotations

from collections.abc import Callable

from spikeloom.kernel.llvm_text import LANES, Function, Lanes

__all__ = ["pack", "transpose", "unfold", "unpack"]

# Bits of a word.
BITS = 64

PACK = ["first", "last", "inputs", "words", "x", "x.stride", "bits", "negative", "amplitude"]
PACK += ["found"]
UNPACK = ["first", "last", "inputs", "words", "x", "bits", "negative", "amplitude"]
TRANSPOSE = ["first", "last", "rows", "inputs", "words", "bits", "to.words", "to", "block"]
UNFOLD = ["first", "last", "outputs", "taps", "channels", "pixels", "words", "bits", "places"]
UNFOLD += ["to.words", "to"]
# What ``pack`` notes in ``found``.
UNEVEN, SIGNED, SCALED, COUNT = range(4)


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
    return f.module()


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
            words = [f.load("i64", f.word(name, "ptr"), place) for name in names]
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
    return f.module()


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
            word = f.load("i64", f.word("bits", "ptr"), f.add(near, across))
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
            f.do(f"store i64 {f.load('i64', block, i)}, ptr {address}")
    return f.module()


def _exchange(f: Function, block: str, distance: int, mask: int) -> None:
    """Exchange the upper right and the lower left part of every square of twice this size."""
    mask &= 2**BITS - 1
    with f.loop("0", str(BITS), str(2 * distance)) as square, f.loop("0", str(distance)) as i:
        upper, lower = f.add(square, i), f.add(square, f.add(i, str(distance)))
        a, b = f.load("i64", block, upper), f.load("i64", block, lower)
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
            pixel = f.load("i64", f.word("places", "ptr"), f.add(place, tap))
            inside = f.value(f"icmp sge i64 {pixel}, 0")
            count = f.value(f"select i1 {inside}, i64 {words}, i64 0")
            source = f.mul(f.add(image, pixel), words)
            begin = f.mul(tap, f.word("channels"))
            with f.loop("0", count) as word:
                bits = f.load("i64", f.word("bits", "ptr"), f.add(source, word))
                at = f.add(begin, f.mul(word, str(BITS)))
                low = f.quotient(at, str(BITS))
                shift = f.sub(at, f.mul(low, str(BITS)))
                _join(f, target, low, f.value(f"shl i64 {bits}, {shift}"))
                # What a row's last word has no room for is zeros.
                high = f.least(f.add(low, "1"), f.sub(to_words, "1"))
                rest = f.value(f"lshr i64 {bits}, 1")
                rest = f.value(f"lshr i64 {rest}, {f.sub(str(BITS - 1), shift)}")
                _join(f, target, high, rest)
    return f.module()


def _join(f: Function, base: str, index: str, bits: str) -> None:
    address = f.at(base, index, "i64")
    joined = f.value(f"or i64 {f.value(f'load i64, ptr {address}')}, {bits}")
    f.do(f"store i64 {joined}, ptr {address}")
