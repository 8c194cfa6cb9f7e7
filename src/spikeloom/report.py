"""Report: what a method did, row by row; it prints as a table, and goes where tables go."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from spikeloom.files import write_text
from spikeloom.pictures import bars, drawn, heat_map

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
        cells = self.cells()
        table = [list(self.columns), *cells]
        widths = [max(len(row[i]) for row in table) for i in range(len(self.columns))]
        right = self._right()
        lines = [_line(row, widths, right) for row in (table[0], ["-" * w for w in widths], *cells)]
        return "\n".join([self.title, *lines, *self.notes])

    def cells(self) -> list[list[str]]:
        """Every value as it is shown: numbers with four digits, ``-`` for None."""
        return [[_shown(value) for value in row] for row in self.rows]

    def _right(self) -> list[bool]:
        """Which columns hold numbers, and stand to the right."""
        return [_is_numeric(self.column(name)) for name in self.columns]

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        align = [f"text-align: {'right' if right else 'left'}" for right in self._right()]

        def line(row: Sequence[str], tag: str) -> str:
            cells = zip(row, align, strict=True)
            inner = (f'<{tag} style="{how}">{html.escape(cell)}</{tag}>' for cell, how in cells)
            return f"<tr>{''.join(inner)}</tr>"

        head, body = line(self.columns, "th"), "".join(line(row, "td") for row in self.cells())
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return (
            f"<table><caption>{html.escape(self.title)}</caption>"
            f"<thead>{head}</thead><tbody>{body}</tbody></table>{notes}"
        )

    def to_markdown(self) -> str:
        """The report as a Markdown table, with the title above it and the notes below it.

        Example:
            >>> print(Report("Pruned", ("layer", "zeros"), [("fc1", 0.9)]).to_markdown())
            **Pruned**
            <BLANKLINE>
            | layer | zeros |
            |---|---:|
            | fc1 | 0.9 |
        """
        rules = ["---:" if right else "---" for right in self._right()]
        lines = [f"**{self.title}**", "", _markdown(self.columns), f"|{'|'.join(rules)}|"]
        lines += [_markdown(row) for row in self.cells()]
        return "\n".join([*lines, *(line for note in self.notes for line in ("", note))])

    def to_csv(self) -> str:
        """The rows as comma-separated text under a line of column names, numbers in full."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.rows:
            writer.writerow([_exact(value) for value in row])
        return text.getvalue()

    def to_pandas(self) -> Any:
        """The rows as a ``pandas.DataFrame``; ``attrs`` keeps the title and the notes.

        Raises:
            ImportError: If pandas is missing.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas") from error
        rows = [[_exact(value) for value in row] for row in self.rows]
        frame = pandas.DataFrame(rows, columns=list(self.columns))
        frame.attrs |= {"title": self.title, "notes": list(self.notes)}
        return frame

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

    def plot(self, column: str | None = None, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw the report: a bar for each row, or a heat map of several columns.

        Args:
            column: The column of numbers to show as bars; None shows all of them as a heat map, in
                which each column has a scale of its own.
            path: Save the picture there, in the format of its suffix.

        Returns:
            The matplotlib figure.

        Raises:
            ImportError: If matplotlib is missing.
            ValueError: If the column does not exist or holds no numbers.
        """
        shown = self._numeric_columns() if column is None else [column]
        table = {name: self.column(name) for name in shown}
        if not table or not all(map(_is_numeric, table.values())):
            what = "the report" if column is None else f"{column!r}"
            raise ValueError(f"column: {what} holds no numbers to plot")
        labels = [_shown(row[0]) for row in self.rows]
        width = 7.0 if len(table) == 1 else 3 + 0.9 * len(table)
        with drawn("plot", (width, 0.3 * len(labels) + 1.2), path) as figure:
            axes = figure.subplots()
            axes.set_title(self.title)
            if len(table) == 1:
                ((name, values),) = table.items()
                bars(axes, labels, values)
                axes.set_xlabel(name)
            else:
                heat_map(axes, labels, list(table), list(zip(*table.values(), strict=True)))
        return figure

    def _numeric_columns(self) -> list[str]:
        """The columns that hold numbers, but for the first one, which names the rows."""
        return [name for name in self.columns[1:] if _is_numeric(self.column(name))]

    def log(self, writer: Any, step: int = 0, prefix: str = "") -> None:
        """Hand every number to a writer of TensorBoard's kind.

        The tags are ``prefix/column/row``, so that a dashboard groups rows by column.

        Args:
            writer: Has ``add_scalar(tag, value, step)``, as
                ``torch.utils.tensorboard.SummaryWriter`` has.
            step: The training step, for the horizontal axis.
            prefix: In front of every tag; by default the report's title.

        Raises:
            TypeError: If the writer has no ``add_scalar``.

        Example:
            >>> class Printer:
            ...     def add_scalar(self, tag, value, step):
            ...         print(tag, value, step)
            >>> Report("Pruned", ("layer", "zeros"), [("fc1", 0.9)]).log(Printer(), step=3)
            Pruned/zeros/fc1 0.9 3
        """
        if not callable(getattr(writer, "add_scalar", None)):
            raise TypeError(
                f"writer: must have add_scalar(tag, value, step), as TensorBoard's SummaryWriter "
                f"has, got {type(writer).__name__}"
            )
        for name in self._numeric_columns():
            for row, value in zip(self.rows, self.column(name), strict=True):
                if value is not None:
                    tag = f"{prefix or self.title}/{name}/{_shown(row[0])}"
                    writer.add_scalar(tag, _number(value), step)


def _line(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = (
        cell.rjust(width) if number else cell.ljust(width)
        for cell, width, number in zip(row, widths, right, strict=True)
    )
    return "  ".join(padded).rstrip()


def _markdown(row: Sequence[str]) -> str:
    cells = (cell.replace("|", "\\|").replace("\n", " ") for cell in row)
    return f"| {' | '.join(cells)} |"


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


def _exact(value: Any) -> Any:
    """A number in full, anything else as it is."""
    number = _number(value)
    return value if number is None else number


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
