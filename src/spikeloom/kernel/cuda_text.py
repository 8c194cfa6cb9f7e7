"""Writing CUDA C: numbers, names, and the nodes of a graph as the body of a function."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from ctypes import c_float

from spikeloom.kernel.graph import CONDITIONS, LEAVES, Node, operands, resolve, schedule

# An expression used once is written where it is used, up to this length.
INLINE = 60
LINE = 100

# Operator, and how tightly it binds.
_BINARY = {
    "or": ("||", 1),
    "and": ("&&", 2),
    "eq": ("==", 3),
    "gt": (">", 4),
    "ge": (">=", 4),
    "add": ("+", 5),
    "sub": ("-", 5),
    "mul": ("*", 6),
    "div": ("/", 6),
}
_TERNARY, _UNARY, _PRIMARY = 0, 7, 8
_FUNCTION = {op: op for op in ("exp", "log", "erf", "sqrt", "rint", "floor")} | {"abs": "fabs"}

_KEYWORDS = """
    alignas alignof and asm auto bool break case catch char class const constexpr continue decltype
    default delete do double else enum explicit export extern false float for friend goto if inline
    int linux long mutable namespace new noexcept not nullptr operator or private protected public
    register return short signed sizeof static struct switch template this throw true try typedef
    typeid typename union unix unsigned using virtual void volatile while xor
"""
_TEMPLATE = """
    active add advance anew at backward begin bits cells checkpoints clear close end forward
    initial k l lane last leave left load memcpy mine n narrow narrow_two nearest noted notes real
    recompute rows save segment segments start step stored sum_of_warp sweep sweep_begin t thread
    threads values warps widen zero
"""
_RESERVED = frozenset((_KEYWORDS + _TEMPLATE).split())


def literal(value: float, real: str) -> str:
    """A number as C source that reads back as exactly the number that is computed with."""
    suffix = "f" if real == "float" else ""
    if real == "float" and math.isfinite(value):
        value = _float32(value)
    if not math.isfinite(value):
        top = "0.0" if math.isnan(value) else math.copysign(1.0, value)
        return f"({top}{suffix} / 0.0{suffix})"
    text = repr(value)
    if real == "float":
        shortest = (f"{value:.{digits}g}" for digits in range(1, 10))
        text = next(text for text in shortest if _float32(float(text)) == value)
    return (text if re.search("[.e]", text) else text + ".0") + suffix


def _float32(value: float) -> float:
    return c_float(value).value  # beyond its range infinite


class Names:
    """Identifiers that do not collide with each other, with C++ or with the templates."""

    def __init__(self, taken: frozenset[str] | set[str] = _RESERVED) -> None:
        self._taken = set(taken)

    def claim(self, wish: str, forms: Sequence[str] = ()) -> str:
        """An identifier as close to the wish as possible.

        Args:
            wish: Any text.
            forms: Names made from it that must be free too, such as ``g_{}``.
        """
        name = wish
        if not re.fullmatch("[a-z][a-z0-9_]*", name) or "__" in name:
            name = "p_" + re.sub("[^A-Za-z0-9]+", "_", name).strip("_")
        found, count = name, 0
        while self._taken & (every := {found, *(form.format(found) for form in forms)}):
            count += 1
            found = f"{name}{count}"
        self._taken |= every
        return found

    def free(self, name: str) -> bool:
        """Whether nothing has this name yet."""
        return name not in self._taken

    def scope(self) -> Names:
        """The same names, to which a function adds its own."""
        return Names(self._taken)


class Body:
    """The nodes of a graph as statements on named values.

    Args:
        nodes: The graph.
        spelled: Leaf or given node number -> its name.
        real: ``float`` or ``double``.
        powers: Parameters whose division is exact as a multiplication by the inverse.
        tables: Gated parameter -> its name.
        names: Names in use.
        named: Node number -> the name under which it must be computed.
        own: How many of the nodes are the step's; those beyond are its gradients.
        exact: The nodes that outputs and states depend on. They round as torch does; the others
            make gradients, and may divide approximately and fuse multiply and add.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        spelled: Mapping[int, str],
        real: str,
        *,
        powers: frozenset[str],
        tables: Mapping[str, str],
        names: Names,
        named: Mapping[int, str],
        own: int,
        exact: frozenset[int],
    ) -> None:
        self.nodes = nodes
        self.real = real
        self.lines: list[str] = []
        self._spelled = spelled
        self._powers = powers
        self._tables = tables
        self._names = names
        self._named = named
        self._own = own
        self._exact = exact
        # Products that are part of a fused multiply-add.
        self._fused: set[int] = set()
        # What may be NaN and is then passed on: its text is needed more than once.
        self._marking: set[int] = set()
        self._texts: dict[int, tuple[str, int]] = {n: (s, _PRIMARY) for n, s in spelled.items()}

    def evaluate(self, roots: Sequence[int]) -> None:
        """Write what the roots need."""
        needed = schedule(self.nodes, roots, frozenset(self._spelled))
        fresh = [number for number in needed if number not in self._spelled]
        used = Counter(resolve(self.nodes, root) for root in roots)
        for number in fresh:
            node = self.nodes[number]
            used.update(resolve(self.nodes, operand) for operand in operands(node))
            if node[0] == "with_nan":
                self._marking.add(resolve(self.nodes, node[2]))
        self._fused = {
            product for number in fresh if (product := self._product(number, used)) is not None
        }
        for number in fresh:
            if number in self._fused:
                continue
            text, tightness = self._expression(number)
            bound = used[number] > 1 or len(text) > INLINE or number in self._named
            bound = bound or number in self._marking or self.nodes[number][0] == "with_nan"
            if bound and self.nodes[number][0] != "const":
                name = self._named.get(number) or self._names.claim(self._wish(number))
                kind = "bool" if self.nodes[number][0] in CONDITIONS else "real"
                self.lines += wrap(f"const {kind} {name} = {text};")
                text, tightness = name, _PRIMARY
            self._texts[number] = text, tightness

    def _product(self, number: int, used: Counter[int]) -> int | None:
        """A product that nothing but this sum or difference reads, if both may be rounded once."""
        op, *parts = self.nodes[number]
        if op not in ("add", "sub") or number in self._exact:
            return None
        for part in parts:
            product = resolve(self.nodes, part)
            ours = used[product] == 1 and product not in self._spelled.keys() | self._named.keys()
            if ours and self.nodes[product][0] == "mul" and product not in self._exact:
                return product
        return None

    def _fused_sum(self, op: str, parts: Sequence[int]) -> str | None:
        """A sum or difference with a product in it as one rounding; None if it has none."""
        numbers = [resolve(self.nodes, part) for part in parts]
        for at, product in enumerate(numbers):
            if product not in self._fused:
                continue
            a, b = (self._operand(factor, _UNARY) for factor in self.nodes[product][1:])
            c = self._operand(numbers[1 - at], _UNARY)
            if op == "sub":
                a, c = (a, f"-{c}") if at == 0 else (f"-{a}", c)
            name = "fmaf" if self.real == "float" else "fma"
            return f"{name}({a}, {b}, {c})".replace("--", "")
        return None

    def text(self, number: int) -> str:
        """The expression for an evaluated node."""
        return self._texts[resolve(self.nodes, number)][0]

    def _wish(self, number: int) -> str:
        node = self.nodes[number]
        if node[0] in CONDITIONS:
            return "c"
        if number >= self._own:
            return "g"
        if self._is_spike(node):
            return "s"
        if number in self._marking:
            return "u"
        return "h" if self._names.free("h") and self._is_charged(number) else "a"

    def _is_spike(self, node: Node) -> bool:
        if node[0] == "with_nan":
            node = self.nodes[resolve(self.nodes, node[1])]
        values = (("const", "1.0"), ("const", "0.0"))
        return node[0] == "where" and tuple(self.nodes[n] for n in node[2:]) == values

    def _is_charged(self, number: int) -> bool:
        """Whether an input meets a state here: a membrane potential before it fires."""
        below = schedule(self.nodes, [number], frozenset(self._spelled))
        kinds = {self.nodes[n][0] for n in below}
        return {"x", "v"} <= kinds and not any(self._is_spike(self.nodes[n]) for n in below)

    def _operand(self, number: int, least: int) -> str:
        text, tightness = self._texts[resolve(self.nodes, number)]
        return text if tightness >= least else f"({text})"

    def _expression(self, number: int) -> tuple[str, int]:
        """A node as C, and how tightly its outermost operator binds."""
        op, *parts = self.nodes[number]
        if op == "const":
            text = literal(float(parts[0]), self.real)
            return text, _UNARY if text.startswith("-") else _PRIMARY
        assert op not in LEAVES, f"{op} {parts} has no name"
        if op in ("add", "sub") and (fused := self._fused_sum(op, parts)):
            return fused, _PRIMARY
        if op == "lookup":
            return f"{self._tables[parts[0]]}.at({self._operand(parts[1], 0)}, t)", _PRIMARY
        if op in _BINARY:
            sign, tightness = _BINARY[op]
            # Never regrouped: the right operand keeps its brackets at equal tightness.
            left, right = self._operand(parts[0], tightness), self._operand(parts[1], tightness + 1)
            if op == "add" and right.startswith("-"):
                return f"{left} - {right[1:]}", tightness
            divisor = self.nodes[resolve(self.nodes, parts[1])]
            if op == "div" and divisor[0] == "p" and divisor[1] in self._powers:
                one = literal(1.0, self.real)
                return f"{left} * ({one} / {right})", tightness
            if op == "div" and self.real == "float" and number not in self._exact:
                a, b = (self._operand(part, _TERNARY) for part in parts)
                return f"__fdividef({a}, {b})", _PRIMARY
            return f"{left} {sign} {right}", tightness
        if op == "with_nan":
            value, source = self._operand(parts[0], _TERNARY), self._operand(parts[1], 4)
            return f"{source} != {source} ? {source} : {value}", _TERNARY
        if op == "where":
            condition, yes = (self._operand(part, 1) for part in parts[:2])
            return f"{condition} ? {yes} : {self._operand(parts[2], _TERNARY)}", _TERNARY
        if op in ("neg", "not"):
            inner = self._operand(parts[0], _UNARY + 1)
            return f"{'-' if op == 'neg' else '!'}{inner}", _UNARY
        name = _FUNCTION[op] + ("f" if self.real == "float" else "")
        return f"{name}({self._operand(parts[0], 0)})", _PRIMARY


def wrap(line: str, indent: str = "    ", width: int = LINE) -> list[str]:
    """A statement on as many lines as it needs, broken at spaces."""
    lines, current = [], indent
    for word in line.split(" "):
        if len(current) + len(word) > width and current.strip():
            lines.append(current.rstrip())
            current = 2 * indent
        current += word + " "
    return [*lines, current.rstrip()]


def signature(head: str, arguments: Sequence[str]) -> list[str]:
    """The opening of a function, its arguments on lines of their own where they do not fit."""
    line = f"{head}({', '.join(arguments)}) {{"
    if len(line) <= LINE:
        return [line]
    lines, current = [f"{head}("], "   "
    for argument in arguments:
        if len(current) + len(argument) + 4 > LINE:
            lines.append(current)
            current = "   "
        current += f" {argument},"
    return [*lines, current.removesuffix(",") + ") {"]
