"""SealedRun: a run of a model in which every value stays within torch's operations."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from spikeloom.calibrate import Batch
from spikeloom.observe import Effect, meaning_of
from spikeloom.observe.run import Call, Run
from spikeloom.verify.sealed import OUT_OF_TORCH, Seal, Unfollowed, opened, within

__all__ = ["SealedRun"]

# What torch says where it wants the memory of a sealed tensor.
NO_MEMORY = ("Cannot access data pointer", "its data is not allocated", "invalid python storage")


class SealedRun(Run):
    """A run whose tensors are sealed, so that no value leaves torch unseen.

    Attributes:
        seal: Seals the tensors of the run.
        raised: The error that passes, and the innermost module that raised it.
        casting: The module that last changed the dtype of a tensor; None if none has.
        met: The module last called, and the floating-point dtypes that meet there.
        products: How many products of matrices, or convolutions, have been called. Two runs of a
            model call the same ones in the same order, so this tells which one runs now.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seal = Seal(lambda: self.module)
        self.raised: tuple[BaseException | None, str] = (None, "")
        self.casting: str | None = None
        self.met: tuple[str, list[str]] = ("", [])
        self.products = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Hand an operation on; what sees it may compute with sealed tensors."""
        known = meaning_of(func)
        self.products += known is not None and known.effect is Effect.WEIGHS
        try:
            with self.seal.seeing():
                return super().__torch_dispatch__(func, types, args, kwargs)
        except RuntimeError:
            self.met = (self.module, _float_dtypes((args, kwargs)))
            raise

    def compute(self, call: Call, constant: bool = False) -> Any:
        """Run an operation on the values within the seals."""
        if call.name == "_to_copy" and call.kwargs.get("dtype") is not None:
            self.casting = call.module
        return self.seal.compute(call.function, call.args, call.kwargs, constant)

    def holder(self, tensor: Tensor) -> Tensor:
        """The tensor whose memory holds a tensor's values."""
        return within(tensor)

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
        try:
            with super().over(model), torch.no_grad():
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

    def entered(self, name: str, module: nn.Module, args: Any, kwargs: Any, whole: bool) -> None:
        """Note which dtypes meet in a module."""
        self.met = (name, _float_dtypes((args, list(module.parameters(recurse=False)))))

    def left(self, name: str, module: nn.Module, output: Any) -> None:
        """Note the innermost module that an error passes."""
        # torch calls the hook while it handles the error, innermost module first.
        error = sys.exception()
        if error is not None and error is not self.raised[0]:
            self.raised = (error, name)


def _float_dtypes(values: Any) -> list[str]:
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return sorted({str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()})


def _called(module: str) -> str:
    return repr(module) if module else "the model"
