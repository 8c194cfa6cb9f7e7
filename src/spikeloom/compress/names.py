"""Names of layers among the arguments."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["names_of_layers"]


def names_of_layers(layers: Iterable[str] | None) -> list[str] | None:
    """The names as a list; None stands for all layers.

    Raises:
        TypeError: If it is one string, which would be read letter by letter, or holds no names.
    """
    if layers is None:
        return None
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        shown = layers if isinstance(layers, str) else "0"
        raise TypeError(f"layers: must be names of layers, such as [{shown!r}], got {layers!r}")
    return list(layers)
