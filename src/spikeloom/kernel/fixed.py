"""Fixed: a mapping that can be read, copied and pickled, but not changed."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import Any, NoReturn, TypeVar

__all__ = ["Fixed"]

V = TypeVar("V")


class Fixed(Mapping[str, V]):
    """A mapping that stays as it is made.

    Args:
        values: What it holds, copied.

    Raises:
        TypeError: When an entry is set or deleted.

    Example:
        >>> from spikeloom.kernel.fixed import Fixed
        >>> values = Fixed({"tau": 2.0})
        >>> values, {**values, "tau": 3.0}
        ({'tau': 2.0}, {'tau': 3.0})
    """

    def __init__(self, values: Mapping[str, V]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> V:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    # Mapping derives these from the three above, which takes longer, and every call reads them.

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def get(self, name: str, default: Any = None) -> Any:
        """The value of this name, or the default."""
        return self._values.get(name, default)

    def items(self) -> ItemsView[str, V]:
        """Names and values."""
        return self._values.items()

    def values(self) -> ValuesView[V]:
        """The values."""
        return self._values.values()

    def __setitem__(self, name: str, value: Any) -> NoReturn:
        raise TypeError(
            f"{name!r}: cannot be set to {value!r}, because what a neuron is made from stays; make "
            f"a new one, as neuron.replace({name}=...) does"
        )

    def __delitem__(self, name: str) -> NoReturn:
        raise TypeError(f"{name!r}: cannot be deleted, because what a neuron is made from stays")

    def __repr__(self) -> str:
        return repr(self._values)
