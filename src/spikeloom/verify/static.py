"""The first proof: value kinds along every edge of a model, whatever the data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from spikeloom.kernel.graph import CONDITIONS, resolve
from spikeloom.kernel.trace import Program
from spikeloom.modules import registered
from spikeloom.observe import Effect, Operation
from spikeloom.observe.dialects import by_name
from spikeloom.observe.domain import PASSING, Domain
from spikeloom.observe.run import Call
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
from spikeloom.verify.sealed import Sealed, within
from spikeloom.verify.sealed_run import SealedRun

__all__ = ["Finding", "KindTrace", "passes_on"]


class Finding(NamedTuple):
    """One thing that is not free of multiplications."""

    module: str
    why: str


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


class KindTrace(SealedRun, Domain[Kind]):
    """Runs a model densely and follows what each tensor may hold.

    Tensors that do not depend on the sample are constants; only their values are ever read. As
    values leave torch by its operations alone (:mod:`spikeloom.verify.sealed`), so are tensors of
    unknown origin.

    Args:
        exempt: Modules whose multiplications are allowed; None exempts the stem alone, the first
            weight layer, if it reads the sample.

    Attributes:
        stem: The module that computes the stem; None if there is none, or ``exempt`` is given.
        dense: The products that another run may compute as they are, by their numbers: the stem's,
            and those of constants.
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
        self.exempt = exempt or frozenset()
        self.stem: str | None = None
        self.dense: set[int] = set()
        self._seeks_stem = exempt is None
        self._stem_weight: Any = None
        self.findings: list[Finding] = []
        self.inputs: dict[str, set[Kind]] = {}
        self.additions = self.comparisons = self.multiplications = 0
        self.exempt_multiplications = 0
        self.readers: dict[str, None] = {}

    def start(self, inputs: list[Tensor]) -> None:
        """Declare the sample's tensors real."""
        for tensor in inputs:
            self.labels.make(tensor, SAMPLE)

    def join(self, *values: Any) -> Kind:
        """A kind that holds all of these."""
        return join(*values)

    def compute(self, call: Call, constant: bool = False) -> Any:
        """Run an operation; what memory held before must not be taken for values of the model."""
        if constant and call.effect is Effect.WEIGHS:
            self.dense.add(self.products)
        y = super().compute(call, constant)
        return y.zero_() if call.effect is Effect.MAKES and "empty" in call.name else y

    def label(self, call: Call) -> Kind | list[Kind]:
        """The kind of what an operation has made; notes a multiplication."""
        try:
            if revealed := _revealed(call):
                self.readers[call.module] = None
                raise NotFree(revealed)
            if any(map(_is_complex, tree_leaves((call.args, call.kwargs, call.result)))):
                raise NotFree(f"computes with complex values ({call.name})")
            return super().label(call)
        except NotFree as problem:
            self.found(str(problem), _multiplications(call))
            return REAL

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
        return self.module in self.exempt

    # --- One rule for each effect; those that find a multiplication raise NotFree

    def passes(self, call: Call) -> Kind:
        """The values stay what they are; those beside them are a constant."""
        operation: Any = call.operation
        values = self._operands(operation.chosen(call.args))
        if operation.effect is Effect.PADS:
            values.append(by_name(call.function, call.args, call.kwargs).get("value", 0))
        return join(*values)

    def places(self, call: Call) -> Kind:
        """The values of the target, and what is written among them."""
        operation: Any = call.operation
        named = by_name(call.function, call.args, call.kwargs)
        if operation.name in ("zero", "fill"):  # the whole of the target
            return join(self.labels.of(named.get("value", 0)))
        if "reduce" in named:
            raise NotFree(f"{self._reason(call)} (reduce={named['reduce']!r})")
        target, values = self._operands(operation.chosen(call.args))
        if named.get("accumulate"):
            return self._added(call, target, values, named["values"].numel())
        return join(target, values)

    def _added(self, call: Call, target: Operand, values: Operand, times: int) -> Kind:
        """Sums of a value of the target and up to so many others."""
        self.additions += call.result.numel()
        return plus(target, many(join(values, 0), times))

    def selects(self, call: Call) -> Kind | list[Kind]:
        """One of the values; where it was is no value of theirs."""
        operation: Any = call.operation
        kind, results = self.passes(call), call.result
        if not isinstance(results, (tuple, list)):
            return kind
        return [REAL if i in operation.positions else kind for i in range(len(results))]

    def activates(self, call: Call) -> Kind | list[Kind]:
        """A choice between the value and limits."""
        operation: Any = call.operation
        if operation.bounds is None:
            return self.otherwise(call)
        stated = [x for x in (*call.args[1:], *call.kwargs.values()) if x is not None]
        return join(self.passes(call), *(stated or operation.bounds))

    def rounds(self, call: Call) -> Kind:
        """A cast leaves whole numbers what they are."""
        if call.name == "_to_copy":
            return self.passes(call)
        raise NotFree(self._reason(call))

    def orders(self, call: Call) -> Kind:
        """A condition."""
        self.comparisons += call.result.numel()
        return SPIKE

    tests = orders

    def averages(self, call: Call) -> Kind:
        """A division by the number of values."""
        raise NotFree(self._reason(call))

    def makes(self, call: Call) -> Kind:
        """Constants written over values; made of values, a tensor is a function of them."""
        if any(leaf in self.labels for leaf in self.read(call)):
            raise NotFree(self._reason(call))
        return join(*(leaf for leaf in tree_leaves(call.result) if isinstance(leaf, Tensor)))

    def bits(self, call: Call) -> Kind:
        """Arithmetic of another kind."""
        raise NotFree(self._reason(call))

    def weighs(self, call: Call) -> Kind:
        """A weight layer, or another product of matrices."""
        x, weight = map(self.labels.of, call.factors)
        if not isinstance(x, Kind):
            x, weight = weight, x
        if not isinstance(x, Kind):
            return self._beside_constants(call)
        self.inputs.setdefault(call.module, set()).add(x)
        if self._is_stem(x, weight):
            self.dense.add(self.products)
            self.exempt_multiplications += _multiplications(call)
            return REAL
        if isinstance(weight, Kind):
            raise NotFree(f"multiplies {x} by {weight} values")
        if not x.whole:
            what = "the sample" if x.sample else "real values"
            raise NotFree(f"its weights multiply {what}, not spikes or whole numbers")
        return REAL

    def _is_stem(self, x: Kind, weight: Operand) -> bool:
        """Whether it multiplies the sample by the weight of the first weight layer that runs."""
        if self._seeks_stem:
            self._seeks_stem = False
            if x.sample and not isinstance(weight, Kind):
                self.stem, self._stem_weight = self.module, weight
        if self.stem != self.module or not x.sample or not isinstance(weight, Tensor):
            return False
        # A weight may be computed anew in each call.
        return torch.equal(within(weight), within(self._stem_weight))

    def _beside_constants(self, call: Call) -> Kind:
        """The product of two constants, with something added that is none."""
        self.dense.add(self.products)
        self.additions += call.result.numel()
        operation: Any = call.operation
        beta = by_name(call.function, call.args, call.kwargs).get("beta", 1)
        (addend,) = self._operands(operation.chosen(call.args))
        return plus(times_constant(addend, beta), REAL)

    def otherwise(self, call: Call) -> Kind | list[Kind]:
        """What has a rule of its own, beneath; anything else multiplies."""
        operation = call.operation
        rule = None if operation is None else getattr(self, f"_{operation.name}", None)
        if rule is None:
            raise NotFree(self._reason(call))
        found: Kind | list[Kind] = rule(call)
        return found

    def _operands(self, values: Iterable[Any]) -> list[Operand]:
        return [self.labels.of(value) for value in values]

    def _reason(self, call: Call) -> str:
        kinds = self._operands(tree_leaves(call.args))
        of = " and ".join(str(kind) for kind in kinds if isinstance(kind, Kind))
        return REASONS.get(
            "" if call.operation is None else call.operation.name, f"{call.name} of {of}"
        )

    # --- Rules for single operations

    def _add(self, call: Call) -> Kind:
        return self._plus(call, call.args[0], call.args[1])

    def _sub(self, call: Call) -> Kind:
        return self._plus(call, call.args[0], call.args[1], sign=-1)

    def _rsub(self, call: Call) -> Kind:
        return self._plus(call, call.args[1], call.args[0], sign=-1)

    def _plus(self, call: Call, a: Any, b: Any, sign: int = 1) -> Kind:
        self.additions += call.result.numel()
        alpha = by_name(call.function, call.args, call.kwargs).get("alpha", 1)
        first, second = self._operands((a, b))
        return plus(first, times_constant(second, alpha), sign)

    def _mul(self, call: Call) -> Kind:
        return times(*self._operands(call.args[:2]))

    def _div(self, call: Call) -> Kind:
        return over(*self._operands(call.args[:2]))

    def _neg(self, call: Call) -> Kind:
        return negative(self.labels.of(call.args[0]))

    def _abs(self, call: Call) -> Kind:
        value = self.labels.of(call.args[0])
        return join(value, negative(value))

    def _sum(self, call: Call) -> Kind:
        x, y = call.args[0], call.result
        self.additions += x.numel() - y.numel()
        return many(join(self.labels.of(x)), x.numel() // max(y.numel(), 1))

    def _cumsum(self, call: Call) -> Kind:
        x = call.args[0]
        self.additions += x.numel()
        steps = x.shape[call.args[1]] if x.dim() else 1
        return many(join(self.labels.of(x)), steps)

    def _index_add(self, call: Call) -> Kind:
        target, dim, _, values = call.args
        alpha = by_name(call.function, call.args, call.kwargs).get("alpha", 1)
        scaled = times_constant(self.labels.of(values), alpha)
        count = values.shape[dim] if values.dim() else 1
        return self._added(call, self.labels.of(target), scaled, count)

    _scatter_add = _index_add

    def _avg_pool2d(self, call: Call) -> Kind:
        x, size = call.args[:2]
        positions = math.prod(size) if len(size) > 1 else size[0] ** 2
        self.additions += call.result.numel() * (positions - 1)
        return many(join(self.labels.of(x), 0), positions)

    def _scan(self, call: Call) -> list[Kind]:
        """A neuron of ours: its program, node by node."""
        text, steps, numbers, xs, vs, ps = call.args
        self._check_rest(vs)
        program = Program.parse(text)
        inputs = [join(kind) for kind in self._operands(xs)]
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
        return [*outputs, *(REAL for _ in call.result[len(outputs) :])]

    def _check_rest(self, states: Iterable[Tensor]) -> None:
        """Refuse a neuron that goes on from a state that cannot be reset."""
        name, module = self.stack[-1] if self.stack else ("", None)
        kind = type(module).__name__
        if registered(type(module)) is None and any(map(_is_left_over, states)):
            raise ValueError(
                f"model: {name!r} ({kind}) begins from a tensor that it had before; if that is the "
                f"state of an earlier call, say how it is reset: "
                f"spikeloom.modules.register({kind}, Conventions(reset='name of its method')); "
                f"otherwise register it as a buffer"
            )


def passes_on(operation: Operation) -> bool:
    """Whether a result holds values of the arguments, or limits of theirs, and no others.

    Args:
        operation: What is called.
    """
    passed = operation.effect in PASSING or operation.effect is Effect.SELECTS
    return passed or operation.bounds is not None


def _revealed(call: Call) -> str:
    """What an operation tells Python of the values that it reads; empty if it tells nothing."""
    tags = call.function.tags
    if torch.Tag.data_dependent_output in tags:
        return READ
    is_masked = call.name == "index" and any(
        isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)
        for i in tree_leaves(call.args[1])
    )
    return SHAPE if is_masked or torch.Tag.dynamic_output_shape in tags else ""


def _is_complex(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_complex()


def _is_left_over(tensor: Tensor) -> bool:
    """Whether a tensor was there before the run, and is no parameter; buffers are sealed."""
    base = tensor if tensor._base is None else tensor._base
    return not isinstance(tensor, Sealed) and not isinstance(base, nn.Parameter)


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


def _multiplications(call: Call) -> int:
    """How many scalar products an operation takes."""
    results = tree_leaves(call.result)[:1]
    out = sum(tensor.numel() for tensor in results if isinstance(tensor, Tensor))
    if call.name == "convolution":
        return out * math.prod(call.args[1].shape[1:])
    return out * call.factors[0].shape[-1] if call.effect is Effect.WEIGHS else out
