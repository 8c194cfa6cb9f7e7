"""Currents: which weight layers each tensor of a run is a sum of, and which neurons it reaches.

Normalisation, pooling, dropout, reshaping and residual additions pass that on; a neuron, a function
without memory or the next weight layer ends it. A tensor of other origin is a sum of none. What a
function ends is remembered all the same: a neuron may rectify its potential before it fires, and
one that fires by a steep function instead of a comparison applies it to what it has left behind.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from spikeloom.compress.steps import signal_of
from spikeloom.compress.weights import check_layer
from spikeloom.modules import is_neuron
from spikeloom.observe import Effect, meaning_of
from spikeloom.observe.dialects import name_of
from spikeloom.observe.domain import Domain
from spikeloom.observe.run import Call

__all__ = ["Currents"]


class Source(NamedTuple):
    """A weight layer, and what its output has passed.

    Attributes:
        layer: Its name.
        norms: The normalisations passed.
        ended: Whether a function has ended the current, as ``"rectified"`` or ``"activated"``.
    """

    layer: str
    norms: tuple[str, ...] = ()
    ended: str = ""


# Functions that no neuron fires by.
POWERS = frozenset({"pow", "square"})

Sources = frozenset[Source]
NOTHING: Sources = frozenset()
SET_DATA = vars(torch._C.TensorBase)["data"].__set__


class Currents(Domain[Sources]):
    """A run that shows what every weight layer feeds.

    Args:
        layers: The names of the weight layers that are followed.
        neurons: The names of all modules that are neurons.

    Attributes:
        inputs: Weight layer -> shape of its input in each call.
        reached: Weight layer -> neurons it reaches, each with the normalisations passed.
        potentials: Neuron -> shape of its input in each call.
        sequences: Neurons that were handed a whole sequence.
        thresholds: Weight layer -> the operation that thresholds it, or takes it out of torch,
            outside of any known neuron.
        inside: Neurons that are running now.
    """

    def __init__(self, layers: Collection[str], neurons: Collection[str]) -> None:
        super().__init__()
        self.layers, self.neurons = set(layers), set(neurons)
        self.inputs: dict[str, list[tuple[int, ...]]] = {}
        self.reached: dict[str, dict[tuple[str, tuple[str, ...]], None]] = {}
        self.potentials: dict[str, list[tuple[int, ...]]] = {}
        self.sequences: set[str] = set()
        self.thresholds: dict[str, str] = {}
        self.inside: list[str] = []
        self._given: dict[str, Any] = {}
        # Layer -> input and output, until a neuron takes the output before the layer returns.
        self._products: dict[str, tuple[Tensor, Any] | None] = {}

    @contextmanager
    def over(self, model: nn.Module) -> Iterator[None]:
        """See what a model does, and where its values leave torch."""
        with ExitStack() as stack:
            for name, module in model.named_modules():
                if name in self.layers:
                    made = functools.partial(self._made, name)
                    hook = module.register_forward_hook(made, with_kwargs=True, prepend=True)
                    stack.callback(hook.remove)
            stack.enter_context(super().over(model))
            stack.enter_context(_Exits(self))
            yield

    # --- Modules

    def hears(self, name: str, module: nn.Module) -> bool:
        """Whether a module begins, passes or ends currents."""
        return name in self.layers | self.neurons or isinstance(module, _BatchNorm)

    def entered(self, name: str, module: nn.Module, args: Any, kwargs: Any, whole: bool) -> None:
        """A neuron ends the currents that reach it."""
        if name not in self.neurons:
            self._given[name] = args, kwargs
            return
        if not self.inside:
            x = signal_of(module, args, kwargs, whole)
            self.potentials.setdefault(name, []).append(tuple(x.shape))
            if whole and is_neuron(module):
                self.sequences.add(name)
            for layer, norms, _ in self.sources((args, kwargs)):
                self.reached.setdefault(layer, {})[name, norms] = None
                self._products[layer] = None
        self.inside.append(name)

    def left(self, name: str, module: nn.Module, output: Any) -> None:
        """A neuron's output is no current, a normalisation is noted on those that pass it."""
        if name in self.neurons:
            self.inside.pop()
            self._state(output, NOTHING)
            return
        given = self._given.pop(name)
        if name in self.layers:
            made = self._products.pop(name, None)
            if made is not None and output is not None and output is not made[1]:
                self._check(name, module, made[0], output)
                self._state(output, frozenset({Source(name)}))
        elif isinstance(module, _BatchNorm):
            sources = self.sources(given)
            passed = {Source(layer, (*norms, name)) for layer, norms, _ in sources}
            self._state(output, frozenset(passed))

    def _made(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A weight layer begins a current, which hooks of the layer's own may take further."""
        x, *_ = _tensors((args, kwargs))
        self._check(name, module, x, output)
        self.inputs.setdefault(name, []).append(tuple(x.shape))
        self._products[name] = x, output
        self._state(output, frozenset({Source(name)}))

    @staticmethod
    def _check(name: str, module: nn.Module, x: Tensor, output: Any) -> None:
        with _disable_current_modes():  # what is looked at here is no part of the model
            check_layer(name, module, x, output)

    def sources(self, values: Any) -> Sources:
        """The layers that any of the tensors within is a sum of."""
        return frozenset(s for s in self._origins(values) if not s.ended)

    def _origins(self, values: Any) -> Sources:
        """The same, and the layers whose current a function has ended."""
        return self.join(*map(self.labels.of, _tensors(values)))

    def passed(self, given: Tensor, taken: Tensor) -> None:
        """Note that a tensor has taken over another one's values without an operation."""
        self._state(taken, self._origins(given))

    def _state(self, values: Any, sources: Sources) -> None:
        for tensor in _tensors(values):
            self.labels.state(tensor, sources)

    # --- Operations

    def join(self, *values: Any) -> Sources:
        """All that any of them is a sum of."""
        return NOTHING.union(*(value for value in values if isinstance(value, frozenset)))

    def activates(self, call: Call) -> Sources | list[Sources]:
        """A function has no memory: what a layer feeds it is not filtered in time."""
        if self.inside:
            return self.otherwise(call)
        operation: Any = call.operation
        given = self.join(self.otherwise(call))
        flowing, ended = ({s.layer for s in given if bool(s.ended) is e} for e in (False, True))
        for layer in flowing & ended:
            self.thresholds.setdefault(layer, f"{operation.name} of what it gave before")
        if operation.name in POWERS:
            return NOTHING
        kind = "activated" if operation.bounds is None else "rectified"
        return frozenset(s._replace(ended=s.ended or kind) for s in given)

    def weighs(self, call: Call) -> Sources | list[Sources]:
        """Nobody's potential is rectified before the weights that form it."""
        passed = self.join(self.otherwise(call))
        return frozenset(source for source in passed if not source.ended)

    def orders(self, call: Call) -> Sources | list[Sources]:
        """What only a neuron does to a current is an error outside of a known neuron."""
        operation: Any = call.operation
        target = f" {call.result.dtype}" if call.name == "_to_copy" else ""
        self.exits((call.args, call.kwargs), operation.name + target)
        return self.otherwise(call)

    rounds = fires = orders

    def reads(self, call: Call) -> Sources | list[Sources]:
        """A value that Python has may come back as any tensor; an answer is none of a current."""
        asked, *_ = call.args
        return NOTHING if asked.dtype == torch.bool else self.orders(call)

    def exits(self, values: Any, operation: str) -> None:
        """Note the layers whose output meets what only a neuron does, or leaves torch."""
        for source in () if self.inside else self._origins(values):
            if source.ended != "activated":
                self.thresholds.setdefault(source.layer, operation)


class _Exits(TorchFunctionMode):
    """Notes layers whose output leaves torch, where a neuron that reads it cannot be seen.

    Follows what copies a tensor, or puts another one in its place, beside torch's operations.
    """

    def __init__(self, currents: Currents) -> None:
        super().__init__()
        self.currents = currents

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operation = meaning_of(func)
        if operation is not None and operation.effect is Effect.LEAVES:
            self.currents.exits(args[:1], name_of(func))
        result = func(*args, **(kwargs or {}))
        if func == Tensor.__deepcopy__:
            self.currents.passed(args[0], result)
        elif func == SET_DATA:
            self.currents.passed(args[1], args[0])
        return result


def _tensors(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
