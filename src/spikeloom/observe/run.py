"""One run of a model: every operation of torch, and the module that it happens in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spikeloom.modules.calls import watched_calls
from spikeloom.observe.dialects import is_in_place, name_of, written
from spikeloom.observe.operation import Effect, Operation
from spikeloom.observe.operators import meaning_of

__all__ = ["Call", "Run"]


class Call:
    """One call of an operation.

    Attributes:
        function: The operation, an overload of torch's.
        args: Its arguments.
        kwargs: Those by name.
        module: The name of the module that calls it, "" for the model itself.
        result: What it returned; None before it has run.
    """

    def __init__(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], module: str
    ) -> None:
        self.function, self.args, self.kwargs, self.module = function, args, kwargs, module
        self.result: Any = None

    @cached_property
    def name(self) -> str:
        """The operation's name as it was called, without overload and in-place underscore."""
        name = name_of(self.function)
        return name.rstrip("_") if is_in_place(name) else name

    @property
    def operation(self) -> Operation | None:
        """What it does with these arguments; None if that is not known."""
        known = meaning_of(self.function)
        return None if known is None else known.of_call(self.args, self.kwargs, self.result)

    @property
    def effect(self) -> Effect | None:
        """What it does to values, whatever the arguments; None if that is not known."""
        known = meaning_of(self.function)
        return None if known is None else known.effect

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """The two factors of a product of matrices, or of a convolution."""
        known: Any = meaning_of(self.function)
        first, second = known.factors
        return self.args[first], self.args[second]

    @cached_property
    def written(self) -> list[Tensor]:
        """The tensors that it writes to, in place or by ``out=``."""
        return written(self.function, self.args, self.kwargs)


class Run(TorchDispatchMode):
    """Sees every operation; derived classes say what to do with it in :meth:`seen`.

    Attributes:
        stack: The modules being called, with their names, the innermost last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[tuple[str, nn.Module]] = []

    @property
    def module(self) -> str:
        """The name of the module being called now."""
        return self.stack[-1][0] if self.stack else ""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Hand an operation on."""
        return self.seen(Call(func, args, kwargs or {}, self.module))

    def seen(self, call: Call) -> Any:
        """What to do with an operation; returns its result."""
        return self.compute(call)

    def compute(self, call: Call, constant: bool = False) -> Any:
        """Run an operation.

        Args:
            call: Which.
            constant: Whether nothing that it reads has a label.
        """
        return call.function(*call.args, **call.kwargs)

    def hears(self, name: str, module: nn.Module) -> bool:
        """Whether to hear of a module's calls; those of torch.jit take no hooks.

        Args:
            name: Its name in the model.
            module: The module.
        """
        return not isinstance(module, torch.jit.ScriptModule)

    def entered(self, name: str, module: nn.Module, args: Any, kwargs: Any, whole: bool) -> None:
        """What to do when a module is called.

        Args:
            name: Its name in the model.
            module: The module.
            args: What it is called with.
            kwargs: The same by name.
            whole: Whether that holds a whole sequence.
        """

    def left(self, name: str, module: nn.Module, output: Any) -> None:
        """What to do when a module returns, or raises: its output is None then."""

    @contextmanager
    def over(self, model: nn.Module) -> Iterator[None]:
        """See what a model does while the block runs.

        Args:
            model: May be called there by any of its methods, and more than once.
        """
        with ExitStack() as stack:
            for name, module in model.named_modules():
                if self.hears(name, module):
                    stack.enter_context(self._hearing(name, module))
            stack.enter_context(self)
            yield

    def _hearing(self, name: str, module: nn.Module) -> Any:
        def enter(args: Any, kwargs: Any, whole: bool) -> None:
            self.stack.append((name, module))
            self.entered(name, module, args, kwargs, whole)

        def leave(output: Any) -> None:
            self.stack.pop()
            self.left(name, module, output)

        return watched_calls(module, enter, leave)
