"""Report: what a method did, row by row; it prints as a table and saves as JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from spikeloom.files import whole_file, write_text

__all__ = ["Report"]


@dataclass
class Report:
    """A table with a title and notes; other reports derive from it and add their own numbers.

    Args:
        title: What was done.
        columns: Column names; the first one names the row, usually a module.
        rows: One sequence per row, a value for each column.
        notes: Sentences shown below the table.

    Raises:
        ValueError: If a row has not one value for each column.

    Example:
        >>> report = Report("Pruned", ("layer", "zeros"), [("fc1", 0.9), ("fc2", 0.895)])
        >>> report.notes.append("2 layers")
        >>> print(report)
        Pruned
        layer  zeros
        -----  -----
        fc1      0.9
        fc2    0.895
        2 layers
        >>> report.column("zeros")
        [0.9, 0.895]
    """

    title: str
    columns: Sequence[str]
    rows: list[Sequence[Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        rows, self.rows = self.rows, []
        for row in rows:
            self.add(*row)

    def add(self, *values: Any) -> None:
        """Append a row.

        Args:
            values: One for each column.

        Raises:
            ValueError: If there are more or fewer values than columns.
        """
        if len(values) != len(self.columns):
            raise ValueError(
                f"row: {len(self.columns)} values needed, one for each of "
                f"{', '.join(self.columns)}; got {len(values)}"
            )
        self.rows.append(values)

    def column(self, name: str) -> list[Any]:
        """All values of one column.

        Args:
            name: One of ``columns``.

        Raises:
            ValueError: If there is no such column.
        """
        if name not in self.columns:
            raise ValueError(f"column: {name!r} is not one of {', '.join(self.columns)}")
        index = list(self.columns).index(name)
        return [row[index] for row in self.rows]

    def __str__(self) -> str:
        cells = [[_shown(value) for value in row] for row in self.rows]
        table = [list(self.columns), *cells]
        widths = [max(len(row[i]) for row in table) for i in range(len(self.columns))]
        right = [_is_numeric(self.column(name)) for name in self.columns]
        lines = [_line(row, widths, right) for row in (table[0], ["-" * w for w in widths], *cells)]
        return "\n".join([self.title, *lines, *self.notes])

    def as_dict(self) -> dict[str, Any]:
        """What ``to_json`` writes; rows are mappings from column to value."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {"title": self.title, "rows": rows, "notes": list(self.notes)}

    def to_json(self) -> str:
        """The report as JSON text; NaN and infinities become null."""
        return json.dumps(_plain(self.as_dict()), indent=2, ensure_ascii=False, allow_nan=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON text to a file, whole or not at all.

        Args:
            path: Where to write; an existing file is replaced.

        Raises:
            FileNotFoundError: If the folder does not exist.
            IsADirectoryError: If the path is a folder.
        """
        write_text(path, self.to_json() + "\n")

    def plot(self, column: str, path: str | os.PathLike[str] | None = None) -> Any:
        """A bar for each row.

        Args:
            column: The column of numbers to show.
            path: Save the picture there, in the format of its suffix.

        Returns:
            The matplotlib figure.

        Raises:
            ImportError: If matplotlib is missing.
            ValueError: If the column does not exist or holds no numbers.
        """
        values = self.column(column)
        if not _is_numeric(values):
            raise ValueError(f"column: {column!r} holds no numbers to plot")
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError('plot needs matplotlib: pip install "spikeloom[plot]"') from error
        figure = Figure(figsize=(7, 0.3 * len(values) + 1.2), layout="constrained")
        axes = figure.subplots()
        labels = [_shown(row[0]) for row in self.rows]
        axes.barh(range(len(values)), [math.nan if v is None else float(v) for v in values])
        axes.set_yticks(range(len(values)), labels)
        axes.invert_yaxis()
        axes.set(title=self.title, xlabel=column)
        if path is not None:
            with whole_file(path) as temporary:
                figure.savefig(temporary)
        return figure


def _line(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = (
        cell.rjust(width) if number else cell.ljust(width)
        for cell, width, number in zip(row, widths, right, strict=True)
    )
    return "  ".join(padded).rstrip()


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    number = _number(value)
    return f"{number:.4g}" if isinstance(number, float) else str(value)


def _number(value: Any) -> int | float | None:
    """A Python number from a number, a NumPy scalar or a one-element tensor."""
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _is_numeric(values: Iterable[Any]) -> bool:
    present = [value for value in values if value is not None]
    return bool(present) and all(_number(value) is not None for value in present)


def _plain(value: Any) -> Any:
    """The same value in the types that JSON knows."""
    number = _number(value)
    if number is not None:
        return number if math.isfinite(number) else None
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return value if value is None or isinstance(value, (bool, str)) else str(value)
