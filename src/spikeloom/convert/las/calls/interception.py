"""Functions of torch, taken over wherever the forward of a converted network calls them.

Hooks say which module runs; a mode of torch sees every function that its own code calls. While
calibration runs, a call of which an activation is an argument is given its neurons; afterwards the
call at that place computes with them. A call that calibration has not reached is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from spikeloom.calibrate import Batch
from spikeloom.convert.las.attention import Attention
from spikeloom.convert.las.calls.choice import factors, spiking_call
from spikeloom.convert.las.calls.composed import COMPOSED, Unknown, composed
from spikeloom.convert.las.calls.exploration import explore
from spikeloom.convert.las.calls.kinds import KINDS, NormCall, Product
from spikeloom.convert.las.calls.labels import NOWHERE, Activations, Sources, unmapped
from spikeloom.convert.las.calls.meaning import called, in_place, is_scale, is_watched, passes
from spikeloom.convert.las.calls.place import place
from spikeloom.convert.las.layers import Spiking, WeightLayer
from spikeloom.convert.las.rules import is_float_place, is_under
from spikeloom.convert.las.torch_layers import EncoderLayer, MultiheadAttention
from spikeloom.observe import Effect, meaning_of
from spikeloom.observe.dialects import arguments
from spikeloom.observe.dialects import name_of as spelled

__all__ = ["calibrating", "calls_of", "let_pass", "rebuild_calls"]

# The child of a module that holds its calls.
CHILD = "las_calls"
# What is there in the place of a spiking call.
CONSTANT, COMPOUND, FLOAT = "", "*", "float"
SHOWN = 6  # places in an error
# An attention that a kernel of another library computes.
KERNEL = "attn"
ITS_ATTENTION = (
    "Convert the model with attn_implementation='sdpa' or 'eager', or let it call "
    "scaled_dot_product_attention."
)


class Calls(nn.Module):
    """The spiking calls of one module's own code.

    Attributes:
        places: What is called, and where, -> the name of its spiking call; ``""`` if only constants
            were seen there, ``"*"`` if it is computed by other calls, ``"float"`` if it stays.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, str] = {}

    def forward(self, x: Any) -> Any:
        """What it is given, as the last child of an ``nn.Sequential``, which calls all of them."""
        return x

    def put(self, key: str, name: str, call: nn.Module) -> None:
        """Give a place its spiking call."""
        count = sum(child.partition("_")[0] == name for child in self._modules)
        child = f"{name}_{count}"
        self.add_module(child, call)
        self.places[key] = child

    def drop(self, key: str) -> None:
        """Let a place compute as it did."""
        child, self.places[key] = self.places[key], FLOAT
        if child not in self.places.values():
            self._modules.pop(child, None)

    def spec(self) -> dict[str, Any]:
        """What makes it again."""
        made = {
            name: [type(call).__name__, call.spec()]  # type: ignore[operator]  # calls have one
            for name, call in self.named_children()
        }
        return {"places": self.places, "calls": made}

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Calls:
        """What :meth:`spec` describes."""
        calls = cls()
        calls.places = dict(spec["places"])
        for name, (kind, settings) in spec["calls"].items():
            calls.add_module(name, KINDS[kind].from_spec(settings))
        return calls


# --- Which module runs ------------------------------------------------------------------------


class _Running(threading.local):
    """The modules that run in a thread, the innermost last; None stands for what is let pass."""

    def __init__(self) -> None:
        self.modules: list[nn.Module | None] = []
        self.mode: _Interception | None = None
        self.session: _Session | None = None


_running = _Running()


def _enter(module: nn.Module | None, args: Any, kwargs: Any) -> None:
    if not _running.modules:
        _running.mode = _Interception()
        _running.mode.__enter__()
        if _running.session is not None:
            with torch._C.DisableTorchFunction():
                _running.session.activations.mark((args, kwargs))
    _running.modules.append(module)


def _leave() -> None:
    _running.modules.pop()
    if not _running.modules:
        assert _running.mode is not None
        _running.mode.__exit__(None, None, None)
        _running.mode = None


def _before(module: nn.Module, args: Any, kwargs: Any) -> None:
    _enter(module, args, kwargs)


def _after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    session = _running.session
    if session is not None:
        with torch._C.DisableTorchFunction():
            if session.activations.among((args, kwargs)):
                # What is computed past torch's functions, as by one of autograd's own.
                session.activations.mark_unknown(output)
    _leave()


def _before_passing(module: nn.Module, args: Any, kwargs: Any) -> None:
    _enter(None, args, kwargs)
    if _running.session is not None and isinstance(module, PASSING):
        with torch._C.DisableTorchFunction():
            _running.session.check_mapped(module, (args, kwargs))


def _after_passing(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    if _running.session is not None:
        with torch._C.DisableTorchFunction():
            own = {module} if isinstance(module, WeightLayer) else ()
            _running.session.activations.mark(output, frozenset(own))
    _leave()


HOOKS = (_before, _after, _before_passing, _after_passing)


def _hook(module: nn.Module, before: Any, after: Any) -> None:
    module.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
    module.register_forward_hook(after, with_kwargs=True, always_call=True)


def let_pass(module: nn.Module) -> None:
    """Leave what a module computes to itself."""
    _hook(module, _before_passing, _after_passing)


def take_over(network: nn.Module, exclude: Sequence[str]) -> None:
    """Look at what the forwards of a network call, from now on.

    Args:
        network: Its layers with rules are spiking already; they are let pass.
        exclude: Names of modules to let pass; ``""`` is the network's own forward.
    """
    if isinstance(network, PASSING):
        let_pass(network)
        return
    passed: list[str] = []
    for name, module in network.named_modules():
        if passed and is_under(name, passed):
            continue
        if isinstance(module, PASSING) or _is_left(name, exclude):
            let_pass(module)
            passed += [name] if name else []
        elif name or "" not in exclude:
            _hook(module, _before, _after)
        else:
            let_pass(module)


PASSING = (
    *(Spiking, Attention, EncoderLayer, MultiheadAttention),
    *(nn.Embedding, nn.modules.loss._Loss),
)


def _is_left(name: str, exclude: Sequence[str]) -> bool:
    return bool(name) and (is_float_place(name) or is_under(name, [n for n in exclude if n]))


def let_go(network: nn.Module) -> None:
    """Look at the calls of a network no longer."""
    for module in network.modules():
        for hooks, extra in (
            (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
            (module._forward_hooks, module._forward_hooks_with_kwargs),
        ):
            for key in [key for key, hook in hooks.items() if hook in HOOKS]:
                del hooks[key]
                extra.pop(key, None)
                module._forward_hooks_always_called.pop(key, None)


# --- What is called ---------------------------------------------------------------------------


class _Interception(TorchFunctionMode):
    """Hands functions of torch to their spiking calls."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        module = _running.modules[-1] if _running.modules else None
        if module is None:
            return func(*args, **kwargs)
        if _running.session is not None:
            return _running.session.see(self, module, func, args, kwargs)
        name = called(func)
        if not is_watched(func) or is_scale(name, args, Tensor):
            return func(*args, **kwargs)
        return _converted(self, module, name, func, args, kwargs)


def _converted(
    mode: _Interception, module: nn.Module, name: str, func: Any, args: Any, kwargs: Any
) -> Any:
    """What a call computes in a converted network."""
    calls = module._modules.get(CHILD)
    child = calls.places.get(f"{name} {place()}") if isinstance(calls, Calls) else None
    if child in (CONSTANT, FLOAT):
        return func(*args, **kwargs)
    if child is None:
        raise ValueError(
            f"model: calibration did not reach this call of {name} in {type(module).__name__}, "
            f"whose values are not known; calibrate on batches that use it, or name the module in "
            f"exclude; torch.compile needs fullgraph=True"
        )
    return _computed(mode, module, name, child, func, args, kwargs)


def _computed(
    mode: _Interception, module: nn.Module, name: str, child: str, func: Any, args: Any, kwargs: Any
) -> Any:
    given, named = arguments(name, args, kwargs)
    writes = in_place(func) or bool(named.pop("inplace", False))
    if child == COMPOUND:
        with mode:
            y = composed(name, given, named)
    else:
        call = module._modules[CHILD]._modules[child]  # type: ignore[union-attr]  # as is known
        compute = getattr(Tensor, name, None) or getattr(torch, name) if writes else func
        y = call(compute, given, named)  # type: ignore[misc]  # not None
        if isinstance(call, NormCall):
            y = _affine(y, name, given, named)
    if writes:
        given[0].copy_(y)
        return given[0]
    return y


def _affine(y: Tensor, name: str, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """A norm's weight and bias."""
    weight = kwargs.get("weight", args[2] if len(args) > 2 else None)
    y = y if weight is None else y * weight
    bias = kwargs.get("bias", args[3] if len(args) > 3 and name == "layer_norm" else None)
    return y if bias is None else y + bias


# --- Calibration ------------------------------------------------------------------------------


class _Session:
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

    def see(self, mode: _Interception, module: nn.Module, func: Any, args: Any, kwargs: Any) -> Any:
        """Compute a call, and give it its neurons if it needs some."""
        self.check_mapped(module, (args, kwargs))
        name, operation = called(func), meaning_of(func)
        read = args if operation is None else operation.read(args)
        is_constant = not self.activations.among((read, kwargs))
        if is_watched(func) and is_constant and not is_scale(name, args, Tensor):
            _calls_of(module).places.setdefault(f"{name} {place()}", CONSTANT)
        if is_constant:
            looks_up = operation is not None and operation.effect is Effect.LOOKS_UP
            y = func(*args, **kwargs)
            self.activations.mark(y, NOWHERE if looks_up else None)
            return y
        sources = self.activations.sources((read, kwargs))
        if operation is not None and operation.ranks:
            self.deciding.update(dict.fromkeys(sources))
        if is_scale(name, args, Tensor) or (
            not is_watched(func) and passes(operation, args, kwargs, self._varies)
        ):
            y = func(*args, **kwargs)
            self.activations.mark(y, sources)
        else:
            y = self._called(mode, module, name, sources, func, args, kwargs)
        if in_place(func) or kwargs.get("inplace"):
            self.activations.written(args[0], self.activations.sources(y))
        return y

    def _varies(self, leaf: Any) -> bool:
        return leaf in self.activations

    def _called(
        self,
        mode: _Interception,
        module: nn.Module,
        name: str,
        sources: Sources,
        func: Any,
        args: Any,
        kwargs: Any,
    ) -> Any:
        """Compute what is neither free nor constant."""
        key = f"{name} {place()}"
        try:
            _check_arguments(name, args, kwargs)
            child = self._child(module, name, key, args, kwargs)
            if child in (CONSTANT, FLOAT):
                y = func(*args, **kwargs)
            else:
                y = _computed(mode, module, name, child, func, args, kwargs)
        except Unknown as unknown:
            y = func(*args, **kwargs)
            operation = meaning_of(func)
            if operation is not None and operation.effect in (Effect.READS, Effect.LEAVES):
                self._refuse(module, spelled(func))
            elif any(_is_value(leaf) for leaf in tree_leaves(y)):
                self._refuse(module, str(unknown))
            child = CONSTANT
        if child == COMPOUND:
            self.activations.mark_unknown(y)  # its parts have said where it comes from
        elif child in (CONSTANT, FLOAT):
            self.activations.mark(y, sources)
        else:
            own: Sources = frozenset({(module, key)})
            is_product = isinstance(_calls_of(module)._modules[child], Product)
            self.activations.mark(y, own if is_product else sources | own)
        return y

    def _child(self, module: nn.Module, name: str, key: str, args: Any, kwargs: Any) -> str:
        """The name of the spiking call at a place, made if there is none."""
        given, named = arguments(name, args, kwargs)
        if name == "mul" and len(given) == 2 and given[0] is given[1]:
            name = "square"
        calls = module._modules.get(CHILD)
        child = calls.places.get(key, CONSTANT) if isinstance(calls, Calls) else CONSTANT
        if child == CONSTANT:
            if name in COMPOSED:
                _calls_of(module).places[key] = self._compound(name, given)
            elif passes(meaning_of(name), given, named, self._varies):
                _calls_of(module).places[key] = CONSTANT
            elif (call := spiking_call(name, given, named, self.activations)) is not None:
                _calls_of(module).put(key, name, call)
            else:
                _calls_of(module).places[key] = CONSTANT
            return _calls_of(module).places[key]
        assert isinstance(calls, Calls)
        if isinstance(call := calls._modules.get(child), Product):
            for position, axis in factors(name, given, self.activations).items():
                call.encode(position, axis)
        return child

    def _compound(self, name: str, given: list[Any]) -> str:
        """Whether a composed function has to be taken apart."""
        scaled = name == "div" and len(given) > 1 and given[1] not in self.activations
        return CONSTANT if scaled else COMPOUND

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
            f"Leave it in float by naming the modules in exclude"
        )

    def explore(self, network: nn.Module, call: Batch) -> None:
        """See the calls of other ways to call a network, if it has any of its own."""
        if any(calls.places for calls in _all_calls(network)):
            explore(network, call)
            self.refused.clear()  # refused when it is called
            self.decide_in_float(network)

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
                _calls_of(module).drop(key)
            elif isinstance(module, WeightLayer):
                plain = module.plain()
                let_pass(plain)
                network.set_submodule(name, plain)
                layers.append(name)
        self.deciding.clear()
        return list(names), layers


def _calls_of(module: nn.Module) -> Calls:
    calls = module._modules.get(CHILD)
    if calls is None:
        calls = Calls()
        module.add_module(CHILD, calls)
    assert isinstance(calls, Calls)
    return calls


def _check_arguments(name: str, args: Any, kwargs: Any) -> None:
    if kwargs.get("out") is not None:
        raise Unknown(f"{name} with out=")
    if any(isinstance(leaf, Tensor) and leaf.is_complex() for leaf in tree_leaves((args, kwargs))):
        raise Unknown(f"{name} of complex numbers")


def _is_value(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


@contextmanager
def calibrating(network: nn.Module, exclude: Sequence[str]) -> Iterator[_Session]:
    """Give the calls of a network their neurons while the block runs.

    Args:
        network: Its layers with rules are spiking already.
        exclude: Names of modules whose calls stay as they are.
    """
    take_over(network, exclude)
    session = _running.session = _Session(network)
    try:
        yield session
    finally:
        _running.session = None
        if not any(calls._modules for calls in _all_calls(network)):
            let_go(network)
            for module in network.modules():
                module._modules.pop(CHILD, None)


def _all_calls(network: nn.Module) -> list[Calls]:
    return [module for module in network.modules() if isinstance(module, Calls)]


def calls_of(network: nn.Module) -> dict[str, Any]:
    """The calls of a converted network, by the name of their module, for :func:`rebuild_calls`."""
    return {
        name: calls.spec()
        for name, module in network.named_modules()
        if isinstance(calls := module._modules.get(CHILD), Calls)
    }


def rebuild_calls(network: nn.Module, specs: dict[str, Any], exclude: Sequence[str]) -> None:
    """Give a network the calls of another of the same code.

    Args:
        network: Its layers with rules are spiking already.
        specs: As :func:`calls_of` gives them.
        exclude: Names of modules whose calls stay as they are.
    """
    if not specs:
        return
    take_over(network, exclude)
    for name, spec in specs.items():
        network.get_submodule(name).add_module(CHILD, Calls.from_spec(spec))
