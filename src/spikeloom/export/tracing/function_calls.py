"""What happens to signals between modules: the functions that are followed, and all others.

Every function of torch passes here. One that only moves values about is done to the labels too;
sums are sums of signals; anything else that touches a signal is an obstacle, by its name. So a
function is never taken for something harmless because of the sample's numbers or shapes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from spikeloom.export.tracing.positions import Moved, move
from spikeloom.export.tracing.record import REMEDY, Record, tensors_in
from spikeloom.export.tracing.signals import Signal
from spikeloom.observe import Effect, Operation, meaning_of
from spikeloom.observe.dialects import is_in_place, name_of

__all__ = ["Functions"]

# Done to the labels too; not by strides, as those of labels are others.
FOLLOWED = (Effect.MOVES, Effect.JOINS)
READOUTS = ("mean", "sum")

_CONVERT = "convert the model to spikes first, see spikeloom.convert"
_MODULE = "use the layer of torch.nn in its place"
REMEDIES: dict[Effect, str] = {
    Effect.WEIGHS: _MODULE,
    Effect.NORMALISES: _MODULE,
    Effect.DROPS: "use torch.nn.Dropout",
    Effect.ACTIVATES: _CONVERT,
    Effect.MULTIPLIES: "scale the weights",
}
PARTICULAR = {
    "einsum": "write it as permute and Linear",
    "data": "use detach()",
    "avg_pool2d": _MODULE,
}


class Functions(TorchFunctionMode):
    """Follows signals through every function of torch that is called while it is active.

    Args:
        record: Where it notes them.
    """

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = tensors_in((args, kwargs))
        if self.record.quiet or not self.record.followed(tensors):
            return func(*args, **kwargs)
        name, operation = name_of(func), meaning_of(func)
        self.record.check(tensors)
        # Before it runs: it may write into its own arguments.
        sums = operation is not None and operation.name in ("add", "setitem")
        constants = sums and len(args) > 1 and self._constants(args)
        result = func(*args, **kwargs)
        if name == "__iter__":
            func, name, result = torch.unbind, "unbind", tuple(result)
            self._follow(func, name, args, kwargs, result, constants)
            return iter(result)
        self._follow(func, name, args, kwargs, result, constants)
        return result

    def _constants(self, args: tuple[Any, ...]) -> bool:
        """Whether an operand is a number that does not descend from the input, and not 0."""
        first, last = args[0], args[-1]
        values = (last,) if len(args) == 3 else (first, last)
        others = [v for v in values if not (isinstance(v, Tensor) and v in self.record)]
        return any(bool((torch.as_tensor(other) != 0).any()) for other in others)

    def _follow(
        self,
        func: Any,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
        constants: bool,
    ) -> None:
        record, outputs = self.record, tensors_in(result)
        tensors = tensors_in((args, kwargs))
        operation = meaning_of(func)
        effect, plain = (operation.effect, operation.name) if operation else (None, name)
        if effect is Effect.DECIDES:
            record.decided[name] = None
        elif effect in (Effect.DESCRIBES, Effect.MAKES):
            return
        elif "out" in kwargs:
            self._refuse(name, tensors, [*outputs, *tensors_in(kwargs["out"])])
        elif name == "__setitem__":
            self._write(args, constants)
        elif not outputs or effect is Effect.LEAVES:
            self._leave(name, tensors)
        elif plain == "add" and not kwargs and len(args) == 2:
            self._add(name, tensors, outputs[0], constants)
        elif is_in_place(name) and name != plain:
            self._refuse(name, tensors, outputs)
        elif effect is Effect.KEEPS:
            self._stay(name, args[0], tensors, outputs[0])
        elif operation and effect in FOLLOWED and not operation.by_memory:
            self._move(func, operation, args, kwargs, outputs)
        elif not self._read_out(plain, args, kwargs, outputs[0]):
            self._refuse(name, tensors, outputs)

    def _refuse(self, name: str, tensors: list[Tensor], outputs: list[Tensor]) -> None:
        reason = f"the function {name} has no NIR counterpart"
        self.record.obstruct(name, tensors, outputs, reason, _remedy(name, REMEDY), False)

    def _leave(self, name: str, tensors: list[Tensor]) -> None:
        """Values that leave torch, or are replaced: what becomes of them cannot be seen."""
        reason = f"the function {name} takes values out of the signal, or puts others in"
        remedy = _remedy(name, "keep values in tensors, and remove hooks that read them")
        site = self.record.obstruct(name, tensors, [], reason, remedy, False)
        self.record.left[site.name] = None

    def _stay(self, name: str, x: Any, tensors: list[Tensor], y: Tensor) -> None:
        if not isinstance(x, Tensor) or x not in self.record:
            self._refuse(name, tensors, [y])
        elif _narrows(x, y):
            self.record.obstruct(name, tensors, [y], f"rounds to {y.dtype}", "keep it in float32")
        elif y is not x:
            self.record.put(y, self.record.of(x))

    # --- movements

    def _move(
        self, func: Any, operation: Operation, args: Any, kwargs: Any, outputs: list[Tensor]
    ) -> None:
        """Follow every element on its way."""
        name, tensors = name_of(func), tensors_in((args, kwargs))
        if operation.ignores and tensors[0] not in self.record:
            return  # numbers in the shape of a signal
        problem = self._unfollowed(name, operation, tensors, outputs)
        if problem:
            self.record.obstruct(name, tensors, outputs, problem)
            return
        args, kwargs = tree_map(self._lifted, (args, kwargs))
        for y, moved in zip(outputs, move(func, args, kwargs, name), strict=True):
            self._place(name, tensors, y, moved)

    def _unfollowed(
        self, name: str, operation: Operation, tensors: list[Tensor], outputs: list[Tensor]
    ) -> str:
        """Why the labels cannot follow a movement; empty if they can."""
        signals = [self.record.of(t) for t in self.record.followed(tensors)]
        first = next(iter(tensors))
        joins = operation.effect is Effect.JOINS
        if joins and len(signals) < len(tensors):
            return f"{name} joins different signals, or a signal and numbers"
        takes_one = not joins and not operation.ignores
        if takes_one and (first not in self.record or len(signals) > 1):
            return f"where {name} takes values from depends on a signal"
        if any(isinstance(s, Signal) and not s.starts for s in signals):
            return f"{name} moves feedback that has not begun"
        if any(isinstance(s, Signal) and s.readout for s in signals):
            return f"{name} follows a {max(s.readout for s in signals if isinstance(s, Signal))}"
        if any(self.record.is_state(s) for s in signals):
            return f"{name} moves a neuron's state"
        if not all(y.numel() for y in outputs):
            return f"{name} takes nothing of a signal"
        if any(y.dtype != first.dtype for y in outputs):
            return f"{name} reads the numbers as another type"
        return ""

    def _lifted(self, leaf: Any) -> Any:
        """What is known of a tensor, element by element."""
        known = isinstance(leaf, Tensor) and leaf in self.record
        return self.record.lifted(leaf) if known else leaf

    def _place(self, name: str, tensors: list[Tensor], y: Tensor, moved: Moved) -> None:
        """Note what a movement has made."""
        if not moved.terms:
            self.record.obstruct(name, tensors, [y], f"{name} leaves nothing of a signal")
            return
        settled = self.record.settled(moved)
        flat = self.record.flattened(moved) if isinstance(settled, Moved) else None
        self.record.put(y, flat or settled)

    def _write(self, args: tuple[Any, ...], constants: bool) -> None:
        """A part of a tensor is replaced by a signal, or by zeros."""
        record = self.record
        into, index, value = args
        tensors = tensors_in(args)
        if record.followed(tensors_in(index)) or constants:
            reason = "writes other numbers than a signal's into a part of a tensor"
            record.obstruct("__setitem__", tensors, [into], reason, derived=False)
            return
        if into in record:
            known = record.draft_of(into)
            before: Any = known if isinstance(known, Moved) else record.lifted(into)
        else:
            before = torch.full(into.shape, -1)
        after = self._lifted(value) if isinstance(value, Tensor) and value in record else -1
        (moved,) = move(_written, (before, index, after), {}, "__setitem__")
        self._place("__setitem__", tensors, into, replace(moved, by="__setitem__"))

    # --- sums

    def _add(self, name: str, tensors: list[Tensor], y: Tensor, constants: bool) -> None:
        record = self.record
        operands = record.followed(tensors)
        signals = [record.of(t) for t in operands]
        shapes = {tuple(t.shape) for t in (*operands, y)}
        plain = [s for s in signals if isinstance(s, Signal)]
        problem, remedy = "", REMEDY
        if constants:
            problem, remedy = "adds a constant", "put it into a bias"
        elif len(shapes) > 1:
            problem = "adds signals of different shapes"
        elif any(s.readout or not s.starts or record.is_state(s) for s in plain):
            problem = "adds signals of different kinds"
        elif len(plain) == 2 and plain[0].sources & plain[1].sources:
            problem, remedy = "adds a signal to itself", "double the weights"
        elif len({s.shape for s in plain}) > 1:
            problem = "adds signals of different kinds"
        if problem:
            record.obstruct(name, operands, [y], problem, remedy)
        elif len(plain) == len(signals):
            starts = {source: start for s in plain for source, start in s.starts}
            record.put(y, Signal(tuple(sorted(starts.items())), plain[0].shape))
        else:
            record.put(y, record.sum_of(operands))

    def _read_out(self, name: str, args: tuple[Any, ...], kwargs: Any, y: Tensor) -> bool:
        """Note a sum or mean over time; it may only be the very last operation."""
        x, *dims = args
        dims = dims or [kwargs.get("dim")]
        if name not in READOUTS or dims not in ([0], [(0,)], [[0]]) or len(kwargs) > 1:
            return False
        if not isinstance(x, Tensor) or x not in self.record:
            return False
        self.record.settle(x, 2)
        signal = self.record.of(x)
        if signal.readout or self.record.rank(x) != 2 or len(x) != self.record.T:
            return False
        reduced = Signal(signal.starts, signal.shape, f"{name} over time", x.detach())
        self.record.put(y, reduced)
        return True


def _written(into: Tensor, index: Any, value: Any) -> Tensor:
    after = into.clone()
    after[index] = value
    return after


def _narrows(x: Tensor, y: Tensor) -> bool:
    """Whether a tensor's type holds fewer numbers than float32 and another's."""
    return y.dtype not in (x.dtype, torch.float32, torch.float64)


def _remedy(name: str, otherwise: str) -> str:
    operation = meaning_of(name)
    if operation is None:
        return otherwise
    return PARTICULAR.get(operation.name) or REMEDIES.get(operation.effect, otherwise)
