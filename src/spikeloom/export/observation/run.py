"""How signals flow through a model, found by running it once.

Symbolic tracing, on which nirtorch's exporter builds, unrolls time loops into wrong graphs and
stops at the first ``if``. So the model runs on a sample while every tensor that descends from the
input carries the names of the modules it comes from. Modules that NIR may know are leaves; what
happens between them must move values without changing them (indexing time, stacking, reshaping)
or add signals. Everything else is remembered as an obstacle, and matters if the output needs it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from spikeloom.export.modules import describes, is_leaf, over_time, passes_on, takes_steps
from spikeloom.export.moves import (
    Mixed,
    Moved,
    Term,
    Wire,
    join,
    labels_after,
    lift,
    move,
    row_axes,
    rows_of,
    unmoved,
)
from spikeloom.export.weights import Refused, layer_key, require_counterpart

__all__ = ["CONSEQUENCE", "FOLD", "INPUT", "Observation", "Site", "observe"]

INPUT = "the model's input"

# Functions that move values about and change none, and those that take another tensor as a pattern.
LIKE = frozenset(("view_as", "reshape_as", "type_as", "expand_as"))
STILL = frozenset(
    ("contiguous", "clone", "detach", "data", "to", "cpu", "float", "double", "requires_grad_")
)
PICKS = frozenset(("__getitem__", "select", "unbind", "split", "chunk", "narrow"))
MOVES = LIKE.union(
    STILL,
    PICKS,
    ("stack", "cat", "unsqueeze", "squeeze", "reshape", "view", "flatten", "unflatten", "expand"),
)
FLATTENS = frozenset(("flatten", "reshape", "view"))
AXES = frozenset(
    ("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "T", "mT")
)
ADDS = frozenset(("add", "__add__", "__radd__", "__iadd__", "add_"))
# Functions whose result does not depend on the values of their argument.
BLANKS = frozenset(
    f"{prefix}{name}{suffix}"
    for prefix, suffix in (("", "_like"), ("new_", ""))
    for name in ("zeros", "ones", "empty", "full", "rand", "randn")
)
READOUTS = frozenset(("mean", "sum"))
REMEDY = "write it with modules that NIR knows"
FOLD = "fold the norms into the weights first: spikeloom.verify.fold_norms(model)"
_CONVERT = "convert the model to spikes first, see spikeloom.convert"
REMEDIES = {
    "einsum": "write it as permute and Linear",
    **dict.fromkeys(("relu", "gelu", "silu", "sigmoid", "tanh", "softmax"), _CONVERT),
    **dict.fromkeys(("mul", "__mul__", "__rmul__", "div", "__truediv__"), "scale the weights"),
}


@dataclass(frozen=True)
class Signal:
    """What a tensor carries.

    Attributes:
        sources: The sites whose outputs it is the sum of.
        shape: Its shape for one sample at one step.
        readout: How it was reduced over time, if it was.
        spikes: The tensor before that reduction.
    """

    sources: frozenset[str]
    shape: tuple[int, ...]
    readout: str = ""
    spikes: Tensor | None = None


@dataclass
class Site:
    """A module, or an operation between modules, through which signals pass.

    Attributes:
        name: The module's name in the model; operations are named after where they stand.
        kind: The class's or the function's name.
        module: None for an operation.
        owner: Name and class of the user's module that it is, or that it stands in.
        shape_in: Shape of its input for one sample at one step.
        shape_out: Shape of its output.
        sources: The sites whose outputs it sums.
        wires: How their features reach the rows that it acts on, if they were moved on the way.
        steps: How many time steps it has seen.
        inputs: Its inputs, call by call; kept for neurons only.
        outputs: Its outputs, likewise.
        obstacle: Why it cannot be exported, empty if it may be.
        remedy: What to do about it.
        derived: Whether an obstacle before it may be the cause.
        note: What the report should say about it.
        map: Its natural shape, where the signal was made flat for NIR.
    """

    name: str
    kind: str
    module: nn.Module | None
    owner: tuple[str, str]
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]
    sources: set[str] = field(default_factory=set)
    wires: tuple[Wire, ...] = ()
    steps: int = 0
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    obstacle: str = ""
    remedy: str = ""
    derived: bool = True
    note: str = ""
    map: tuple[int, ...] = ()

    def block(self, obstacle: str, remedy: str, derived: bool = True) -> None:
        """Note the first reason why this site cannot be exported."""
        if not self.obstacle:
            self.obstacle, self.remedy, self.derived = obstacle, remedy, derived


@dataclass
class Observation:
    """The sites that the output depends on, in the order in which they first ran.

    Attributes:
        sites: By name.
        output: The sites whose outputs sum to the model's output.
        spikes: The model's output ``[T, batch, *]``, before any reduction over time.
        lead: T and the batch size.
        notes: What the export leaves out.
    """

    sites: dict[str, Site]
    output: tuple[str, ...]
    spikes: Tensor
    lead: tuple[int, int]
    notes: list[str]


class _StepByStep(Exception):
    """The model takes one step at each call."""


class _Observer(TorchFunctionMode):
    def __init__(self, T: int, B: int, stepwise: bool) -> None:
        super().__init__()
        self.T, self.B, self.stepwise = T, B, stepwise
        self.signals = WeakTensorKeyDictionary()
        self.sites: dict[str, Site] = {}
        self.root = ("", "")
        self.passing: dict[str, None] = {}
        self.path: list[tuple[str, str]] = []
        self.inside_leaf = False

    # --- modules ------------------------------------------------------------------------------

    def attach(self, model: nn.Module) -> None:
        """Let every leaf, and every module around leaves, report its calls."""
        known: set[int] = set()
        self.root = (type(model).__name__,) * 2
        for name, module in model.named_modules():
            if id(module) in known:
                continue
            known.add(id(module))
            leaf = is_leaf(module)
            if leaf:
                known.update(map(id, module.modules()))
            name = name or type(module).__name__
            if not leaf:
                report = functools.partial(self._container, (name, type(module).__name__))
                self._wrap(module, "forward", report)
                continue
            steps = takes_steps(module)
            self._wrap(module, "forward", functools.partial(self._leaf, name, module, steps))
            if over_time(module) is not module:
                self._wrap(module, "sequence", functools.partial(self._leaf, name, module, False))

    def _wrap(self, module: nn.Module, method: str, report: Callable[..., Any]) -> None:
        original = getattr(module, method)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self.inside_leaf:
                return original(*args, **kwargs)
            return report(original, args, kwargs)

        setattr(module, method, wrapped)

    def _container(self, owner: tuple[str, str], original: Any, args: Any, kwargs: Any) -> Any:
        self.path.append(owner)
        try:
            return original(*args, **kwargs)
        finally:
            self.path.pop()

    def _leaf(
        self,
        name: str,
        module: nn.Module,
        steps: bool | None,
        original: Any,
        args: Any,
        kwargs: Any,
    ) -> Any:
        tensors = self._tensors((args, kwargs))
        own_state = frozenset((_state_of(name),))
        signals = [t for t in tensors if t in self.signals and self._of(t).sources != own_state]
        if not signals and tensors and not bool(tensors[0].any()):
            # Feedback that has not begun: zeros stand for a signal that is yet to come.
            self.signals[tensors[0]] = Signal(frozenset(), tuple(tensors[0].shape[1:]))
            signals = tensors[:1]
        moved = self._of(signals[0]) if signals else None
        if isinstance(moved, Signal):
            if steps and not self.stepwise and self._rank(signals[0]) == 2:
                raise _StepByStep
            if len(moved.shape) > 1 and layer_key(module) == "Linear":  # mixes one axis of many
                moved = self._lifted(signals[0], "the layer")
        self.inside_leaf = True
        try:
            result = original(*args, **kwargs)
        finally:
            self.inside_leaf = False
        outputs = self._tensors(result)
        if isinstance(moved, Moved) and len(signals) == 1 and outputs:
            self._record_moved(name, module, steps, signals[0], moved, outputs)
        elif outputs:
            self._record_call(name, module, steps, signals, outputs)
        return result

    def _record_call(
        self,
        name: str,
        module: nn.Module,
        steps: bool | None,
        inputs: list[Tensor],
        outputs: list[Tensor],
    ) -> None:
        x, y = (inputs or outputs)[0], outputs[0]
        signal = self._of(x) if inputs else Signal(frozenset(), tuple(y.shape[1:]))
        rank = x.dim() - len(signal.shape)
        shape = tuple(y.shape[rank:])
        site = self.sites.get(name)
        if site is None:
            kind = type(module).__name__
            site = Site(name, kind, module, (name, kind), signal.shape, shape)
            self.sites[name] = site
        if len(inputs) != 1:
            site.block(
                f"takes {len(inputs)} signals that come from the model's input",
                "a NIR node has one input, which sums its sources",
            )
        elif y.shape[:rank] != x.shape[:rank]:
            site.block(
                f"changes the time or batch axis, {list(x.shape)} -> {list(y.shape)}",
                "keep [T, batch] or [batch] in front",
            )
        elif steps is False and rank == 1:
            site.block("is time first and received a single step", "feed it [T, batch, *]")
        if (site.shape_in, site.shape_out) != (signal.shape, shape) or site.wires:
            site.block("sees inputs of different shapes", "use one module for each place")
        if signal.readout:
            site.block(f"follows a {signal.readout}", "reduce over time after the last module")
        site.sources |= signal.sources
        site.steps += self._steps(x, signal.shape) or 0
        if describes(module) is not None:
            site.inputs.append(x.detach())
            site.outputs.append(y.detach())
        for state in outputs[1:]:
            self._tag_state(name, state)
        self.signals[y] = Signal(frozenset((name,)), shape)

    def _record_moved(
        self,
        name: str,
        module: nn.Module,
        steps: bool | None,
        x: Tensor,
        moved: Moved,
        outputs: list[Tensor],
    ) -> None:
        """A call of a leaf whose input's axes were moved, or one that acts on one of several."""
        y = outputs[0]
        if passes_on(module):
            self.passing[name] = None
            (self.signals[y],) = move(torch.Tensor.reshape, (moved, y.shape), {})
            return
        site = self._site_of(name, module)
        axes = row_axes(module)
        if describes(module) is not None:
            self._receive(site, moved, tuple(x.shape[1 if steps else 2 :]))
            site.inputs.append(x.detach())
            site.outputs.append(y.detach())
            for state in outputs[1:]:
                self._tag_state(name, state)
            self.signals[y] = Signal(frozenset((name,)), site.shape_out)
        elif axes is None:
            self._block_other(site, module)
            site.sources |= moved.sources
            site.steps = self.T
            self.signals[y] = Signal(frozenset((name,)), tuple(y.shape[1:]))
        else:
            self.signals[y] = self._transform(site, moved, axes, x, y)

    def _site_of(self, name: str, module: nn.Module) -> Site:
        """The site of a leaf that receives moved axes; its shapes are still to be found."""
        if name not in self.sites:
            kind = type(module).__name__
            self.sites[name] = Site(name, kind, module, (name, kind), (), ())
        elif not self.sites[name].wires:
            self.sites[name].block("sees inputs of different order", "use one module for each")
        return self.sites[name]

    @staticmethod
    def _block_other(site: Site, module: nn.Module) -> None:
        """Refuse a leaf that is no matrix, or may not become one."""
        try:
            require_counterpart(module)
        except Refused as refusal:
            site.block(refusal.reason, refusal.remedy, derived=False)
        site.block("scales or normalises features whose axes were moved", FOLD, derived=False)

    def _receive(self, site: Site, moved: Moved, shape: tuple[int, ...]) -> None:
        """Note how moved features reach a site that works on each of them."""
        try:
            wires, numbers, steps = rows_of(moved, (), self.B)
        except Mixed:
            wires, numbers, steps = [], torch.zeros(2), 0
        if not torch.equal(numbers, torch.arange(len(numbers))):
            reason = f"the function {moved.by} leaves other axes in front of time and samples"
            site.block(reason, "move them back before the next layer")
        self._wire(site, [Wire.of(*wire) for wire in wires], shape, shape)
        site.sources |= moved.sources
        site.steps += steps

    def _transform(
        self, site: Site, moved: Moved, axes: tuple[int, ...], x: Tensor, y: Tensor
    ) -> Signal | Moved:
        """Note how moved features reach a linear layer; what its output carries."""
        shape = tuple(x.shape[axis] for axis in axes)
        site.sources |= moved.sources
        try:
            wires, numbers, steps = rows_of(moved, axes, self.B)
        except Mixed:
            site.block(f"mixes steps or samples, which {moved.by} put on its axes", REMEDY)
            return Signal(frozenset((site.name,)), tuple(y.shape[1:]))
        size = y.numel() // (steps * self.B)
        self._wire(site, [Wire.of(*wire) for wire in wires], shape, (size,))
        site.steps += steps
        term = Term(site.name, size, labels_after(numbers, y, axes))
        return self._settled(Moved((term,), moved.by))

    @staticmethod
    def _wire(
        site: Site, wires: list[Wire], shape_in: tuple[int, ...], shape_out: tuple[int, ...]
    ) -> None:
        found = (tuple(wires), shape_in, shape_out)
        if len(set(wires)) < len(wires):
            site.block("receives a signal twice", "double the weights")
        if site.steps and found != (site.wires, site.shape_in, site.shape_out):
            site.block("sees inputs of different order", "use one module for each place")
        site.wires, site.shape_in, site.shape_out = found

    def _settled(self, moved: Moved) -> Signal | Moved:
        """A plain signal, if everything is back where the modules left it."""
        shapes = {self.sites[source].shape_out for source in moved.sources}
        shape = shapes.pop()
        back = not shapes and unmoved(moved, shape, self.B)
        return Signal(moved.sources, shape) if back else moved

    def _tag_state(self, name: str, state: Tensor) -> None:
        own = _state_of(name)
        if own not in self.sites:
            shape = tuple(state.shape)
            owner = self.sites[name].owner
            self.sites[own] = Site(own, "state", None, owner, shape, shape, {name})
            self.sites[own].block(
                "a neuron's state leaves the neuron", "NIR neurons give out their spikes only"
            )
        self.signals[state] = Signal(frozenset((own,)), self.sites[own].shape_out)

    # --- what happens between modules ---------------------------------------------------------

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.inside_leaf:
            self._follow(func, args, kwargs or {}, result)
        return result

    def _follow(self, func: Any, args: tuple[Any, ...], kwargs: Any, result: Any) -> None:
        name = _name_of(func)
        tensors = self._tensors((args, kwargs))
        if not any(t in self.signals for t in tensors):
            return
        if name == "__setitem__":
            if tensors[-1] not in self.signals or not self._along_time(
                name, tensors[-1:], [args[0]]
            ):
                self._obstruct(name, tensors, [args[0]], "writes into a part of a tensor")
            return
        outputs = self._tensors(result)
        if not outputs or name in BLANKS:
            return
        if name in MOVES or name in AXES:
            if name in AXES or not self._along_time(name, tensors, outputs):
                self._move(func, args, kwargs, outputs)
        elif name in ADDS and not kwargs:
            self._add(name, args, tensors, outputs[0])
        elif not self._readout(name, args, kwargs, outputs[0]):
            reason = f"the function {name} has no NIR counterpart"
            self._obstruct(name, tensors, outputs, reason, REMEDIES.get(name, REMEDY), False)

    def _along_time(self, name: str, tensors: list[Tensor], outputs: list[Tensor]) -> bool:
        """Note a move that leaves each sample's features where they are; whether it does."""
        signals = [self._of(t) for t in tensors if t in self.signals]
        first = signals[0]
        if name not in LIKE and (
            len(signals) < len(tensors) or any(s.sources != first.sources for s in signals)
        ):
            return False
        if isinstance(first, Moved) or first.readout:
            return False
        if name in PICKS and self.B in first.shape:
            return False  # shapes alone do not tell an axis of features from that of samples
        flat = (math.prod(first.shape),)
        for y in outputs:
            if self._steps(y, first.shape) is not None:
                self.signals[y] = first
            elif name in FLATTENS and self._steps(y, flat) is not None:
                self._flatten(first, flat, y)
            else:
                return False
        return True

    def _move(self, func: Any, args: Any, kwargs: Any, outputs: list[Tensor]) -> None:
        """Follow every element on its way."""
        name, tensors = _name_of(func), self._tensors((args, kwargs))
        unknown = [t for t in tensors if t not in self.signals]
        silent = [t for t in tensors if t in self.signals and not self._of(t).sources]
        readouts = [s.readout for s in map(self.signals.get, tensors) if isinstance(s, Signal)]
        if unknown and name not in LIKE:
            self._obstruct(name, tensors, outputs, f"{name} joins different signals")
        elif silent:
            self._obstruct(name, tensors, outputs, f"{name} moves feedback that has not begun")
        elif not all(y.numel() for y in outputs):
            self._obstruct(name, tensors, outputs, f"{name} takes nothing of a signal")
        elif any(readouts):
            self._obstruct(name, tensors, outputs, f"{name} follows a {max(readouts)}")
        elif name in STILL:
            self.signals[outputs[0]] = self._of(tensors[0])
        else:
            args, kwargs = tree_map(lambda leaf: self._lifted(leaf, name), (args, kwargs))
            for y, moved in zip(outputs, move(func, args, kwargs), strict=True):
                self.signals[y] = self._settled(moved)

    def _lifted(self, leaf: Any, name: str) -> Any:
        """What is known of a tensor, element by element."""
        signal = self.signals.get(leaf) if isinstance(leaf, Tensor) else None
        if not isinstance(signal, Signal):
            return leaf if signal is None else signal
        return lift(signal.sources, math.prod(signal.shape), leaf, name)

    def settle(self, y: Tensor, rank: int) -> None:
        """Give what was moved a place of its own in the graph.

        Args:
            y: The tensor.
            rank: How many axes stand in front of its features.
        """
        moved = self.signals.get(y)
        if not isinstance(moved, Moved):
            return
        shape = tuple(y.shape[rank:])
        site = self._operation(moved.by, Signal(moved.sources, ()), shape)
        self._receive(site, moved, shape)
        self.signals[y] = Signal(frozenset((site.name,)), shape)

    def _flatten(self, signal: Signal, flat: tuple[int, ...], y: Tensor) -> None:
        site = self._operation("flatten", signal, flat)
        site.steps += self._steps(y, flat) or 0
        self.signals[y] = Signal(frozenset((site.name,)), flat)

    def _add(self, name: str, args: tuple[Any, ...], tensors: list[Tensor], y: Tensor) -> None:
        signals = [self._of(t) for t in tensors if t in self.signals]
        if any(isinstance(signal, Moved) for signal in signals):
            signals = [self._lifted(t, name) for t in tensors if t in self.signals]
        others = [a for a in args if not (isinstance(a, Tensor) and a in self.signals)]
        overlap = len(signals) == 2 and bool(signals[0].sources & signals[1].sources)
        if any(bool((torch.as_tensor(other) != 0).any()) for other in others):
            self._obstruct(name, tensors, [y], "adds a constant", "put it into a bias")
        elif isinstance(signals[0], Moved):
            if any(t.shape != y.shape for t in tensors):
                self._obstruct(name, tensors, [y], "adds signals of different shapes")
            else:
                self.signals[y] = self._settled(join(signals))
        elif overlap:
            self._obstruct(name, tensors, [y], "adds a signal to itself", "double the weights")
        elif len({s.shape for s in signals}) > 1 or any(s.readout for s in signals):
            self._obstruct(name, tensors, [y], "adds signals of different kinds")
        else:
            sources = frozenset().union(*(s.sources for s in signals))
            self.signals[y] = Signal(sources, signals[0].shape)

    def _readout(self, name: str, args: tuple[Any, ...], kwargs: Any, y: Tensor) -> bool:
        """Note a sum or mean over time; it may only be the very last operation."""
        x, *dims = args
        dims = dims or [kwargs.get("dim")]
        if name not in READOUTS or dims not in ([0], [(0,)], [[0]]) or len(kwargs) > 1:
            return False
        if isinstance(x, Tensor):
            self.settle(x, 2)
        signal = self._of(x) if isinstance(x, Tensor) and x in self.signals else None
        if signal is None or signal.readout or self._rank(x) != 2 or len(x) != self.T:
            return False
        self.signals[y] = Signal(signal.sources, signal.shape, f"{name} over time", x.detach())
        return True

    def _obstruct(
        self,
        name: str,
        tensors: list[Tensor],
        outputs: list[Tensor],
        reason: str,
        remedy: str = REMEDY,
        derived: bool = True,
    ) -> None:
        signals = [self._of(t) for t in tensors if t in self.signals]
        sources = frozenset().union(*(s.sources for s in signals))
        x = next(t for t in tensors if t in self.signals)
        known = self._of(x)
        shape = known.shape if isinstance(known, Signal) else tuple(x.shape[1:])
        rank = x.dim() - len(shape)
        for y in outputs:
            kept = rank if y.shape[:rank] == x.shape[:rank] else 1
            site = self._operation(name, Signal(sources, shape), tuple(y.shape[kept:]))
            site.block(reason, remedy, derived)
            self.signals[y] = Signal(frozenset((site.name,)), site.shape_out)

    def _operation(self, kind: str, signal: Signal, shape: tuple[int, ...]) -> Site:
        """The site of an operation: where it stands, and on what."""
        owner = self.path[-1] if self.path else self.root
        where = f"{owner[0]}.{kind}"
        name, number = where, 1
        while name in self.sites and self.sites[name].sources != signal.sources:
            number += 1
            name = f"{where}_{number}"
        if name not in self.sites:
            site = Site(name, kind, None, owner, signal.shape, shape, set(signal.sources))
            self.sites[name] = site
        return self.sites[name]

    # --- tensors ------------------------------------------------------------------------------

    def _of(self, tensor: Tensor) -> Any:
        return self.signals[tensor]

    @staticmethod
    def _tensors(tree: Any) -> list[Tensor]:
        return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]

    def _rank(self, tensor: Tensor) -> int:
        """How many axes stand in front of a signal's own: 2 for time and batch."""
        return tensor.dim() - len(self._of(tensor).shape)

    def _steps(self, tensor: Tensor, shape: tuple[int, ...]) -> int | None:
        """How many time steps of such signals a tensor holds; None if it holds something else."""
        rank = tensor.dim() - len(shape)
        lead = tuple(tensor.shape[:rank])
        if rank not in (1, 2) or tuple(tensor.shape[rank:]) != shape:
            return None
        if rank == 2:
            return lead[0] if lead[1] == self.B and lead[0] <= self.T else None
        steps, rest = divmod(lead[0], self.B)
        return steps if not rest and steps <= self.T else None


def _state_of(name: str) -> str:
    return f"{name} (its state)"


def _name_of(func: Any) -> str:
    name = getattr(func, "__name__", str(func))
    # A property such as `.data` arrives as the __get__ of its descriptor.
    return getattr(func.__self__, "__name__", name) if name == "__get__" else name


def observe(model: Callable[[], nn.Module], sample: Tensor) -> Observation:
    """Run a model once and find its signal flow.

    Args:
        model: Gives a fresh copy of the model, at rest; it will be altered.
        sample: Input ``[T, batch, *]``.

    Returns:
        The sites between input and output, in order.

    Raises:
        TypeError: If the model returns no tensor.
        ValueError: If the output does not depend on the input, or has no time axis.
    """
    try:
        return _observe(model(), sample, stepwise=False)
    except _StepByStep:
        return _observe(model(), sample, stepwise=True)
    except ValueError as error:
        # A model of single steps may fail on a sequence before it comes to a neuron.
        if any(takes_steps(module) for module in model().modules()):
            with contextlib.suppress(ValueError):
                return _observe(model(), sample, stepwise=True)
        raise error


def _observe(model: nn.Module, sample: Tensor, stepwise: bool) -> Observation:
    T, B = sample.shape[:2]
    observer = _Observer(T, B, stepwise)
    observer.attach(model)
    shape = tuple(sample.shape[2:])
    observer.sites[INPUT] = Site(INPUT, "Input", None, (INPUT, "Input"), shape, shape, steps=T)
    entering = Signal(frozenset((INPUT,)), shape)
    try:
        with torch.no_grad(), observer:
            if stepwise:
                result = torch.stack([*_loop(model, sample, observer, entering)])
            else:
                # Steps that share their memory would tell a model that they are all the same.
                x = sample.contiguous().view_as(sample)
                observer.signals[x] = entering
                result = _first_tensor(model(x))
                observer.settle(result, 2)
    except (RuntimeError, ValueError, IndexError) as error:
        shape_given = list(sample.shape)
        raise ValueError(f"model: does not run on the sample {shape_given}: {error}") from error
    signal = observer.signals.get(result)
    if signal is None:
        raise ValueError("model: its output does not depend on the input through torch functions")
    notes = [f"The {signal.readout} of the output is left to the reader."] if signal.readout else []
    spikes = result if signal.spikes is None else signal.spikes
    if observer.passing:
        notes.append(f"Pass on what they receive: {', '.join(observer.passing)}.")
    used = _ancestors(observer.sites, signal.sources)
    for site in used.values():
        _check_calls(site, T)
    if not any(site.obstacle for site in used.values()) and spikes.shape[:2] != (T, B):
        raise ValueError(
            f"model: returns {list(spikes.shape)} for an input {list(sample.shape)}; "
            f"the output must be [T, batch, *]"
        )
    _forget_consequences(used)
    unused = [name for name, site in observer.sites.items() if site.module and name not in used]
    if unused:
        notes.append(f"Left out, since the output does not need it: {', '.join(unused)}.")
    return Observation(used, tuple(sorted(signal.sources)), spikes, (T, B), notes)


def _loop(
    model: nn.Module, sample: Tensor, observer: _Observer, entering: Signal
) -> Iterator[Tensor]:
    """Call a model once for each step, and hand it back its state if it wants one."""
    explicit = "state" in inspect.signature(model.forward).parameters
    state: tuple[Any, ...] = ()
    for x in sample.unbind(0):
        observer.signals[x] = entering
        result = model(x, *state)
        state = result[1:2] if explicit else ()
        y = _first_tensor(result)
        observer.settle(y, 1)
        yield y


def _first_tensor(result: Any) -> Tensor:
    tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    if not tensors:
        raise TypeError(f"model: must return a tensor, got {type(result).__name__}")
    return tensors[0]


def _ancestors(sites: dict[str, Site], names: Iterable[str]) -> dict[str, Site]:
    waiting, found = list(names), set(names)
    while waiting:
        for source in sites[waiting.pop()].sources:
            if source not in found:
                found.add(source)
                waiting.append(source)
    return {name: site for name, site in sites.items() if name in found}


def _forget_consequences(sites: dict[str, Site]) -> None:
    """Keep the obstacles that are there by themselves; what lies behind them was misled."""
    blocked = {name for name, site in sites.items() if site.obstacle}
    for name, site in sites.items():
        behind = blocked.intersection(_ancestors(sites, site.sources)) - {name}
        if behind and (site.derived or not site.obstacle):
            site.obstacle = CONSEQUENCE


CONSEQUENCE = "comes after an obstacle"


def _check_calls(site: Site, T: int) -> None:
    if site.module is not None and site.steps != T:
        site.block(
            f"sees {site.steps} steps of an input of {T}",
            "call each module once for a sequence, or once in each step",
        )
