"""How an operation is written: as a function, a method, an operator of Python, or by its schema.

``torch.nn.functional.relu``, ``Tensor.relu_``, ``aten::relu`` and ``aten.relu.default`` are one
operation, and so are ``torch.add``, ``Tensor.__radd__`` and ``operator.add``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

__all__ = [
    "arguments",
    "by_name",
    "is_in_place",
    "name_of",
    "overload_of",
    "overloads_of",
    "spellings",
    "written",
]

# Namespaces whose operations go by their plain names.
PLAIN = ("aten", "spikeloom")
# Modules that define torch's functions, or stand for its methods.
HOMES = ("torch", "_operator")


def name_of(operation: Any) -> str:
    """An operation's name as it was called, without its overload.

    Args:
        operation: A function, a method, an operator, or its name in any dialect.
    """
    if isinstance(operation, torch._ops.OpOverload):
        operation = operation._schema.name
    elif isinstance(operation, torch._ops.OpOverloadPacket):
        operation = operation._qualified_op_name
    if not isinstance(operation, str):
        return _name_of_function(operation)
    namespace, _, name = operation.rpartition("::")
    if namespace:
        return name if namespace in PLAIN else operation
    first, *rest = operation.split(".")
    if rest and first in PLAIN:
        return rest[0]
    return rest[-1] if rest and first in ("torch", "Tensor") else operation


def _name_of_function(function: Any) -> str:
    name: str = getattr(function, "__name__", type(function).__name__)
    owner = getattr(function, "__self__", None)
    if name == "__get__":  # of a property such as Tensor.shape
        return str(getattr(owner, "__name__", name))
    method = getattr(function, "__objclass__", None)
    homes = (getattr(place, "__module__", None) for place in (function, method, owner))
    home = next((home for home in homes if home), getattr(owner, "__name__", ""))
    return name if home.partition(".")[0] in HOMES else f"{home}.{name}"


def spellings(operation: Any) -> Iterator[str]:
    """The names under which an operation may stand in a table, the most particular one first.

    Args:
        operation: A function, a method, an operator, or its name in any dialect.
    """
    name = name_of(operation)
    if getattr(operation, "__module__", None) == "torch.nn.functional":
        yield f"functional.{name}"
    if getattr(operation, "__objclass__", None) is torch._C.TensorBase:
        yield f"Tensor.{name}"
    yield name
    if name.startswith("__") and name.endswith("__"):
        name = name.strip("_")
        yield name
        yield name[1:]  # __radd__ and __iadd__ add
        return
    if is_in_place(name):
        name = name.rstrip("_")
        yield name
    yield re.sub("^(special|linalg|unsafe|native)_|_(copy|with_indices)$", "", name)


def is_in_place(name: str) -> bool:
    """Whether a name is that of an operation that writes into its first argument.

    Args:
        name: As :func:`name_of` returns it.
    """
    if name.startswith("__"):
        return name == "__setitem__" or (name.startswith("__i") and name not in NOT_IN_PLACE)
    return name.endswith("_") and not name.startswith("_")


def overload_of(name: str, overload: str = "default") -> Any:
    """The overload of torch's of this name, to be called, or to stand in a graph.

    Args:
        name: The operation's plain name.
        overload: Which of its signatures.
    """
    return getattr(getattr(torch.ops.aten, name), overload)


def overloads_of(name: str) -> list[Any]:
    """All overloads of torch's of a name.

    Args:
        name: The operation's plain name.
    """
    return [overload_of(name, overload) for overload in getattr(torch.ops.aten, name).overloads()]


# Methods of Python's whose names begin alike.
NOT_IN_PLACE = ("__index__", "__int__", "__invert__", "__iter__", "__init__")


# The names of arguments, where a call may give them by name.
ARGUMENTS = {
    "addcmul": "input tensor1 tensor2",
    "addmm": "input mat1 mat2",
    "baddbmm": "input batch1 batch2",
    "bilinear": "input1 input2 weight bias",
    "bmm": "input mat2",
    "celu": "input alpha",
    "clamp": "input min max",
    "cosine_similarity": "x1 x2 dim eps",
    "elu": "input alpha",
    "gelu": "input",
    "glu": "input dim",
    "group_norm": "input num_groups weight bias eps",
    "hardtanh": "input min_val max_val",
    "layer_norm": "input normalized_shape weight bias eps",
    "leaky_relu": "input negative_slope",
    "mm": "input mat2",
    "norm": "input p dim keepdim",
    "normalize": "input p dim eps",
    "pow": "input exponent",
    "rms_norm": "input normalized_shape weight eps",
    "scaled_dot_product_attention": "query key value attn_mask dropout_p is_causal",
    "softmax": "input dim",
    "softmin": "input dim",
    "vector_norm": "input ord dim keepdim",
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "linear"), "input weight bias"),
}


def arguments(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call by position, as far as their names are known; the rest by name.

    Args:
        name: The operation's.
        args: As they were given by position.
        kwargs: As they were given by name.
    """
    found, rest = list(args), dict(kwargs)
    known = ARGUMENTS.get(name, "input other").split()
    while len(found) < len(known) and any(later in rest for later in known[len(found) :]):
        found.append(rest.pop(known[len(found)], None))
    if name == "einsum" and len(found) == 2 and isinstance(found[1], (list, tuple)):
        found = [found[0], *found[1]]
    return found, rest


def by_name(overload: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an overload's call by the names that its schema has.

    Args:
        overload: One of torch's.
        args: As they were given by position.
        kwargs: As they were given by name.
    """
    return {**dict(zip(_names(overload), args, strict=False)), **kwargs}


@cache
def _names(overload: Any) -> tuple[str, ...]:
    return tuple(argument.name for argument in overload._schema.arguments)


def written(overload: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that a call of an overload writes to, in place or by ``out=``.

    Args:
        overload: One of torch's.
        args: As they were given by position.
        kwargs: As they were given by name.
    """
    if not overload._schema.is_mutable:
        return []
    arguments = by_name(overload, args, kwargs)
    declared = [a for a in overload._schema.arguments if a.alias_info and a.alias_info.is_write]
    leaves = tree_leaves([arguments.get(argument.name) for argument in declared])
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
