"""Watch: every torch operation of a forward pass, and the module it happens in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from spikeloom.calibrate import Batch
from spikeloom.modules import watched_calls
from spikeloom.modules.calls import After, Before
from spikeloom.observe import Effect, meaning_of
from spikeloom.observe.dialects import is_in_place, name_of
from spikeloom.verify.sealed import OUT_OF_TORCH, Seal, Unfollowed, opened

__all__ = ["Watch", "is_weight_call", "weight_call"]

# What torch says where it wants the memory of a sealed tensor.
NO_MEMORY = ("Cannot access data pointer", "its data is not allocated", "invalid python storage")


class Watch(TorchDispatchMode):
    """Sees every operation; derived classes say what to do with it in :meth:`seen`.

    Attributes:
        stack: The names of the modules being called, the innermost last.
        seal: Seals the tensors of the run.
        raised: The error that passes, and the innermost module that raised it.
        casting: The module that last changed the dtype of a tensor; None if none has.
        met: The module last called, and the floating-point dtypes that meet there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.seal = Seal(lambda: self.module)
        self.raised: tuple[BaseException | None, str] = (None, "")
        self.casting: str | None = None
        self.met: tuple[str, list[str]] = ("", [])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Hand an operation on, under its name without overload and in-place underscore."""
        name = name_of(func)
        kwargs = kwargs or {}
        if name == "_to_copy" and kwargs.get("dtype") is not None:
            self.casting = self.module
        try:
            with self.seal.seeing():
                return self.seen(
                    name.rstrip("_") if is_in_place(name) else name, func, args, kwargs
                )
        except RuntimeError:
            self.met = (self.module, _float_dtypes((args, kwargs)))
            raise

    def seen(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What to do with an operation; returns its result."""
        return self.seal.compute(func, args, kwargs)

    @property
    def module(self) -> str:
        """The module being called now."""
        return self.stack[-1] if self.stack else ""

    def run(self, model: nn.Module, batch: Batch) -> Any:
        """Call a model, and see every operation on the way.

        Args:
            model: A copy that is used for nothing else.
            batch: The arguments, which stay as they are.

        Returns:
            The model's output.

        Raises:
            Unfollowed: If the model takes values out of torch.
            ValueError: If two dtypes meet.
        """
        self.seal.close_buffers(model)
        copies = tree_map_only(Tensor, torch.clone, (batch.args, batch.kwargs))
        args, kwargs = self.seal.close(copies)
        self.start([leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)])
        with self.over(model):
            y = model(*args, **kwargs)
        if self.seal.refused is not None:
            raise self.seal.refused
        return opened(y)

    def start(self, inputs: list[Tensor]) -> None:
        """What to do with the model's inputs before it runs."""

    @contextmanager
    def over(self, model: nn.Module) -> Iterator[None]:
        """Watch a model while the block runs."""
        with ExitStack() as stack:
            for name, module in model.named_modules():
                before, after = self._entering(name, module), self._leaving(name)
                stack.enter_context(watched_calls(module, before, after))
            try:
                with self, torch.no_grad():
                    yield
            except RuntimeError as error:
                self._explain(error)
                raise
            finally:
                self.raised = (None, "")

    def _explain(self, error: RuntimeError) -> None:
        """Raise what lies behind an error of torch's, if that is known."""
        if any(words in str(error) for words in NO_MEMORY):
            raised, module = self.raised
            where = module if raised is error else ""
            raise Unfollowed(OUT_OF_TORCH.format("their address"), where) from error
        module, dtypes = self.met
        if len(dtypes) > 1:
            found = f"{_called(module)} meets {' and '.join(dtypes)}"
            if self.casting is None:
                raise ValueError(
                    f"model, sample: {found}; give the sample the model's dtype, such as "
                    f"sample.to(layer.weight.dtype), and new tensors in the forward x.dtype"
                ) from error
            raise ValueError(
                f"model: {found}, because the forward of {_called(self.casting)} changes the "
                f"dtype; proofs run in float64, so cast to the dtype of a parameter, such as "
                f"x.to(layer.weight.dtype), or not at all"
            ) from error

    def _entering(self, name: str, module: nn.Module) -> Before:
        def entering(args: Any, kwargs: Any, whole: bool) -> None:
            self.stack.append(name)
            self.met = (name, _float_dtypes((args, list(module.parameters(recurse=False)))))

        return entering

    def _leaving(self, name: str) -> After:
        def leaving(output: Any) -> None:
            self.stack.pop()
            # torch calls the hook while it handles the error, innermost module first.
            error = sys.exception()
            if error is not None and error is not self.raised[0]:
                self.raised = (error, name)

        return leaving


def _float_dtypes(values: Any) -> list[str]:
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return sorted({str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()})


def _called(module: str) -> str:
    return repr(module) if module else "the model"


def is_weight_call(name: str) -> bool:
    """Whether an operation is one of a weight layer."""
    operation = meaning_of(name)
    return operation is not None and operation.effect is Effect.WEIGHS


def weight_call(name: str, args: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """The two factors of a weight layer's operation."""
    operation: Any = meaning_of(name)
    first, second = operation.factors
    return args[first], args[second]
