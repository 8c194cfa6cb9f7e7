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

from spikeloom.export.observation.flow import Signal
from spikeloom.export.observation.labels import Moved, move
from spikeloom.export.observation.ledger import REMEDY, Ledger, tensors_in

__all__ = ["Functions"]

# Functions that leave every value where it is.
STILL = frozenset((
    "clone", "contiguous", "cpu", "cuda", "detach", "double", "float", "requires_grad_", "to",
    "type_as",
))  # fmt: skip
# Functions that put several tensors together.
JOINS = frozenset((
    "cat", "column_stack", "concat", "concatenate", "dstack", "hstack", "stack", "vstack",
))  # fmt: skip
# Functions whose second tensor is only a pattern.
LIKE = frozenset(("expand_as", "reshape_as", "view_as"))
# Functions that pick, repeat or rearrange values, and change none.
MOVES = LIKE.union(JOINS, (
    "T", "__getitem__", "broadcast_to", "chunk", "expand", "flatten", "flip", "fliplr", "flipud",
    "gather", "hsplit", "index_select", "mT", "moveaxis", "movedim", "narrow", "permute", "ravel",
    "repeat", "repeat_interleave", "reshape", "roll", "rot90", "select", "split", "squeeze",
    "swapaxes", "swapdims", "t", "take_along_dim", "tensor_split", "tile", "transpose", "unbind",
    "unflatten", "unsqueeze", "view", "vsplit",
))  # fmt: skip
ADDS = frozenset(("add", "__add__", "__radd__", "__iadd__", "add_"))
READOUTS = frozenset(("mean", "sum"))
# Functions whose result does not depend on the values of their argument.
BLANKS = frozenset(
    f"{prefix}{name}{suffix}"
    for prefix, suffix in (("", "_like"), ("new_", ""))
    for name in ("zeros", "ones", "empty", "full", "rand", "randn")
)
# Questions about a tensor, not about its values.
QUERIES = frozenset((
    "__dir__", "__format__", "__hash__", "__len__", "__repr__", "_version", "device", "dim",
    "dtype", "element_size", "get_device", "grad", "grad_fn", "itemsize", "layout", "names",
    "nbytes", "ndim", "ndimension", "nelement", "numel", "output_nr", "requires_grad",
    "retains_grad", "shape", "size", "storage_offset", "stride",
))  # fmt: skip
# Memory that is changed without a trace.
LEAVES = frozenset(("data",))
# Looking at values: what follows may depend on them.
DECIDES = frozenset(("__bool__", "__contains__", "allclose", "equal", "is_nonzero"))

_CONVERT = "convert the model to spikes first, see spikeloom.convert"
_MODULE = "use the layer of torch.nn in its place"
REMEDIES = {
    "einsum": "write it as permute and Linear",
    "data": "use detach()",
    "dropout": "use torch.nn.Dropout",
    **dict.fromkeys(("linear", "conv1d", "conv2d", "avg_pool2d", "batch_norm"), _MODULE),
    **dict.fromkeys(("relu", "gelu", "silu", "sigmoid", "tanh", "softmax"), _CONVERT),
    **dict.fromkeys(("mul", "__mul__", "__rmul__", "div", "__truediv__"), "scale the weights"),
}


class Functions(TorchFunctionMode):
    """Follows signals through every function of torch that is called while it is active.

    Args:
        ledger: Where it notes them.
    """

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = tensors_in((args, kwargs))
        if self.ledger.quiet or not self.ledger.followed(tensors):
            return func(*args, **kwargs)
        name = _name_of(func)
        self.ledger.check(tensors)
        # Before it runs: it may write into its own arguments.
        sums = name in ADDS or name == "__setitem__"
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
        others = [v for v in values if not (isinstance(v, Tensor) and v in self.ledger)]
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
        ledger, outputs = self.ledger, tensors_in(result)
        tensors = tensors_in((args, kwargs))
        if name in DECIDES:
            ledger.decided[name] = None
        elif name in QUERIES or name in BLANKS or (name.startswith("is_") and not outputs):
            return
        elif "out" in kwargs:
            self._refuse(name, tensors, [*outputs, *tensors_in(kwargs["out"])])
        elif name == "__setitem__":
            self._write(args, constants)
        elif not outputs or name in LEAVES:
            self._leave(name, tensors)
        elif name in STILL:
            self._stay(name, args[0], tensors, outputs[0])
        elif name in MOVES:
            self._move(func, name, args, kwargs, outputs)
        elif name in ADDS and not kwargs and len(args) == 2:
            self._add(name, tensors, outputs[0], constants)
        elif not self._read_out(name, args, kwargs, outputs[0]):
            self._refuse(name, tensors, outputs)

    def _refuse(self, name: str, tensors: list[Tensor], outputs: list[Tensor]) -> None:
        reason = f"the function {name} has no NIR counterpart"
        self.ledger.obstruct(name, tensors, outputs, reason, REMEDIES.get(name, REMEDY), False)

    def _leave(self, name: str, tensors: list[Tensor]) -> None:
        """Values that leave torch, or are replaced: what becomes of them cannot be seen."""
        reason = f"the function {name} takes values out of the signal, or puts others in"
        remedy = REMEDIES.get(name, "keep values in tensors, and remove hooks that read them")
        site = self.ledger.obstruct(name, tensors, [], reason, remedy, False)
        self.ledger.left[site.name] = None

    def _stay(self, name: str, x: Any, tensors: list[Tensor], y: Tensor) -> None:
        if not isinstance(x, Tensor) or x not in self.ledger:
            self._refuse(name, tensors, [y])
        elif _narrows(x, y):
            self.ledger.obstruct(name, tensors, [y], f"rounds to {y.dtype}", "keep it in float32")
        elif y is not x:
            self.ledger.put(y, self.ledger.of(x))

    # --- movements

    def _move(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: Any, outputs: list[Tensor]
    ) -> None:
        """Follow every element on its way."""
        tensors = tensors_in((args, kwargs))
        if name in LIKE and tensors[0] not in self.ledger:
            return  # numbers in the shape of a signal
        problem = self._unfollowed(name, args, kwargs, outputs)
        if problem:
            self.ledger.obstruct(name, tensors, outputs, problem)
            return
        args, kwargs = tree_map(self._lifted, (args, kwargs))
        for y, moved in zip(outputs, move(func, args, kwargs, name), strict=True):
            self._place(name, tensors, y, moved)

    def _unfollowed(self, name: str, args: Any, kwargs: Any, outputs: list[Tensor]) -> str:
        """Why the labels cannot follow a movement; empty if they can."""
        tensors = tensors_in((args, kwargs))
        signals = [self.ledger.of(t) for t in self.ledger.followed(tensors)]
        first = next(iter(tensors))
        if name in JOINS and len(signals) < len(tensors):
            return f"{name} joins different signals, or a signal and numbers"
        if name not in JOINS | LIKE and (first not in self.ledger or len(signals) > 1):
            return f"where {name} takes values from depends on a signal"
        if any(isinstance(s, Signal) and not s.starts for s in signals):
            return f"{name} moves feedback that has not begun"
        if any(isinstance(s, Signal) and s.readout for s in signals):
            return f"{name} follows a {max(s.readout for s in signals if isinstance(s, Signal))}"
        if any(self.ledger.is_state(s) for s in signals):
            return f"{name} moves a neuron's state"
        if not all(y.numel() for y in outputs):
            return f"{name} takes nothing of a signal"
        if any(y.dtype != first.dtype for y in outputs):
            return f"{name} reads the numbers as another type"
        return ""

    def _lifted(self, leaf: Any) -> Any:
        """What is known of a tensor, element by element."""
        known = isinstance(leaf, Tensor) and leaf in self.ledger
        return self.ledger.lifted(leaf) if known else leaf

    def _place(self, name: str, tensors: list[Tensor], y: Tensor, moved: Moved) -> None:
        """Note what a movement has made."""
        if not moved.terms:
            self.ledger.obstruct(name, tensors, [y], f"{name} leaves nothing of a signal")
            return
        settled = self.ledger.settled(moved)
        flat = self.ledger.flattened(moved) if isinstance(settled, Moved) else None
        self.ledger.put(y, flat or settled)

    def _write(self, args: tuple[Any, ...], constants: bool) -> None:
        """A part of a tensor is replaced by a signal, or by zeros."""
        ledger = self.ledger
        into, index, value = args
        tensors = tensors_in(args)
        if ledger.followed(tensors_in(index)) or constants:
            reason = "writes other numbers than a signal's into a part of a tensor"
            ledger.obstruct("__setitem__", tensors, [into], reason, derived=False)
            return
        if into in ledger:
            known = ledger.draft_of(into)
            before: Any = known if isinstance(known, Moved) else ledger.lifted(into)
        else:
            before = torch.full(into.shape, -1)
        after = self._lifted(value) if isinstance(value, Tensor) and value in ledger else -1
        (moved,) = move(_written, (before, index, after), {}, "__setitem__")
        self._place("__setitem__", tensors, into, replace(moved, by="__setitem__"))

    # --- sums

    def _add(self, name: str, tensors: list[Tensor], y: Tensor, constants: bool) -> None:
        ledger = self.ledger
        operands = ledger.followed(tensors)
        signals = [ledger.of(t) for t in operands]
        shapes = {tuple(t.shape) for t in (*operands, y)}
        plain = [s for s in signals if isinstance(s, Signal)]
        problem, remedy = "", REMEDY
        if constants:
            problem, remedy = "adds a constant", "put it into a bias"
        elif len(shapes) > 1:
            problem = "adds signals of different shapes"
        elif any(s.readout or not s.starts or ledger.is_state(s) for s in plain):
            problem = "adds signals of different kinds"
        elif len(plain) == 2 and plain[0].sources & plain[1].sources:
            problem, remedy = "adds a signal to itself", "double the weights"
        elif len({s.shape for s in plain}) > 1:
            problem = "adds signals of different kinds"
        if problem:
            ledger.obstruct(name, operands, [y], problem, remedy)
        elif len(plain) == len(signals):
            starts = {source: start for s in plain for source, start in s.starts}
            ledger.put(y, Signal(tuple(sorted(starts.items())), plain[0].shape))
        else:
            ledger.put(y, ledger.sum_of(operands))

    def _read_out(self, name: str, args: tuple[Any, ...], kwargs: Any, y: Tensor) -> bool:
        """Note a sum or mean over time; it may only be the very last operation."""
        x, *dims = args
        dims = dims or [kwargs.get("dim")]
        if name not in READOUTS or dims not in ([0], [(0,)], [[0]]) or len(kwargs) > 1:
            return False
        if not isinstance(x, Tensor) or x not in self.ledger:
            return False
        self.ledger.settle(x, 2)
        signal = self.ledger.of(x)
        if signal.readout or self.ledger.rank(x) != 2 or len(x) != self.ledger.T:
            return False
        reduced = Signal(signal.starts, signal.shape, f"{name} over time", x.detach())
        self.ledger.put(y, reduced)
        return True


def _written(into: Tensor, index: Any, value: Any) -> Tensor:
    after = into.clone()
    after[index] = value
    return after


def _narrows(x: Tensor, y: Tensor) -> bool:
    """Whether a tensor's type holds fewer numbers than float32 and another's."""
    return y.dtype not in (x.dtype, torch.float32, torch.float64)


def _name_of(func: Any) -> str:
    name = getattr(func, "__name__", str(func))
    # A property such as `.data` arrives as the __get__ of its descriptor.
    return getattr(func.__self__, "__name__", name) if name == "__get__" else name
