"""Named tuples for states and parameters whose names are known only at run time.

Norse builds its tuples with a metaclass, and those cannot be pickled. Pickle finds a class as an
attribute of its module; so these classes are attributes of this module, made when first named.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils import _pytree

__all__ = ["make_savable", "named_tuple"]


@functools.cache
def named_tuple(typename: str, fields: tuple[str, ...]) -> Any:
    """A ``typing.NamedTuple`` of tensors, the same class whenever it is asked for.

    Args:
        typename: The class's name.
        fields: Its fields, in order.

    Raises:
        ValueError: If a field is no identifier, is a keyword or begins with an underscore.

    Example:
        >>> import pickle
        >>> state = named_tuple("State", ("v", "a"))(v=1, a=2)
        >>> pickle.loads(pickle.dumps(state))
        State(v=1, a=2)
    """
    declare: Any = NamedTuple  # mypy knows it with literal names only
    made = declare(typename, [(name, Tensor) for name in fields])
    made.__module__, made.__qualname__ = __name__, f"{typename}({', '.join(fields)})"
    make_savable(made)
    return made


def make_savable(cls: Any) -> None:
    """Let ``torch.export.save`` write programs that take or return a named tuple.

    Args:
        cls: The class. A process that loads such a program has to do the same first.
    """
    if cls not in _pytree.SUPPORTED_NODES:
        _pytree._register_namedtuple(
            cls, serialized_type_name=f"{cls.__module__}.{cls.__qualname__}"
        )


def __getattr__(name: str) -> Any:
    typename, bracket, fields = name.removesuffix(")").partition("(")
    if not bracket:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return named_tuple(typename, tuple(fields.split(", ")) if fields else ())
