"""Sealed tensors: their values leave torch by none but its operations, each of which is seen.

A proof follows values through torch's operations. What NumPy or Python compute between two of them
it cannot follow, and the tensor that comes back would pass for a constant. So every tensor that is
made while a model is watched is sealed: torch's operations take it like any other, and an attempt
to reach its memory is refused. Parameters, arrays of NumPy and other tensors from before stay open,
as nothing that depends on the sample may be written to them. A tensor of unknown origin is
therefore a constant.

The seal guards against what models do, not against code that looks for the sealed values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from spikeloom.outside import LEAVING

__all__ = ["Unfollowed", "compute", "memory_of", "opened", "seal_buffers", "sealed", "written"]

OUT_OF_TORCH = "takes values out of torch by {}, where nothing follows them"


class Unfollowed(ValueError):
    """A model does what cannot be followed.

    Attributes:
        why: What it does, a sentence without its subject.
    """

    def __init__(self, why: str, module: str = "") -> None:
        super().__init__(f"model: {repr(module) if module else 'its forward'} {why}")
        self.why = why
        self.module = module


class Sealed(Tensor):
    """A tensor without memory; torch's operations find its value elsewhere.

    Args:
        value: A dense tensor.
    """

    _value: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # torch's own way

    @staticmethod
    def __new__(cls, value: Tensor) -> Sealed:
        if value.layout is not torch.strided:
            raise Unfollowed("makes a sparse tensor, which nothing follows; use x.to_dense()")
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
        shell._value = value
        return shell

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # a class method, as torch wants it
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return compute(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]  # torch's has an option
        return f"Sealed(shape={tuple(self.shape)}, dtype={self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return memo.setdefault(id(self), self.clone())


def _refusing(name: str) -> Any:
    def refuse(self: Sealed, *args: Any, **kwargs: Any) -> NoReturn:
        raise Unfollowed(
            OUT_OF_TORCH.format(f"Tensor.{name}") + "; compute with torch's operations"
        )

    return refuse


for _name in LEAVING:
    setattr(Sealed, _name, _refusing(_name))


def sealed(values: Any) -> Any:
    """Values with every tensor sealed that is not.

    Args:
        values: A tensor, or tuples, lists and dicts of them.

    Raises:
        Unfollowed: If a tensor is sparse.
    """
    return tree_map_only(Tensor, lambda t: t if isinstance(t, Sealed) else Sealed(t), values)


def opened(values: Any) -> Any:
    """Values with every tensor as it is within its seal."""
    return tree_map_only(Sealed, lambda t: t._value, values)


def seal_buffers(model: nn.Module) -> None:
    """Seal the buffers of a model, as a forward may write to them.

    Args:
        model: A copy that is used for nothing else.
    """
    known: dict[int, Tensor] = {}
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = known.setdefault(id(buffer), sealed(buffer))


def memory_of(tensor: Tensor) -> int | None:
    """Where a tensor's values lie, so that views are known; None for a sparse tensor."""
    value: Tensor = opened(tensor)
    return value.untyped_storage().data_ptr() if value.layout is torch.strided else None


def compute(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run an operation on the values within the seals, and seal what it makes.

    Args:
        func: One of torch's operations.
        args: Its arguments, sealed or not.
        kwargs: Likewise.

    Raises:
        Unfollowed: If it writes to memory that is not sealed, or makes a sparse tensor.
    """
    targets = written(func, args, kwargs)
    _check_written(targets, tree_leaves((args, kwargs)))
    y = func(*opened(args), **opened(dict(kwargs)))
    _follow_shape(func, args, kwargs, targets)
    return _closed(func, _named(func, args, kwargs), y)


def written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that an operation writes to, in place or by ``out=``."""
    arguments = _named(func, args, kwargs)
    declared = [a for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
    leaves = tree_leaves([arguments.get(argument.name) for argument in declared])
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _named(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = (argument.name for argument in func._schema.arguments)
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _check_written(targets: list[Tensor], leaves: list[Any]) -> None:
    are_open = any(not isinstance(target, Sealed) for target in targets)
    if are_open and any(isinstance(leaf, Sealed) for leaf in leaves):
        raise Unfollowed(
            OUT_OF_TORCH.format("writing them to a tensor from outside of the forward")
            + "; register it as a buffer"
        )


def _follow_shape(
    func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], targets: list[Tensor]
) -> None:
    """Let a tensor's shape follow that of its value, which an operation may change in place."""
    changed = [t for t in targets if isinstance(t, Sealed) and not _is_current(t)]
    if any(tensor.numel() != tensor._value.numel() for tensor in changed):
        name = func.overloadpacket.__name__
        raise Unfollowed(f"resizes a tensor in place by {name}, which nothing follows")
    if changed:
        with torch._C._DisableTorchDispatch():
            func(*args, **kwargs)


def _is_current(tensor: Sealed) -> bool:
    value = tensor._value
    return tensor.shape == value.shape and tensor.stride() == value.stride()


def _closed(func: Any, arguments: Mapping[str, Any], y: Any) -> Any:
    """What an operation returns: the argument it wrote to, a view as open as its base, or new."""
    sources = {
        mark: arguments.get(argument.name)
        for argument in func._schema.arguments
        if argument.alias_info is not None
        for mark in argument.alias_info.before_set
    }
    returns = func._schema.returns
    results = []
    for result, alias in zip(
        (y,) if len(returns) == 1 else y or (), (r.alias_info for r in returns), strict=True
    ):
        source = None if alias is None else next((sources.get(m) for m in alias.before_set), None)
        if source is None:
            results.append(sealed(result))
        elif alias.is_write:
            results.append(source)
        else:
            results.append(sealed(result) if isinstance(source, Sealed) else result)
    return results[0] if len(returns) == 1 else tuple(results) if returns else y
