"""What the command line names by ``package.module:name``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

__all__ = ["is_import_path", "made_by"]


def is_import_path(text: str) -> bool:
    """Whether a text names something in a module, rather than a file or folder."""
    module, colon, name = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in f"{module}.{name}".split("."))


def made_by(argument: str, text: str) -> Any:
    """What a name stands for; a function or class is called without arguments.

    Args:
        argument: What errors call it.
        text: ``package.module:name``, with dots in the name for attributes.
    """
    module, _, name = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # a module that the named one needs
        raise ImportError(
            f"{argument}: there is no module {module!r}; run spikeloom in the folder that holds it"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ImportError(f"{argument}: {module} has no {name!r}")
        found = getattr(found, part)
    # A torch module and a description are callable too, and are what is meant themselves.
    return found() if isinstance(found, type) or _is_function(found) else found


def _is_function(found: Any) -> bool:
    return callable(found) and hasattr(found, "__code__")
