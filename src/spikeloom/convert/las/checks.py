"""What must hold before values are encoded: nothing is left in float, and nothing has changed.

Rules replace modules. What a model computes outside of modules, by a call of ``softmax`` in its
``forward``, say, no rule can see, nor what NumPy computes; and a layer that only looks like another
would be replaced by something else. All are found while the first batch of calibration passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from spikeloom.calibrate import Batch
from spikeloom.convert.las.attention import Attention
from spikeloom.convert.las.rules import is_float_place, is_kept, is_spiking, is_under
from spikeloom.observe import Effect, Operation, meaning_of
from spikeloom.observe.dialects import is_in_place, name_of

__all__ = ["check_same", "nothing_in_float"]

# What spikes compute, however constant the other operands are.
ALWAYS = frozenset((Effect.WEIGHS, Effect.NORMALISES, Effect.READS, Effect.LEAVES))
# What puts no value into a signal.
HARMLESS = frozenset(
    {
        *(Effect.ORDERS, Effect.TESTS, Effect.RANKS, Effect.DECIDES, Effect.FIRES),
        *(Effect.LOOKS_UP, Effect.SCORES, Effect.MAKES, Effect.DESCRIBES),
    }
)
# Results of these depend on no activation.
CONSTANT = frozenset((Effect.MAKES, Effect.DESCRIBES))
SHOWN = 6  # places in an error


class _Calls(TorchFunctionMode):
    """Notes what a network computes of its activations outside of spiking layers.

    An activation is what descends from an input in floating point, or from a lookup.

    Args:
        network: What is watched.
        exclude: Names of modules that may stay in float.
        call: The arguments that it is called with.
    """

    def __init__(self, network: nn.Module, exclude: Sequence[str], call: Batch) -> None:
        super().__init__()
        self.network = network
        self.names = {id(module): name for name, module in network.named_modules()}
        self.exclude = exclude
        self.inside: list[nn.Module] = []
        self.found: dict[str, list[str]] = {}
        self.activations: Any = WeakTensorKeyDictionary()
        self._note([leaf for leaf in _tensors(call) if leaf.is_floating_point()])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operation = meaning_of(func)
        effect = None if operation is None else operation.effect
        # Before it runs, as it may write into its own arguments.
        read = args if operation is None else operation.read(args)
        descends = effect is Effect.LOOKS_UP or any(map(self._varies, _tensors((read, kwargs))))
        is_refused = descends and self._is_refused(operation, args, kwargs)
        result = func(*args, **kwargs)
        if is_refused and (operation is not None or _tensors(result)) and not self._allowed():
            self._refuse(_written_as(func))
        if descends and effect not in CONSTANT:
            self._note(_tensors(result))
            if is_in_place(name_of(func)):
                self._note([args[0], *([] if args[0]._base is None else [args[0]._base])])
        return result

    def _varies(self, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and leaf in self.activations

    def _note(self, tensors: Sequence[Tensor]) -> None:
        self.activations.update(dict.fromkeys(tensors))

    def _is_refused(self, operation: Operation | None, args: Any, kwargs: Any) -> bool:
        """Whether spikes have to compute an operation on activations, or nothing is known of it."""
        if operation is None or operation.effect in ALWAYS:
            return True
        return operation.effect not in HARMLESS and not operation.is_affine(
            args, kwargs, self._varies
        )

    def _refuse(self, name: str) -> None:
        module = self.inside[-1]
        place = self.names[id(module)] or "'', the model's own forward"
        called = self.found.setdefault(f"{place} ({type(module).__name__})", [])
        called += [name] if name not in called else []

    def _allowed(self) -> bool:
        """Whether float is in place where the network is now."""
        if not self.inside or any(is_kept(part) or is_spiking(part) for part in self.inside):
            return True
        name = self.names[id(self.inside[-1])]
        return is_under(name, self.exclude) or is_float_place(name)

    def enter(self, module: nn.Module, args: Any) -> None:
        """A hook: a module begins."""
        if id(module) in self.names or isinstance(module, Attention):
            self.inside.append(module)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """A hook: a module ends, or fails."""
        if self.inside and self.inside[-1] is module:
            self.inside.pop()
            if is_spiking(module):
                self._note(_tensors(output))


def _tensors(values: Any) -> list[Tensor]:
    leaves = tree_leaves((values.args, values.kwargs) if isinstance(values, Batch) else values)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _written_as(func: Any) -> str:
    """An operation's name as users write it, such as ``logsigmoid``."""
    path = resolve_name(func) or ""
    return path.rpartition(".")[2] if path.startswith("torch.nn.functional.") else name_of(func)


@contextmanager
def nothing_in_float(network: nn.Module, exclude: Sequence[str], call: Batch) -> Iterator[None]:
    """Watch a call of a network whose layers are spiking, and refuse what it computes otherwise.

    Args:
        network: What is called within.
        exclude: Names of modules that may stay in float; ``""`` is the model's own forward.
        call: The arguments that it is called with.

    Raises:
        TypeError: If what is not affine in the activations is computed outside of spiking layers,
            or values are taken out of torch there, with the modules that do.
    """
    calls = _Calls(network, exclude, call)
    # Of all modules, as an attention gets its sites within the call.
    hooks = [
        register_module_forward_pre_hook(calls.enter),
        register_module_forward_hook(calls.leave, always_call=True),
    ]
    try:
        with calls:
            yield
    finally:
        for hook in hooks:
            hook.remove()
    if calls.found:
        places = [f"{place} calls {', '.join(called)}" for place, called in calls.found.items()]
        more = f"; and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
        raise TypeError(
            f"model: this is computed in float, outside of the modules that rules convert: "
            f"{'; '.join(places[:SHOWN])}{more}. Use modules such as nn.GELU or "
            f"nn.MultiheadAttention instead, or leave it as it is by naming the modules in exclude"
        )


def check_same(
    expected: dict[str, list[Tensor]], found: dict[str, list[Tensor]], dtype: torch.dtype
) -> None:
    """Refuse a network that computes something else once its layers are replaced.

    Args:
        expected: Outputs of the original's layers, by name; what they lack was replaced as a part
            of something larger.
        found: Those of the replaced layers, before any value is encoded.
        dtype: What they were computed in.

    Raises:
        ValueError: If a layer's output differs by more than rounding, or the original's is NaN or
            infinite.
    """
    # Models of transformers compute some of their layers in float32 whatever their dtype.
    allowed = 4 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps) ** 0.5
    pairs = [
        (name, *pair)
        for name in expected
        for pair in zip(expected[name], found.get(name, ()), strict=False)
    ]
    for name, wanted, given in pairs:
        if not bool(wanted.isfinite().all()):
            raise ValueError(
                f"calibration: {name} of the model itself is NaN or infinite on the first batch"
            )
        distance = float((given - wanted).norm() / wanted.norm().clamp(min=1e-30))
        if not distance <= allowed:
            raise ValueError(
                f"model: with its modules replaced, {name} computes something else, by "
                f"{distance:.1e} of its norm before any value is encoded; a module within looks "
                f"like one that a rule converts, and is not: name it in exclude"
            )
