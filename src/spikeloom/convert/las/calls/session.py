"""Calibration of calls: which need neurons, and what those see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from spikeloom.calibrate import Batch
from spikeloom.convert.las.calls.choice import factors, spiking_call
from spikeloom.convert.las.calls.composed import COMPOSED, Unknown
from spikeloom.convert.las.calls.container import (
    CHILD,
    COMPOUND,
    CONSTANT,
    FLOAT,
    Calls,
    all_calls,
    calls_in,
    drop_unused,
)
from spikeloom.convert.las.calls.exploration import explore
from spikeloom.convert.las.calls.interception import (
    Interception,
    computed,
    is_passing,
    let_go,
    let_pass,
    prepare,
    running,
    take_over,
    whose,
)
from spikeloom.convert.las.calls.kinds import Magnitude, Product
from spikeloom.convert.las.calls.labels import NOWHERE, Activations, Sources, is_number, unmapped
from spikeloom.convert.las.calls.meaning import (
    called,
    in_place,
    is_scale,
    is_watched,
    passes,
    with_arguments,
)
from spikeloom.convert.las.layers import WeightLayer
from spikeloom.observe import Effect, meaning_of
from spikeloom.observe.dialects import arguments
from spikeloom.observe.dialects import name_of as spelled

__all__ = ["Session", "calibrating"]

SHOWN = 6  # places in an error
# What leaves the spikes of a table what they are.
ARRANGING = (Effect.KEEPS, Effect.MOVES)
# An attention that a kernel of another library computes.
KERNEL = "attn"
UNSEEN = "code that torch does not see, such as a compiled kernel behind an autograd.Function"
ITS_ATTENTION = (
    "Convert the model with attn_implementation='sdpa' or 'eager', or let it call "
    "scaled_dot_product_attention."
)


class Session:
    """A calibration: it knows activations, and gives calls their neurons.

    Attributes:
        activations: The tensors that depend on what the network was given.
        refused: Module -> what it calls and no rule converts.
        deciding: What computes the values that decide which parts of the network run: modules, and
            calls as pairs of their module and place.
    """

    def __init__(self, network: nn.Module) -> None:
        self.names = {id(module): name for name, module in network.named_modules()}
        self.activations = Activations()
        self.refused: dict[str, list[str]] = {}
        self.deciding: dict[Any, None] = {}

    def see(self, mode: Interception, module: nn.Module, func: Any, args: Any, kwargs: Any) -> Any:
        """Compute a call, and give it its neurons if it needs some."""
        self.check_mapped(module, (args, kwargs))
        self.check_seen(module, (args, kwargs))
        name, operation = with_arguments(called(func), args, kwargs), meaning_of(func)
        read = args if operation is None else operation.read(args)
        is_constant = not self.activations.among((read, kwargs))
        if is_watched(func) and is_constant and not is_scale(name, args):
            owner, at = whose(module)
            if not is_passing(owner):
                calls_in(owner).places.setdefault(f"{name} {at}", CONSTANT)
        if is_constant:
            looks_up = operation is not None and operation.effect is Effect.LOOKS_UP
            y = func(*args, **kwargs)
            self.activations.mark(y, NOWHERE if looks_up else None)
            return y
        sources = self.activations.sources((read, kwargs))
        if operation is not None and operation.ranks:
            self.deciding.update(dict.fromkeys(sources))
        if is_scale(name, args) or (
            not is_watched(func) and passes(operation, args, kwargs, self._varies)
        ):
            y = func(*args, **kwargs)
            self.activations.mark(y, sources)
            is_arranged = operation is not None and operation.effect in ARRANGING
            if is_arranged or is_scale(name, args):
                self.activations.pass_on(args, y)
        else:
            y = self._called(mode, module, name, sources, func, args, kwargs)
        if in_place(func) or kwargs.get("inplace"):
            self.activations.written(args[0], self.activations.sources(y))
        return y

    def let_pass(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Compute a call of a module that is left to itself, and know what it returns."""
        y = func(*args, **kwargs)
        varies = self.activations.among((args, kwargs))
        self.activations.mark_unknown(y, NOWHERE if varies else None)
        return y

    def _varies(self, leaf: Any) -> bool:
        return leaf in self.activations

    def _called(
        self,
        mode: Interception,
        module: nn.Module,
        name: str,
        sources: Sources,
        func: Any,
        args: Any,
        kwargs: Any,
    ) -> Any:
        """Compute what is neither free nor constant."""
        module, at = whose(module)
        key = f"{name} {at}"
        if is_passing(module):
            y = func(*args, **kwargs)
            self.activations.mark(y, sources)
            return y
        try:
            self._check_arguments(name, args, kwargs)
            child = self._child(module, name, key, args, kwargs)
            if child in (CONSTANT, FLOAT):
                y = func(*args, **kwargs)
            else:
                y = computed(mode, module, name, child, func, args, kwargs)
        except Unknown as unknown:
            y = func(*args, **kwargs)
            operation = meaning_of(func)
            if operation is not None and operation.effect in (Effect.READS, Effect.LEAVES):
                self._refuse(module, spelled(func))
            elif any(map(is_number, tree_leaves(y))):
                self._refuse(module, str(unknown))
            else:  # a condition or a position
                calls_in(module).places.setdefault(key, CONSTANT)
            child = CONSTANT
        if child == COMPOUND:
            self.activations.mark_unknown(y)  # its parts have said where it comes from
        elif child in (CONSTANT, FLOAT):
            self.activations.mark(y, sources)
        else:
            own: Sources = frozenset({(module, key)})
            call = calls_in(module)._modules[child]
            is_product = isinstance(call, Product)
            if isinstance(call, Magnitude):  # of any size, which no range would hold
                self.activations.fire(y)
            self.activations.mark(y, own if is_product else sources | own)
        return y

    def _child(self, module: nn.Module, name: str, key: str, args: Any, kwargs: Any) -> str:
        """The name of the spiking call at a place, made if there is none."""
        given, named = arguments(name, args, kwargs)
        calls = module._modules.get(CHILD)
        child = calls.places.get(key, CONSTANT) if isinstance(calls, Calls) else CONSTANT
        if child == CONSTANT:
            if passes(meaning_of(name), given, named, self._varies):
                calls_in(module).places[key] = CONSTANT
            elif name in COMPOSED:
                calls_in(module).places[key] = COMPOUND
            elif (call := spiking_call(name, given, named, self.activations)) is not None:
                calls_in(module).put(key, name, call)
            else:
                calls_in(module).places[key] = CONSTANT
            return calls_in(module).places[key]
        assert isinstance(calls, Calls)
        if isinstance(call := calls._modules.get(child), Product):
            for position, axis in factors(name, given, self.activations).items():
                call.encode(position, axis)
        return child

    def _check_arguments(self, name: str, args: Any, kwargs: Any) -> None:
        if kwargs.get("out") is not None:
            raise Unknown(f"{name} with out=")
        leaves = tree_leaves((args, kwargs))
        if any(isinstance(leaf, Tensor) and leaf.is_complex() for leaf in leaves):
            operation = meaning_of(name)
            # A rotation by constants is linear, as rotary embeddings are.
            if operation is None or not operation.is_affine(args, kwargs, self._varies):
                raise Unknown(f"{name} of complex numbers")

    def check_seen(self, module: nn.Module, values: Any) -> None:
        """Refuse values that were computed while a module runs, but by no function of torch.

        Args:
            module: It runs.
            values: What it uses or returns.
        """
        leaves = [leaf for leaf in tree_leaves(values) if is_number(leaf)]
        # Another library's memory: what gave activations to it has been refused.
        foreign = [leaf for leaf in leaves if not leaf.untyped_storage().resizable()]
        self.activations.mark_unknown(foreign, None)
        if self.activations.mark_unknown(leaves):
            self._refuse(module, UNSEEN)

    def _refuse(self, module: nn.Module, what: str) -> None:
        called = self.refused.setdefault(self._place(module), [])
        called += [what] if what not in called else []

    def check_mapped(self, module: nn.Module, values: Any) -> None:
        """Refuse activations within ``torch.vmap``, where they are no tensors of their own.

        Raises:
            TypeError: If one is among the values.
        """
        if any(unmapped(leaf) in self.activations for leaf in tree_leaves(values)):
            raise TypeError(
                f"model: {self._place(module)} computes within torch.vmap, where no activation can "
                f"be encoded; write it for the whole batch, or name the module that calls vmap in "
                f"exclude"
            )

    def _place(self, module: nn.Module) -> str:
        name = self.names.get(id(module)) or "'', the model's own forward"
        return f"{name} ({type(module).__name__})"

    def check(self) -> None:
        """Refuse what no rule converts.

        Raises:
            TypeError: If anything was found, with the modules that call it.
        """
        if not self.refused:
            return
        places = [f"{place} calls {', '.join(called)}" for place, called in self.refused.items()]
        more = f"; and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
        kernels = [what for called in self.refused.values() for what in called if KERNEL in what]
        remedy = f" {ITS_ATTENTION}" if kernels else ""
        raise TypeError(
            f"model: no rule computes this by spikes: {'; '.join(places[:SHOWN])}{more}.{remedy} "
            f"Leave it in float by naming the modules in exclude; write it with functions of "
            f"spikeloom.neurons.tables.FUNCTIONS; or, if it only moves values, say so to "
            f"spikeloom.observe.register"
        )

    def explore(self, network: nn.Module, call: Batch) -> tuple[list[str], list[str]]:
        """See the calls of other ways to call a network, if it has any of its own.

        Args:
            network: What was calibrated.
            call: A batch of it.

        Returns:
            As :meth:`decide_in_float`.
        """
        if any(calls.places for calls in all_calls(network)):
            explore(network, call)
            self.refused.clear()  # refused when it is called
        return self.decide_in_float(network)

    def decide_in_float(self, network: nn.Module) -> tuple[list[str], list[str]]:
        """Let the values that decide what runs be computed as they were: spikes would change it.

        Args:
            network: What was calibrated.

        Returns:
            The names of the modules that compute them, and of the layers among them.
        """
        names: dict[str, None] = {}
        layers: list[str] = []
        for source in self.deciding:
            module, key = source if isinstance(source, tuple) else (source, None)
            name = self.names.get(id(module), "")
            names[name] = None
            if key is not None:
                calls_in(module).drop(key)
            elif isinstance(module, WeightLayer):
                plain = module.plain()
                let_pass(plain)
                network.set_submodule(name, plain)
                layers.append(name)
        self.deciding.clear()
        return list(names), layers


@contextmanager
def calibrating(network: nn.Module, exclude: Sequence[str]) -> Iterator[Session]:
    """Give the calls of a network their neurons while the block runs.

    Args:
        network: Its layers with rules are spiking already.
        exclude: Names of modules whose calls stay as they are.
    """
    running.forget()
    take_over(network, exclude)
    prepare(network)
    session = running.session = Session(network)
    try:
        yield session
    finally:
        running.session = None
        if not drop_unused(network):
            let_go(network)
