"""Writing LLVM IR: one function's instructions and loops, and vector instructions on neurons."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_float

# How many neurons one vector instruction works on.
LANES = {"float": 16, "double": 8}
# A tensor's dtype in IR, and the type that the step computes in.
STORED = {"float32": "float", "float64": "double", "float16": "half", "bfloat16": "bfloat"}
COMPUTED = {"float32": "float", "float64": "double", "float16": "float", "bfloat16": "float"}


class Function:
    """One LLVM function in the making, whose arguments are words in one array."""

    def __init__(self, name: str, words: Sequence[str], dtype: str) -> None:
        self.name = name
        self.real = COMPUTED[dtype]
        self.stored = STORED[dtype]
        self.declared: set[str] = set()
        self._position = {word: i for i, word in enumerate(words)}
        self._entry: list[str] = []
        self._body: list[str] = []
        self._named = 0
        self._loaded: dict[tuple[str, str], str] = {}

    def _name(self) -> str:
        self._named += 1
        return f"%t{self._named}"

    def value(self, text: str) -> str:
        """Emit an instruction and name its result."""
        name = self._name()
        self._body.append(f"  {name} = {text}")
        return name

    def do(self, text: str) -> None:
        """Emit an instruction without a result."""
        self._body.append(f"  {text}")

    def variable(self, kind: str) -> str:
        """A mutable variable; LLVM's optimiser keeps it in registers."""
        name = self._name()
        self._entry.append(f"  {name} = alloca {kind}")
        return name

    def word(self, name: str, kind: str = "i64") -> str:
        """An argument word, loaded once at entry as an integer, a pointer or a number."""
        if (name, kind) not in self._loaded:
            slot, result = self._name(), self._name()
            index = self._position[name]
            self._entry.append(f"  {slot} = getelementptr i64, ptr %words, i64 {index}")
            self._entry.append(f"  {result} = load {kind}, ptr {slot}")
            self._loaded[name, kind] = result
        return self._loaded[name, kind]

    def call(self, result: str, name: str, *arguments: tuple[str, str]) -> str:
        """Call a function, declared on first use; arguments are ``(type, value)`` pairs."""
        kinds = ", ".join(kind for kind, _ in arguments)
        self.declared.add(f"declare {result} @{name}({kinds})")
        passed = ", ".join(f"{kind} {value}" for kind, value in arguments)
        return self.value(f"call {result} @{name}({passed})")

    @contextmanager
    def loop(self, start: str, stop: str, step: str = "1") -> Iterator[str]:
        """``for index in range(start, stop, step)``."""
        counter = self.variable("i64")
        tag = counter[1:]
        self.do(f"store i64 {start}, ptr {counter}")
        self.do(f"br label %head.{tag}")
        self._body.append(f"head.{tag}:")
        index = self.value(f"load i64, ptr {counter}")
        more = self.value(f"icmp slt i64 {index}, {stop}")
        self.do(f"br i1 {more}, label %body.{tag}, label %done.{tag}")
        self._body.append(f"body.{tag}:")
        yield index
        self.do(f"store i64 {self.add(index, step)}, ptr {counter}")
        self.do(f"br label %head.{tag}")
        self._body.append(f"done.{tag}:")

    @contextmanager
    def countdown(self, start: str, stop: str) -> Iterator[str]:
        """``for index in reversed(range(start, stop))``."""
        with self.loop("0", self.sub(stop, start)) as passed:
            yield self.sub(self.sub(stop, "1"), passed)

    @contextmanager
    def repeat(self, condition: Callable[[], str]) -> Iterator[None]:
        """``while condition():``."""
        self._named += 1
        tag = f"w{self._named}"
        self.do(f"br label %head.{tag}")
        self._body.append(f"head.{tag}:")
        self.do(f"br i1 {condition()}, label %body.{tag}, label %done.{tag}")
        self._body.append(f"body.{tag}:")
        yield
        self.do(f"br label %head.{tag}")
        self._body.append(f"done.{tag}:")

    def add(self, a: str, b: str) -> str:
        """Integer sum."""
        return self.value(f"add i64 {a}, {b}")

    def sub(self, a: str, b: str) -> str:
        """Integer difference."""
        return self.value(f"sub i64 {a}, {b}")

    def mul(self, a: str, b: str) -> str:
        """Integer product."""
        return self.value(f"mul i64 {a}, {b}")

    def quotient(self, a: str, b: str) -> str:
        """Integer quotient, rounded down."""
        return self.value(f"udiv i64 {a}, {b}")

    def least(self, a: str, b: str) -> str:
        """The smaller integer."""
        return self.value(f"select i1 {self.value(f'icmp slt i64 {a}, {b}')}, i64 {a}, i64 {b}")

    def at(self, base: str, index: str, kind: str | None = None) -> str:
        """The address of an element; by default of the type that is computed in."""
        return self.value(f"getelementptr {kind or self.real}, ptr {base}, i64 {index}")

    def load(self, kind: str, base: str, index: str) -> str:
        """An element of an array of this type."""
        return self.value(f"load {kind}, ptr {self.at(base, index, kind)}")

    def module(self) -> str:
        """A module of the finished function and what it calls."""
        return "\n".join([*sorted(self.declared), self.text()])

    def text(self) -> str:
        """The finished function."""
        lines = [*self._entry, "  br label %start", "start:", *self._body, "  ret void"]
        return f"define void @{self.name}(ptr %words) {{\nentry:\n" + "\n".join(lines) + "\n}"


class Lanes:
    """Instructions that work on ``width`` neurons at once."""

    def __init__(self, function: Function, width: int) -> None:
        self.f = function
        self.width = width
        self.real = function.real
        self.bytes = 4 if self.real == "float" else 8
        self.type = self.of(self.real)
        self.int = self.of(f"i{8 * self.bytes}")
        self.bool = self.of("i1")

    def of(self, kind: str) -> str:
        """The vector of this scalar type."""
        return f"<{self.width} x {kind}>"

    def literal(self, kind: str, text: str) -> str:
        """A constant in every lane."""
        return "<" + ", ".join([f"{kind} {text}"] * self.width) + ">"

    def number(self, value: float) -> str:
        """A real constant, rounded to the type that is computed in."""
        return self.numbers([value] * self.width)

    def numbers(self, values: Sequence[float]) -> str:
        """A real constant for each lane, rounded to the type that is computed in."""
        if self.real == "float":
            values = [c_float(value).value for value in values]  # beyond its range infinite
        words = [struct.unpack("<Q", struct.pack("<d", value))[0] for value in values]
        return "<" + ", ".join(f"{self.real} 0x{word:016X}" for word in words) + ">"

    def integer(self, value: int) -> str:
        """An integer constant as wide as a real."""
        return self.literal(f"i{8 * self.bytes}", str(value))

    def splat(self, scalar: str) -> str:
        """A scalar in every lane."""
        first = self.f.value(f"insertelement {self.type} poison, {self.real} {scalar}, i32 0")
        zeros = f"<{self.width} x i32> zeroinitializer"
        return self.f.value(f"shufflevector {self.type} {first}, {self.type} poison, {zeros}")

    def select(self, condition: str, a: str, b: str, kind: str | None = None) -> str:
        """``a`` where the condition holds, else ``b``."""
        kind = kind or self.type
        return self.f.value(f"select {self.bool} {condition}, {kind} {a}, {kind} {b}")

    def compare(self, how: str, a: str, b: str) -> str:
        """An ordered comparison such as ``ogt``."""
        return self.f.value(f"fcmp {how} {self.type} {a}, {b}")

    def real_op(self, op: str, a: str, b: str, flags: str = "") -> str:
        """``add``, ``sub``, ``mul`` or ``div``, correctly rounded unless flags allow less."""
        return self.f.value(f"f{op} {flags}{self.type} {a}, {b}")

    def int_op(self, op: str, a: str, b: str) -> str:
        """An integer operation such as ``and`` or ``shl``."""
        return self.f.value(f"{op} {self.int} {a}, {b}")

    def cast(self, how: str, value: str, source: str, target: str) -> str:
        """A conversion such as ``bitcast`` or ``fpext``."""
        return self.f.value(f"{how} {source} {value} to {target}")

    def intrinsic(self, name: str, *values: str) -> str:
        """An LLVM intrinsic on reals, such as ``fabs``."""
        suffix = f"v{self.width}f{8 * self.bytes}"
        return self.f.call(self.type, f"llvm.{name}.{suffix}", *((self.type, v) for v in values))

    def limited(self, value: str, low: float, high: float) -> str:
        """Reals clamped to [low, high]; NaN stays NaN."""
        least, most = self.number(low), self.number(high)
        value = self.select(self.compare("olt", value, least), least, value)
        return self.select(self.compare("ogt", value, most), most, value)

    def truncated(self, value: str) -> str:
        """Reals that fit, as integers of the same width; NaN gives 0."""
        ordered = self.compare("ord", value, value)
        value = self.select(ordered, value, self.number(0.0))
        return self.cast("fptosi", value, self.type, self.int)

    def per_lane(self, values: str, kind: str) -> list[str]:
        """The lanes one by one."""
        pick = f"extractelement {self.of(kind)} {values}, i32 "
        return [self.f.value(pick + str(lane)) for lane in range(self.width)]

    def any(self, conditions: str) -> str:
        """Whether a condition holds in some lane."""
        name = f"llvm.vector.reduce.or.v{self.width}i1"
        return self.f.call("i1", name, (self.bool, conditions))

    def gathered(self, scalars: Sequence[str]) -> str:
        """A vector from its lanes."""
        vector = "poison"
        for lane, scalar in enumerate(scalars):
            insert = f"insertelement {self.type} {vector}, {self.real} {scalar}, i32 {lane}"
            vector = self.f.value(insert)
        return vector

    def load(self, base: str, index: str) -> str:
        """Values in the type that is computed in."""
        address = self.f.at(base, index)
        return self.f.value(f"load {self.type}, ptr {address}, align {self.bytes}")

    def store(self, value: str, base: str, index: str) -> None:
        """Write values in the type that is computed in."""
        address = self.f.at(base, index)
        self.f.do(f"store {self.type} {value}, ptr {address}, align {self.bytes}")

    def first(self, count: str) -> str:
        """Which lanes are among the first ``count``, an integer of any size."""
        least = self.f.call("i64", "llvm.smax.i64", ("i64", count), ("i64", "0"))
        narrow = self.f.value(f"trunc i64 {self.f.least(least, str(self.width))} to i32")
        kind = self.of("i32")
        one = self.f.value(f"insertelement {kind} poison, i32 {narrow}, i32 0")
        all_ = self.f.value(f"shufflevector {kind} {one}, {kind} poison, {kind} zeroinitializer")
        numbers = "<" + ", ".join(f"i32 {lane}" for lane in range(self.width)) + ">"
        return self.f.value(f"icmp slt {kind} {numbers}, {all_}")

    def load_some(self, base: str, index: str, lanes: str) -> str:
        """Values in the lanes that are chosen, zeros in the others, for which nothing is read."""
        name = f"llvm.masked.load.v{self.width}f{8 * self.bytes}.p0"
        address = ("ptr", self.f.at(base, index)), ("i32", str(self.bytes))
        return self.f.call(
            self.type, name, *address, (self.bool, lanes), (self.type, "zeroinitializer")
        )

    def store_some(self, value: str, base: str, index: str, lanes: str) -> None:
        """Write the lanes that are chosen."""
        name = f"llvm.masked.store.v{self.width}f{8 * self.bytes}.p0"
        self.f.declared.add(f"declare void @{name}({self.type}, ptr, i32, {self.bool})")
        self.f.do(
            f"call void @{name}({self.type} {value}, ptr {self.f.at(base, index)}, "
            f"i32 {self.bytes}, {self.bool} {lanes})"
        )

    def load_stored(self, base: str, index: str) -> str:
        """Values of a user's tensor, widened."""
        stored = self.f.stored
        if stored == self.real:
            return self.load(base, index)
        address = self.f.at(base, index, "i16")
        if stored == "half":
            half = self.f.value(f"load {self.of('half')}, ptr {address}, align 2")
            return self.cast("fpext", half, self.of("half"), self.type)
        bits = self.f.value(f"load {self.of('i16')}, ptr {address}, align 2")
        wide = self.int_op(
            "shl", self.cast("zext", bits, self.of("i16"), self.int), self.integer(16)
        )
        return self.cast("bitcast", wide, self.int, self.type)

    def load_indexed(self, row: str, index: str, neuron: str) -> str:
        """Values of a user's tensor, stored as they are computed with, at the neurons' places."""
        address = self.f.at(index, neuron, "i32")
        places = self.f.value(f"load {self.of('i32')}, ptr {address}, align 4")
        wide = self.cast("sext", places, self.of("i32"), self.of("i64"))
        addresses = self.f.value(f"getelementptr {self.real}, ptr {row}, {self.of('i64')} {wide}")
        return self.f.call(
            self.type,
            f"llvm.masked.gather.v{self.width}f{8 * self.bytes}.v{self.width}p0",
            (self.of("ptr"), addresses),
            ("i32", str(self.bytes)),
            (self.bool, self.literal("i1", "true")),
            (self.type, "poison"),
        )

    def store_stored(self, value: str, base: str, index: str, *, stream: bool = False) -> None:
        """Write values to a user's tensor, rounded to nearest even.

        With ``stream`` full vectors go past the cache; they must then be aligned to their size.
        """
        kind, narrow, size = self._narrowed(value)
        hint = f"align {size}"
        if stream and self.width > 1:
            hint = f"align {size * self.width}, !nontemporal !0"
        address = self.f.at(base, index, f"i{8 * size}")
        self.f.do(f"store {kind} {narrow}, ptr {address}, {hint}")

    def _narrowed(self, value: str) -> tuple[str, str, int]:
        """Type, value and size of a lane as a user's tensor holds them."""
        stored = self.f.stored
        if stored == self.real:
            return self.type, value, self.bytes
        if stored == "half":
            return self.of("half"), self.cast("fptrunc", value, self.type, self.of("half")), 2
        narrow = self.cast("trunc", self._bfloat_bits(value), self.int, self.of("i16"))
        return self.of("i16"), narrow, 2

    def prefetch(self, base: str, index: str) -> None:
        """Bring values of a user's tensor near; the address may lie outside it."""
        if self.width == 1:
            return
        kind = self.f.real if self.f.stored == self.f.real else "i16"
        self.f.declared.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        address = self.f.at(base, index, kind)
        self.f.do(f"call void @llvm.prefetch.p0(ptr {address}, i32 0, i32 2, i32 1)")

    def _bfloat_bits(self, value: str) -> str:
        bits = self.cast("bitcast", value, self.type, self.int)
        odd = self.int_op("and", self.int_op("lshr", bits, self.integer(16)), self.integer(1))
        biased = self.int_op("add", bits, self.int_op("add", odd, self.integer(0x7FFF)))
        rounded = self.int_op("lshr", biased, self.integer(16))
        return self.select(
            self.compare("uno", value, value), self.integer(0x7FC0), rounded, self.int
        )
