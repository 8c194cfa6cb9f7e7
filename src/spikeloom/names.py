"""Names of modules among the arguments."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

__all__ = ["check_names", "names_of"]


def names_of(argument: str, names: Iterable[str]) -> list[str]:
    """The names as a list.

    Args:
        argument: What errors call it.
        names: The names.

    Raises:
        TypeError: If it is one string, which would be read letter by letter, or holds no names.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        shown = names if isinstance(names, str) else "0"
        raise TypeError(f"{argument}: must be names of modules, such as [{shown!r}], got {names!r}")
    return list(names)


def check_names(argument: str, names: Iterable[str], model: nn.Module) -> None:
    """Raise unless these are names of the model's modules.

    Args:
        argument: What errors call it.
        names: The names.
        model: Whose modules they are.

    Raises:
        TypeError: As for :func:`names_of`.
        ValueError: If the model has no such module.
    """
    known = dict(model.named_modules())
    for name in names_of(argument, names):
        if name not in known:
            raise ValueError(f"{argument}: the model has no module {name!r}")
