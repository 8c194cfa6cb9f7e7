"""Functions of torch, intercepted where the forward of a converted network calls them.

Hooks say which module runs; a mode of torch sees every function that its own code calls. While
calibration runs, a call of which an activation is an argument is given its neurons; afterwards the
call at that place computes with them. A call that calibration has not reached is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._dynamo.eval_frame import set_eval_frame
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from spikeloom.convert.las.attention import Attention
from spikeloom.convert.las.calls.composed import composed
from spikeloom.convert.las.calls.container import (
    CHILD,
    COMPOUND,
    CONSTANT,
    FLOAT,
    Calls,
    attach,
    calls_in,
)
from spikeloom.convert.las.calls.kinds import NormCall
from spikeloom.convert.las.calls.meaning import (
    called,
    in_place,
    is_scale,
    is_watched,
    with_arguments,
)
from spikeloom.convert.las.calls.methods import drop_methods, put_methods
from spikeloom.convert.las.calls.place import is_recomputed, place
from spikeloom.convert.las.layers import Spiking, WeightLayer
from spikeloom.convert.las.rules import is_float_place, is_under
from spikeloom.convert.las.torch_layers import EncoderLayer, MultiheadAttention
from spikeloom.observe.dialects import arguments

__all__ = [
    *("Interception", "computed", "is_passing", "let_go", "let_pass", "prepare", "rebuild_calls"),
    *("running", "take_over", "whose"),
]

UNTRACEABLE = (
    "model: functions that this network's own code calls are computed by spikes, where "
    "torch.compile does not follow; compile the exported network, "
    "torch.compile(torch.export.export(network, args, kwargs).module()), or use fullgraph=False, "
    "which leaves the network as it is"
)

# --- Which module runs ------------------------------------------------------------------------


class _Running(threading.local):
    """The modules that run in a thread, the innermost last; None stands for what is let pass."""

    def __init__(self) -> None:
        self.modules: list[nn.Module | None] = []
        self.mode: Interception | None = None
        self.compiler: Any = None  # what torch.compile does with frames, meanwhile nothing
        self.session: Any = None  # a Session, while calibration runs

    def forget(self) -> None:
        """Begin anew, as after a call that ended without its hooks, within a failed compilation."""
        self.modules.clear()
        self.mode = None


running = _Running()


def _enter(module: nn.Module | None, args: Any, kwargs: Any) -> None:
    if torch.compiler.is_dynamo_compiling():
        # With fullgraph=False torch.compile leaves this module out instead, and it runs as it is.
        raise ValueError(UNTRACEABLE)
    if not running.modules:
        running.compiler = set_eval_frame(None)
        running.mode = Interception()
        running.mode.__enter__()
        if running.session is not None:
            with torch._C.DisableTorchFunction():
                running.session.activations.mark((args, kwargs))
    running.modules.append(module)


def _leave() -> None:
    if not running.modules:
        return  # entering was refused
    running.modules.pop()
    if not running.modules:
        assert running.mode is not None
        running.mode.__exit__(None, None, None)
        running.mode = None
        set_eval_frame(running.compiler)


def _before(module: nn.Module, args: Any, kwargs: Any) -> None:
    _enter(module, args, kwargs)


def _after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    session = running.session
    if session is not None:
        with torch._C.DisableTorchFunction():
            session.check_seen(module, output)
    _leave()


def _before_passing(module: nn.Module, args: Any, kwargs: Any) -> None:
    _enter(None, args, kwargs)
    if running.session is not None and isinstance(module, PASSING):
        with torch._C.DisableTorchFunction():
            running.session.check_mapped(module, (args, kwargs))


def _after_passing(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    if running.session is not None:
        with torch._C.DisableTorchFunction():
            own = {module} if isinstance(module, WeightLayer) else ()
            running.session.activations.mark(output, frozenset(own))
    _leave()


HOOKS = (_before, _after, _before_passing, _after_passing)


def _hook(module: nn.Module, before: Any, after: Any) -> None:
    module.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
    module.register_forward_hook(after, with_kwargs=True, always_call=True)


def _within(module: nn.Module) -> AbstractContextManager[None] | None:
    """What a method of a module runs in as a part of its code; None if a forward runs."""
    return None if running.modules else _entered(module)


@contextmanager
def _entered(module: nn.Module) -> Iterator[None]:
    _enter(module, (), {})
    try:
        yield
    finally:
        _leave()


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
    for name, module in list(network.named_modules()):
        if passed and is_under(name, passed):
            continue
        if isinstance(module, PASSING) or _is_left(name, exclude):
            let_pass(module)
            passed += [name] if name else []
        elif name or "" not in exclude:
            _hook(module, _before, _after)
            put_methods(module, _within)
        else:
            let_pass(module)


def prepare(network: nn.Module) -> None:
    """Give every module whose code is looked at a child for its calls, before its forward runs.

    Args:
        network: It is taken over.
    """
    for module in list(network.modules()):
        if _before in module._forward_pre_hooks.values() and _has_forward(module):
            calls_in(module)


def _has_forward(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward


PASSING = (
    *(Spiking, Attention, EncoderLayer, MultiheadAttention),
    *(nn.Embedding, nn.modules.loss._Loss),
)


def _is_left(name: str, exclude: Sequence[str]) -> bool:
    return bool(name) and (is_float_place(name) or is_under(name, [n for n in exclude if n]))


def let_go(network: nn.Module) -> None:
    """Look at the calls of a network no longer."""
    for module in network.modules():
        drop_methods(module)
        for hooks, extra in (
            (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
            (module._forward_hooks, module._forward_hooks_with_kwargs),
        ):
            for key in [key for key, hook in hooks.items() if hook in HOOKS]:
                del hooks[key]
                extra.pop(key, None)
                module._forward_hooks_always_called.pop(key, None)


# --- What is called ---------------------------------------------------------------------------


class Interception(TorchFunctionMode):
    """Hands functions of torch to their spiking calls."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        module = running.modules[-1] if running.modules else None
        if module is None:
            passing = running.session
            return (
                func(*args, **kwargs) if passing is None else passing.let_pass(func, args, kwargs)
            )
        if running.session is not None:
            return running.session.see(self, module, func, args, kwargs)
        name = called(func)
        if not is_watched(func) or is_scale(name, args):
            return func(*args, **kwargs)
        name = with_arguments(name, args, kwargs)
        return _converted(self, module, name, func, args, kwargs)


def _converted(
    mode: Interception, module: nn.Module, name: str, func: Any, args: Any, kwargs: Any
) -> Any:
    """What a call computes in a converted network."""
    module, at = whose(module)
    child = _child_at(module, f"{name} {at}")
    if child is None and name == "square":  # a product of a value with itself is one still
        name, child = "mul", _child_at(module, f"mul {at}")
    if child in (CONSTANT, FLOAT) or is_passing(module):
        return func(*args, **kwargs)
    if child is None and not _is_given_tensors(args, kwargs):
        return func(*args, **kwargs)  # it makes a constant
    if child is None:
        raise ValueError(
            f"model: calibration did not reach this call of {name} in {_named(module)}, whose "
            f"values are not known; calibrate on batches that use it, or name the module in "
            f"exclude"
        )
    if is_recomputed():
        raise ValueError(
            f"model: {_named(module)} calls {name} within torch.utils.checkpoint, which "
            f"repeats it in the backward pass, where no module runs and no spikes are computed; "
            f"checkpoint a module instead of a function, or name the module in exclude"
        )
    return computed(mode, module, name, child, func, args, kwargs)


def _is_given_tensors(args: Any, kwargs: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs)))


def _named(module: nn.Module) -> str:
    """A module's name in the one that was called, and its class."""
    names = running.modules[0].named_modules() if running.modules[0] is not None else ()
    name = next((name for name, other in names if other is module), "")
    return f"{name} ({type(module).__name__})" if name else type(module).__name__


def whose(module: nn.Module) -> tuple[nn.Module, str]:
    """The module whose code makes the present call, and the place there.

    Args:
        module: The one that runs; a module's code may be reached past its call.
    """
    owner, at = place(module)
    return owner if owner is module or _is_hooked(owner) else module, at


def _is_hooked(module: nn.Module) -> bool:
    hooks = module._forward_pre_hooks.values()
    return _before in hooks or _before_passing in hooks


def is_passing(module: nn.Module) -> bool:
    """Whether what a module computes is left to itself."""
    return _before_passing in module._forward_pre_hooks.values()


def _child_at(module: nn.Module, key: str) -> str | None:
    """What is called in a place; None if calibration did not reach it."""
    calls = module._modules.get(CHILD)
    if not isinstance(calls, Calls):
        return None
    child = calls.places.get(key)
    if child is None and len(running.modules) == 1:
        # A method called from outside: calibration reached it from a forward.
        return next((other for at, other in calls.places.items() if at.startswith(f"{key} ")), None)
    return child


def computed(
    mode: Interception, module: nn.Module, name: str, child: str, func: Any, args: Any, kwargs: Any
) -> Any:
    """What the spiking call at a place computes.

    Args:
        mode: Takes over the parts of a function that is composed of others.
        module: Whose code makes the call.
        name: What is called.
        child: What is there in its place.
        func: The function of torch.
        args: Its arguments.
        kwargs: Its keyword arguments.
    """
    given, named = arguments(name, args, kwargs)
    writes, target = in_place(func) or bool(named.pop("inplace", False)), given[0]
    if name == "square":
        func, given = torch.square, given[:1]
    if writes:
        with mode:
            copy = target.clone()  # what is saved for gradients is not written to
        given = [copy if value is target else value for value in given]
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
        target.copy_(y)
        return target
    return y


def _affine(y: Tensor, name: str, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """A norm's weight and bias."""
    weight = kwargs.get("weight", args[2] if len(args) > 2 else None)
    y = y if weight is None else y * weight
    bias = kwargs.get("bias", args[3] if len(args) > 3 and name == "layer_norm" else None)
    return y if bias is None else y + bias


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
        attach(network.get_submodule(name), Calls.from_spec(spec))
