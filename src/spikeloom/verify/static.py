"""The first proof: value kinds along every edge of a model, whatever the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from spikeloom.kernel.trace import CONDITIONS, Program, resolve
from spikeloom.observe import Effect, Operation, meaning_of
from spikeloom.verify.kinds import (
    REAL,
    SAMPLE,
    SPIKE,
    Kind,
    NotFree,
    Operand,
    join,
    many,
    negative,
    over,
    plus,
    program_kinds,
    times,
)
from spikeloom.verify.sealed import memory_of, written
from spikeloom.verify.watch import Watch, is_weight_call, weight_call

__all__ = ["Finding", "KindTrace", "passes_on"]


class Finding(NamedTuple):
    """One thing that is not free of multiplications."""

    module: str
    why: str


# Effects by which a result holds values of the arguments, and no others.
PASSING = frozenset((Effect.KEEPS, Effect.MOVES, Effect.PADS, Effect.JOINS, Effect.SELECTS))
FOLD = "fold it first: spikeloom.verify.fold_norms"
READ = "reads a value: what it computes depends on the data"
SHAPE = "its output's shape depends on the data"
REASONS = {
    "batch_norm": f"a batch norm that is not folded; {FOLD}",
    "layer_norm": "LayerNorm divides by a deviation that depends on the sample",
    "group_norm": "its deviation depends on the sample",
    "avg_pool2d": f"an average: its values are no whole numbers; {FOLD}",
    "mean": f"an average: its values are no whole numbers; use a sum, or AvgPool2d and {FOLD}",
}


class KindTrace(Watch):
    """Runs a model densely and follows what each tensor may hold.

    Tensors that do not depend on the sample are constants; only their values are ever read. As
    values leave torch by its operations alone (:mod:`spikeloom.verify.sealed`), so are tensors of
    unknown origin.

    Args:
        exempt: Modules whose multiplications are allowed; None exempts the first weight layer, if
            it reads the sample.

    Attributes:
        findings: What is not free of multiplications.
        inputs: The kinds that every weight layer has seen.
        additions: Additions and subtractions outside weight layers.
        comparisons: Comparisons.
        multiplications: Multiplications that remain.
        exempt_multiplications: Multiplications of exempt modules.
        readers: Modules in which Python reads values or shapes that depend on the sample.
    """

    def __init__(self, exempt: frozenset[str] | None) -> None:
        super().__init__()
        self.exempt = exempt
        self.kinds: Any = WeakTensorKeyDictionary()
        # Memory that was written to in place, kept alive so that its address stays its own.
        self.written: dict[int | None, tuple[Tensor, Kind]] = {}
        self.findings: list[Finding] = []
        self.inputs: dict[str, set[Kind]] = {}
        self.additions = self.comparisons = self.multiplications = 0
        self.exempt_multiplications = 0
        self.readers: dict[str, None] = {}

    def start(self, inputs: list[Tensor]) -> None:
        """Declare the sample's tensors real."""
        self.kinds.update(dict.fromkeys(inputs, SAMPLE))

    def operand(self, value: Any) -> Operand:
        """A tensor's kind, or the constant itself."""
        if not isinstance(value, Tensor):
            return value
        _, written = self.written.get(memory_of(value), (None, None))
        kind = self.kinds.get(value)
        if written is None:
            return value if kind is None else kind
        return written if kind is None else join(kind, written)

    def seen(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute as usual; derive the result's kind."""
        leaves = tree_leaves((args, kwargs))
        is_fresh = _effect(name) is Effect.MAKES
        if is_fresh or not any(isinstance(self.operand(leaf), Kind) for leaf in leaves):
            y = self.seal.compute(func, args, kwargs, constant=True)
            # What memory held before must not be taken for values of the model.
            return y.zero_() if is_fresh and "empty" in name else y
        targets = written(func, args, kwargs)
        before = [self.operand(target) for target in targets]
        y = self.seal.compute(func, args, kwargs)
        revealed = _revealed(name, func, args)
        if revealed:
            self.readers[self.module] = None
        try:
            if revealed:
                raise NotFree(revealed)
            kind = self.kind(name, args, kwargs, y)
        except NotFree as problem:
            self.found(str(problem), _multiplications(name, args, y))
            kind = REAL
        for target in targets:
            self._write(target, join(*before, *(kind if isinstance(kind, list) else [kind])))
        results = [tensor for tensor in tree_leaves(y) if isinstance(tensor, Tensor)]
        kinds = kind if isinstance(kind, list) else [kind] * len(results)
        self.kinds.update(zip(results, kinds, strict=True))
        return y

    def _write(self, target: Tensor, kind: Kind) -> None:
        """A tensor was changed in place, and with it every view of its memory."""
        base = target if target._base is None else target._base
        _, earlier = self.written.get(memory_of(target), (None, None))
        whole = self.operand(base) if earlier is None else earlier
        self.written[memory_of(target)] = (base, join(kind, whole))

    def found(self, why: str, multiplications: int) -> None:
        """Note a multiplication, unless the module is exempt."""
        if self.is_exempt:
            self.exempt_multiplications += multiplications
            return
        self.multiplications += multiplications
        self.findings.append(Finding(self.module, why))

    @property
    def is_exempt(self) -> bool:
        """Whether the module being called may multiply."""
        return self.module in (self.exempt or ())

    def kind(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], y: Any
    ) -> Kind | list[Kind]:
        """The kind of an operation's result, or of each of its results; counts what it does.

        Raises:
            NotFree: If it multiplies.
        """
        operation = meaning_of(name)
        if operation is None:
            raise NotFree(f"{name} of {self._described(args)}")
        if operation.name == "view" and y.dtype != args[0].dtype:
            raise NotFree("reads the bits of a number as another")
        if passes_on(operation):
            return self._passed_on(operation, args, kwargs, y)
        is_of_bits = operation.name.startswith("bitwise") and y.dtype is not torch.bool
        if operation.effect in (Effect.ORDERS, Effect.TESTS) and not is_of_bits:
            self.comparisons += y.numel()
            return SPIKE
        if is_weight_call(name):
            return self._weighted(name, args)
        rule: Callable[..., Kind | list[Kind]] | None = getattr(self, f"_{operation.name}", None)
        if rule is None:
            raise NotFree(REASONS.get(operation.name, f"{name} of {self._described(args)}"))
        return rule(args, kwargs, y)

    # --- One rule for each operation

    def _described(self, args: Any) -> str:
        return " and ".join(
            str(kind) for kind in map(self.operand, tree_leaves(args)) if isinstance(kind, Kind)
        )

    def _passed_on(
        self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], y: Any
    ) -> Kind | list[Kind]:
        values = [self.operand(value) for value in operation.chosen(args)]
        if operation.effect is Effect.PADS:
            values.append(args[2] if operation.name == "constant_pad_nd" and len(args) > 2 else 0)
        if operation.bounds is not None:
            stated = [x for x in (*args[1:], *kwargs.values()) if x is not None]
            values += stated or operation.bounds
        kind = join(*values)
        if isinstance(y, (tuple, list)) and operation.effect is Effect.SELECTS:
            # The second result is a position.
            return [kind, *(REAL for _ in y[1:])]
        return kind

    def _weighted(self, name: str, args: tuple[Any, ...]) -> Kind:
        x, weight = (self.operand(factor) for factor in weight_call(name, args))
        if not isinstance(x, Kind):
            x, weight = weight, x
        assert isinstance(x, Kind)
        self.inputs.setdefault(self.module, set()).add(x)
        if self.exempt is None:
            # The stem: the model's first weight layer, and only if it reads the sample.
            self.exempt = frozenset((self.module,)) if x.sample else frozenset()
        if isinstance(weight, Kind):
            raise NotFree(f"multiplies {x} by {weight} values")
        if not x.whole:
            what = "the sample" if x.sample else "real values"
            raise NotFree(f"its weights multiply {what}, not spikes or whole numbers")
        return REAL

    def _add(self, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor, sign: int = 1) -> Kind:
        self.additions += y.numel()
        a, b = (self.operand(x) for x in args[:2])
        return plus(
            a, times_constant(b, kwargs.get("alpha", args[2] if len(args) > 2 else 1)), sign
        )

    def _sub(self, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Kind:
        return self._add(args, kwargs, y, -1)

    def _rsub(self, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Kind:
        return self._add((args[1], args[0]), kwargs, y, -1)

    def _mul(self, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Kind:
        return times(*(self.operand(x) for x in args[:2]))

    def _div(self, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Kind:
        return over(*(self.operand(x) for x in args[:2]))

    def _neg(self, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Kind:
        return negative(self.operand(args[0]))

    def _abs(self, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Kind:
        value = self.operand(args[0])
        return join(value, negative(value))

    def _sum(self, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Kind:
        x = args[0]
        self.additions += x.numel() - y.numel()
        return many(join(self.operand(x)), x.numel() // max(y.numel(), 1))

    def _avg_pool2d(self, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Kind:
        if len(args) < 7 or args[6] != 1:
            raise NotFree(REASONS["avg_pool2d"])
        positions = math.prod(args[1]) if len(args[1]) > 1 else args[1][0] ** 2
        self.additions += y.numel() * (positions - 1)
        return many(join(self.operand(args[0]), 0), positions)

    def _scan(self, args: tuple[Any, ...], kwargs: dict[str, Any], y: list[Tensor]) -> list[Kind]:
        """A neuron of ours: its program, node by node."""
        text, steps, numbers, xs, _, ps = args
        program = Program.parse(text)
        inputs = [join(self.operand(x)) for x in xs]
        found, problems = program_kinds(program, inputs, parameters(program, numbers, ps))
        elements = steps * xs[0][0].numel() if steps else 0
        for number, value in found.items():
            name, *read = program.nodes[number]
            if name in ("add", "sub"):
                parts = [found[resolve(program.nodes, i)] for i in read]
                self.additions += elements * all(_varies(part) for part in parts)
            elif name in CONDITIONS and isinstance(value, Kind):
                self.comparisons += elements
        for problem in problems:
            self.found(f"the neuron {problem}", elements)
        outputs = [join(found[resolve(program.nodes, i)]) for i in program.outputs]
        return [*outputs, *(REAL for _ in y[len(outputs) :])]


def passes_on(operation: Operation) -> bool:
    """Whether a result holds values of the arguments, or limits of theirs, and no others.

    Args:
        operation: What is called.
    """
    return operation.effect in PASSING or operation.bounds is not None


def _effect(name: str) -> Effect | None:
    operation = meaning_of(name)
    return None if operation is None else operation.effect


def _revealed(name: str, func: Any, args: tuple[Any, ...]) -> str:
    """What an operation tells Python of the values that it reads; empty if it tells nothing."""
    if torch.Tag.data_dependent_output in func.tags:
        return READ
    is_masked = name == "index" and any(
        isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in tree_leaves(args[1])
    )
    return SHAPE if is_masked or torch.Tag.dynamic_output_shape in func.tags else ""


def _varies(value: Operand) -> bool:
    """Whether adding it takes an adder: not for a threshold, nor for a product with 0."""
    return isinstance(value, Kind) and (value.low, value.high) != (0, 0)


def times_constant(value: Operand, factor: Any) -> Operand:
    """A kind or constant times a plain number, usually 1."""
    if isinstance(factor, (int, float)) and factor == 1:
        return value
    return times(value, factor) if isinstance(value, Kind) else value * factor


def parameters(program: Program, numbers: list[float], ps: list[Tensor]) -> dict[str, Any]:
    """A program's parameters by name, as a call of ``spikeloom::scan`` holds them."""
    plain, tensors = iter(numbers), iter(ps)
    return {name: next(plain if kind == "number" else tensors) for name, kind in program.params}


def _multiplications(name: str, args: tuple[Any, ...], y: Any) -> int:
    """How many scalar products an operation takes."""
    out = sum(tensor.numel() for tensor in tree_leaves(y)[:1] if isinstance(tensor, Tensor))
    if name == "convolution":
        return out * math.prod(args[1].shape[1:])
    return out * weight_call(name, args)[0].shape[-1] if is_weight_call(name) else out
