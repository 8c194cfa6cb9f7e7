"""Names of modules among the arguments."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

__all__ = ["check_names"]


def check_names(argument: str, names: Collection[str], model: nn.Module) -> None:
    """Raise unless these are names of the model's modules.

    Args:
        argument: What errors call it.
        names: The names.
        model: Whose modules they are.

    Raises:
        TypeError: If it is one string, which would be read letter by letter.
        ValueError: If the model has no such module.
    """
    if isinstance(names, str):
        raise TypeError(f"{argument}: must be names of modules, such as [{names!r}], got {names!r}")
    known = dict(model.named_modules())
    for name in names:
        if name not in known:
            raise ValueError(f"{argument}: the model has no module {name!r}")
