"""Expression graphs: the symbols that a step computes with, and the nodes that they become."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

from spikeloom.kernel.setting import Setting, with_settings

# An operation and its operands: node numbers, or literals for the leaves.
Node = tuple[Any, ...]

# x: input, v: state, p: parameter, gy/gw: gradients that arrive at an output / a next state.
LEAVES = frozenset({"const", "x", "v", "p", "gy", "gw"})
# Operations whose first operand is a table: its name, or the entries themselves.
TABLES = frozenset({"lookup", "ladder"})
CONDITIONS = frozenset({"gt", "ge", "eq", "and", "or", "not"})
ARITHMETIC = frozenset({"add", "sub", "mul", "div"})
# Operations that torch has for numbers, but not for truth values alone.
OF_NUMBERS = ARITHMETIC | {"neg", "abs", "floor", "rint"}


def operands(node: Node) -> tuple[int, ...]:
    """The numbers of the nodes that this node reads."""
    if node[0] in LEAVES:
        return ()
    return node[2:] if node[0] in TABLES else node[1:]


class Graph:
    """Nodes in order of evaluation, each distinct expression once.

    Args:
        nodes: To begin with.
        taken: The names of the parameters.
    """

    def __init__(self, nodes: Sequence[Node] = (), taken: Iterable[str] = ()) -> None:
        self.nodes: list[Node] = list(nodes)
        self.settings: dict[str, float] = {}
        self._taken = set(taken)
        self._surrogates: list[Any] = []
        self._settings: dict[Any, str] = {}
        self._number = {node: i for i, node in enumerate(self.nodes)}

    def add(self, *node: Any) -> Expr:
        """The expression for this node, made if it is new."""
        number = self._number.setdefault(node, len(self.nodes))
        if number == len(self.nodes):
            self.nodes.append(node)
        return Expr(self, number)

    def lift(self, value: Any) -> Expr:
        """An expression as it is, a number as a constant."""
        if isinstance(value, Expr):
            return value
        if isinstance(value, Setting):
            return self.add("p", self._named(value))
        if isinstance(value, (bool, int, float)):
            return self.add("const", repr(float(value)))
        raise TypeError(
            f"a step may combine its inputs, states, parameters and plain numbers, "
            f"got {type(value).__name__}; declare tensors as parameters of the Neuron"
        )

    def scheduled(self, surrogate: Any) -> Any:
        """A surrogate whose numbers the kernel gets at each call."""
        if not any(surrogate is known for known in self._surrogates):
            self._surrogates.append(surrogate)
        place = next(i for i, known in enumerate(self._surrogates) if known is surrogate)
        return with_settings(surrogate, place)

    def _named(self, setting: Setting) -> str:
        """The parameter that a setting is; it has a name of its own."""
        if setting.origin not in self._settings:
            names = (f"surrogate_{i}" for i in count())
            name = next(name for name in names if name not in self._taken | self.settings.keys())
            self._settings[setting.origin] = name
            self.settings[name] = float(setting)
        return self._settings[setting.origin]


class Expr:
    """A symbol that a step computes with; it behaves like a float tensor, elementwise."""

    __slots__ = ("graph", "number")
    __hash__ = None  # type: ignore[assignment]  # == builds a condition

    def __init__(self, graph: Graph, number: int) -> None:
        self.graph = graph
        self.number = number

    @property
    def node(self) -> Node:
        """The operation and operands behind this symbol."""
        return self.graph.nodes[self.number]

    @property
    def _is_condition(self) -> bool:
        return self.node[0] in CONDITIONS

    def _real(self) -> Expr:
        return self.select(1.0, 0.0) if self._is_condition else self

    def _op(self, op: str, *others: Any) -> Expr:
        values = [self.graph.lift(value) for value in (self, *others)]
        if op in OF_NUMBERS and all(value._is_condition for value in values):
            raise TypeError(
                f"a step cannot '{op}' conditions, which torch takes for truth values; join them "
                f"with & and |, or make numbers of them with where(condition, 1.0, 0.0)"
            )
        return self.graph.add(op, *(value._real().number for value in values))

    def _swapped(self, op: str, other: Any) -> Expr:
        return self.graph.lift(other)._op(op, self)

    def __add__(self, other: Any) -> Expr:
        return self._op("add", other)

    def __radd__(self, other: Any) -> Expr:
        return self._swapped("add", other)

    def __sub__(self, other: Any) -> Expr:
        return self._op("sub", other)

    def __rsub__(self, other: Any) -> Expr:
        return self._swapped("sub", other)

    def __mul__(self, other: Any) -> Expr:
        return self._op("mul", other)

    def __rmul__(self, other: Any) -> Expr:
        return self._swapped("mul", other)

    def __truediv__(self, other: Any) -> Expr:
        return self._op("div", other)

    def __rtruediv__(self, other: Any) -> Expr:
        # Two roundings, because torch computes number / tensor as tensor.reciprocal() * number.
        return self._swapped("div", 1.0) * other

    def __pow__(self, power: Any) -> Expr:
        if power not in (2, 3):
            raise TypeError(f"a step may raise to the power 2 or 3, got {power}; use exp and log")
        square = self * self
        return square if power == 2 else square * self

    def __neg__(self) -> Expr:
        return self._op("neg")

    def __abs__(self) -> Expr:
        return self._op("abs")

    def __gt__(self, other: Any) -> Expr:
        return self._op("gt", other)

    def __ge__(self, other: Any) -> Expr:
        return self._op("ge", other)

    def __lt__(self, other: Any) -> Expr:
        return self._swapped("gt", other)

    def __le__(self, other: Any) -> Expr:
        return self._swapped("ge", other)

    def __eq__(self, other: Any) -> Expr:  # type: ignore[override]  # a node, no bool
        return self._op("eq", other)

    def __ne__(self, other: Any) -> Expr:  # type: ignore[override]  # a node, no bool
        return ~self._op("eq", other)

    def _logic(self, op: str, *others: Any) -> Expr:
        for value in (self, *others):
            if not isinstance(value, Expr) or not value._is_condition:
                raise TypeError(f"'{op}' joins conditions such as a > b, got a value")
        return self.graph.add(op, self.number, *(other.number for other in others))

    def __and__(self, other: Any) -> Expr:
        return self._logic("and", other)

    def __or__(self, other: Any) -> Expr:
        return self._logic("or", other)

    def __invert__(self) -> Expr:
        return self._logic("not")

    def __bool__(self) -> bool:
        raise TypeError("a step runs on many neurons at once; use where(condition, a, b), not `if`")

    def select(self, a: Any, b: Any) -> Expr:
        """``a`` where this condition holds, else ``b``."""
        if not self._is_condition:
            raise TypeError("where: the condition must be a comparison such as a > b, got a value")
        a, b = (self.graph.lift(value)._real() for value in (a, b))
        return self.graph.add("where", self.number, a.number, b.number)

    def with_nan(self, source: Expr) -> Expr:
        """This value, but NaN where the source is."""
        return self.graph.add("with_nan", self._real().number, source._real().number)

    def with_grad(self, *pairs: tuple[Any, Any]) -> Expr:
        """This value, differentiated by the stated partials."""
        flat = [self.graph.lift(part)._real().number for pair in pairs for part in pair]
        return self.graph.add("with_grad", self._real().number, *flat)

    def lookup(self, row: Any) -> Expr:
        """The entry of this gated table at ``row``."""
        if self.node[0] != "p":
            raise TypeError("lookup: the table must be a Gated parameter, got a computed value")
        return self.graph.add("lookup", self.node[1], self.graph.lift(row).number)

    def exp(self) -> Expr:
        """The exponential."""
        return self._op("exp")

    def log(self) -> Expr:
        """The natural logarithm."""
        return self._op("log")

    def sqrt(self) -> Expr:
        """The square root."""
        return self._op("sqrt")

    def erf(self) -> Expr:
        """The error function."""
        return self._op("erf")

    def floor(self) -> Expr:
        """The integer below."""
        return self._op("floor")

    def round(self) -> Expr:
        """The nearest integer, ties to even."""
        return self._op("rint")

    def abs(self) -> Expr:
        """The magnitude."""
        return self._op("abs")

    def detach(self) -> Expr:
        """This value, cut from the gradient."""
        return self._op("detach")


def resolve(nodes: Sequence[Node], number: int) -> int:
    """The node that carries this one's value: detach and with_grad only steer gradients."""
    while nodes[number][0] in ("detach", "with_grad"):
        number = nodes[number][1]
    return number


def schedule(
    nodes: Sequence[Node], roots: Sequence[int], given: frozenset[int] = frozenset()
) -> list[int]:
    """The nodes whose values the roots need, in order of evaluation; given ones are not opened."""
    needed: set[int] = set()
    ahead = [resolve(nodes, root) for root in roots]
    while ahead:
        number = ahead.pop()
        if number not in needed:
            needed.add(number)
            if number not in given:
                ahead.extend(resolve(nodes, operand) for operand in operands(nodes[number]))
    return sorted(needed)
