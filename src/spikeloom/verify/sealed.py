"""Sealed tensors: their values leave torch by none but its operations, each of which is seen.

A proof follows values through torch's operations. What NumPy or Python compute between two of them
it cannot follow, and the tensor that comes back would pass for a constant. So every tensor that is
made while a model is watched is sealed: torch's operations take it like any other, and an attempt
to reach its memory is refused, and so is an operation that the watch does not see. Parameters,
arrays of NumPy and other tensors from before stay open, as nothing may be written to them but
constants. A tensor of unknown origin is therefore a constant.

The seal guards against what models do, not against code that looks for the sealed values.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from spikeloom.observe import Effect
from spikeloom.observe.dialects import by_name, written
from spikeloom.observe.operators import names_of

__all__ = ["OUT_OF_TORCH", "Seal", "Sealed", "Unfollowed", "opened", "within"]

OUT_OF_TORCH = "takes values out of torch by {}, where nothing follows them"


class Unfollowed(ValueError):
    """A model does what cannot be followed.

    Attributes:
        why: What it does, a sentence without its subject.
        module: The name of the module that does it.
    """

    def __init__(self, why: str, module: str) -> None:
        super().__init__(f"model: {repr(module) if module else 'its forward'} {why}")
        self.why = why
        self.module = module


class Sealed(Tensor):
    """A tensor without memory; torch's operations find its value elsewhere.

    Args:
        value: A dense tensor.
        seal: Of the run that it belongs to.
    """

    _value: Tensor
    _seal: Seal
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # torch's own way

    @staticmethod
    def __new__(cls, value: Tensor, seal: Seal) -> Sealed:
        """A shell of a tensor's shape around it."""
        shell: Sealed = Tensor._make_wrapper_subclass(
            cls,
            value.size(),
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=value.device,
        )
        # Functions in C raise then, where they would read at the address 0.
        torch._C._set_throw_on_mutable_data_ptr(shell)
        shell._value, shell._seal = value, seal
        return shell

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # a class method, as torch wants it
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        leaves = tree_leaves((args, kwargs))
        seal: Seal = next(leaf for leaf in leaves if isinstance(leaf, Sealed))._seal
        if not seal.is_seeing:
            seal.refuse(
                OUT_OF_TORCH.format("computing in another thread or behind its dispatch modes")
            )
        return seal.compute(func, args, kwargs or {})

    @property
    def data(self) -> Tensor:
        """The tensor without its graph, as torch gives it."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        self._seal.refuse(OUT_OF_TORCH.format("setting Tensor.data") + "; use Tensor.copy_")

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]  # torch's has an option
        return f"Sealed(shape={tuple(self.shape)}, dtype={self.dtype})"

    def __format__(self, spec: str) -> str:
        # torch's own reads single values of plain tensors only.
        return format(self.item(), spec) if self.dim() == 0 else super().__format__(spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return memo.setdefault(id(self), self.clone())


def _refusing(name: str) -> Any:
    def refuse(self: Sealed, *args: Any, **kwargs: Any) -> NoReturn:
        self._seal.refuse(
            OUT_OF_TORCH.format(f"Tensor.{name}") + "; compute with torch's operations"
        )

    return refuse


for _name in set(names_of(Effect.LEAVES)) - set(vars(Sealed)):
    setattr(Sealed, _name, _refusing(_name))


def opened(values: Any) -> Any:
    """Values with every tensor as it is within its seal."""
    return tree_map_only(Sealed, lambda t: t._value, values)


def within(tensor: Tensor) -> Tensor:
    """A tensor as it is within its seal."""
    return tensor._value if isinstance(tensor, Sealed) else tensor


class Seal:
    """Seals the tensors of one run, and computes with them.

    Args:
        place: Says which module runs now.

    Attributes:
        refused: What was refused first, also if the model caught the error and went on.
    """

    def __init__(self, place: Callable[[], str]) -> None:
        self.refused: Unfollowed | None = None
        self._place = place
        self._seeing = threading.local()

    @contextmanager
    def seeing(self) -> Iterator[None]:
        """Let this thread compute with sealed tensors: its operations are seen."""
        before = self.is_seeing
        self._seeing.now = True
        try:
            yield
        finally:
            self._seeing.now = before

    @property
    def is_seeing(self) -> bool:
        """Whether the operations of this thread are seen."""
        return getattr(self._seeing, "now", False)

    def refuse(self, why: str) -> NoReturn:
        """Raise, and remember it.

        Raises:
            Unfollowed: Always.
        """
        error = Unfollowed(why, self._place())
        self.refused = self.refused or error
        raise error

    def close(self, values: Any) -> Any:
        """Values with every tensor sealed that is not.

        Args:
            values: A tensor, or tuples, lists and dicts of them.

        Raises:
            Unfollowed: If a tensor is sparse.
        """
        return tree_map_only(Tensor, self._closed, values)

    def _closed(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, Sealed):
            return tensor
        if tensor.layout is not torch.strided:
            self.refuse("makes a sparse tensor, which nothing follows; use x.to_dense()")
        return Sealed(tensor, self)

    def close_buffers(self, model: nn.Module) -> None:
        """Seal the buffers of a model, as a forward may write to them.

        Args:
            model: A copy that is used for nothing else.
        """
        known: dict[int, Tensor] = {}
        for module in model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = known.setdefault(id(buffer), self.close(buffer))

    def compute(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], constant: bool = False
    ) -> Any:
        """Run an operation on the values within the seals, and seal what it makes.

        Args:
            func: One of torch's operations.
            args: Its arguments, sealed or not.
            kwargs: Likewise.
            constant: Whether what it writes is known not to depend on the sample.

        Raises:
            Unfollowed: If it writes what may depend on the sample to memory that is not sealed,
                resizes a tensor in place, or makes a sparse tensor.
        """
        arguments = by_name(func, args, kwargs)
        targets = written(func, args, kwargs)
        if targets and not constant:
            self._check_written(targets, arguments)
        y = func(*map(_value_of, args), **{key: _value_of(kwargs[key]) for key in kwargs})
        if targets:
            self._follow_shape(func, args, kwargs, targets)
        return self._results(func, arguments, y)

    def _check_written(self, targets: list[Tensor], arguments: Mapping[str, Any]) -> None:
        are_open = any(not isinstance(target, Sealed) for target in targets)
        if are_open and any(isinstance(leaf, Sealed) for leaf in tree_leaves(arguments)):
            self.refuse(
                OUT_OF_TORCH.format("writing them to a tensor from outside of the forward")
                + "; register it as a buffer"
            )

    def _follow_shape(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], targets: list[Tensor]
    ) -> None:
        """Let a tensor's shape follow that of its value, which an operation may change in place."""
        changed = [t for t in targets if isinstance(t, Sealed) and not _is_current(t)]
        if any(tensor.numel() != tensor._value.numel() for tensor in changed):
            name = func.overloadpacket.__name__
            self.refuse(f"resizes a tensor in place by {name}, which nothing follows")
        if changed:
            with torch._C._DisableTorchDispatch():
                func(*args, **kwargs)

    def _results(self, func: Any, arguments: Mapping[str, Any], y: Any) -> Any:
        """What an operation returns: what it wrote to, a view as open as its base, or new."""
        returns, single = _returns(func), len(_returns(func)) == 1
        results = [
            self._result(result, None if name is None else arguments.get(name), is_written)
            for result, (name, is_written) in zip((y,) if single else y or (), returns, strict=True)
        ]
        return results[0] if single else tuple(results) if returns else y

    def _result(self, result: Any, source: Any, is_written: bool) -> Any:
        if source is not None and is_written:
            return source
        if isinstance(source, Tensor) and not isinstance(source, Sealed):
            return result
        return self._closed(result) if isinstance(result, Tensor) else self.close(result)


@cache
def _returns(func: Any) -> list[tuple[str | None, bool]]:
    """For each result the argument that it is, or is a view of, and whether that is written to."""
    owners = {
        mark: argument.name
        for argument in func._schema.arguments
        if argument.alias_info is not None
        for mark in argument.alias_info.before_set
    }
    aliases = [returned.alias_info for returned in func._schema.returns]
    return [
        (None, False)
        if alias is None
        else (next((owners[m] for m in alias.before_set if m in owners), None), alias.is_write)
        for alias in aliases
    ]


def _value_of(argument: Any) -> Any:
    """An operation's argument, a tensor, a list of them or a constant, without its seal."""
    if isinstance(argument, Sealed):
        return argument._value
    return (
        [_value_of(part) for part in argument] if isinstance(argument, (list, tuple)) else argument
    )


def _is_current(tensor: Sealed) -> bool:
    value = tensor._value
    return tensor.shape == value.shape and tensor.stride() == value.stride()
