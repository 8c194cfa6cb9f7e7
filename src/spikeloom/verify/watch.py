"""Watch: every torch operation of a forward pass, and the module it happens in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["WEIGHTED", "Watch", "call", "weight_call"]

# Operations of weight layers, and where their activation and their weights may stand.
WEIGHTED = {
    "convolution": (0, 1),
    "mm": (0, 1),
    "bmm": (0, 1),
    "mv": (0, 1),
    "dot": (0, 1),
    "addmm": (1, 2),
    "baddbmm": (1, 2),
    "addmv": (1, 2),
}


class Watch(TorchDispatchMode):
    """Sees every operation; derived classes say what to do with it in :meth:`seen`.

    Attributes:
        stack: The names of the modules being called, the innermost last.
        casting: The module that last changed the dtype of a tensor.
        met: The module last called, and the floating-point dtypes that meet there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.casting = ""
        self.met: tuple[str, list[str]] = ("", [])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Hand an operation on, under its name without overload and in-place underscore."""
        name = func.overloadpacket.__name__
        plain = name if name.startswith("_") else name.rstrip("_")
        kwargs = kwargs or {}
        if plain == "_to_copy" and kwargs.get("dtype") is not None:
            self.casting = self.module
        try:
            return self.seen(plain, func, args, kwargs)
        except RuntimeError:
            self.met = (self.module, _float_dtypes((args, kwargs)))
            raise

    def seen(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What to do with an operation; returns its result."""
        return func(*args, **kwargs)

    @property
    def module(self) -> str:
        """The module being called now."""
        return self.stack[-1] if self.stack else ""

    @contextmanager
    def over(self, model: nn.Module) -> Iterator[None]:
        """Watch a model while the block runs."""
        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(self._entering(name)))
            handles.append(module.register_forward_hook(self._leaving, always_call=True))
        try:
            with self, torch.no_grad():
                yield
        except RuntimeError as error:
            module, dtypes = self.met
            if len(dtypes) < 2:
                raise
            raise ValueError(
                f"model: {_called(module)} meets {' and '.join(dtypes)}, because the forward of "
                f"{_called(self.casting)} changes the dtype; proofs run in float64, so cast to the "
                f"dtype of a parameter, such as x.to(layer.weight.dtype), or not at all"
            ) from error
        finally:
            for handle in handles:
                handle.remove()

    def _entering(self, name: str) -> Any:
        def entering(module: nn.Module, args: Any) -> None:
            self.stack.append(name)
            self.met = (name, _float_dtypes((args, list(module.parameters(recurse=False)))))

        return entering

    def _leaving(self, module: nn.Module, args: Any, output: Any) -> None:
        self.stack.pop()


def _float_dtypes(values: Any) -> list[str]:
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return sorted({str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()})


def _called(module: str) -> str:
    return repr(module) if module else "the model"


def call(model: nn.Module, sample: Any) -> Any:
    """The model on a sample: a tensor, a tuple of arguments or a mapping of them."""
    if isinstance(sample, dict):
        return model(**sample)
    return model(*sample) if isinstance(sample, (tuple, list)) else model(sample)


def weight_call(name: str, args: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """The two factors of a weight layer's operation."""
    first, second = WEIGHTED[name]
    return args[first], args[second]
