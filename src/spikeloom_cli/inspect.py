"""``spikeloom inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spikeloom_cli.options import Json
from spikeloom_cli.output import show, wrote

if TYPE_CHECKING:
    from rich.tree import Tree

    from spikeloom.report import Report

__all__ = ["inspect"]


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            help="A NIR file, a converted or compressed folder, saved statistics or weights "
            "(.safetensors), or a report (.json).",
            show_default=False,
        ),
    ],
    picture: Annotated[
        Path | None,
        typer.Option(
            help="Also draw it: the graph of a NIR file, or the numbers of any other, as .png, "
            ".svg or .pdf.",
            show_default=False,
        ),
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Print a table, not a tree.")] = False,
    json: Json = False,
) -> None:
    """Show what is in a file or folder, without running or unpickling it."""
    from spikeloom.inspection import inspect as inspected

    report = inspected(path)
    if table or json:
        show(report, json)
    else:
        from rich import print as rich_print

        rich_print(_tree(report))
    if picture is not None:
        _draw(path, report, picture)
        wrote(picture)


def _tree(report: Report) -> Tree:
    """The rows as branches: a name with dots stands below the names in front of its dots."""
    from rich.markup import escape
    from rich.text import Text
    from rich.tree import Tree

    root = Tree(escape(report.title))
    branches = {"": root}
    cells = report.cells()
    for name, *values in cells:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            above = ".".join(parts[:depth])
            if above not in branches:
                outer = branches[".".join(parts[: depth - 1])]
                branches[above] = outer.add(Text(parts[depth - 1], style="bold"))
        label = Text(parts[-1], style="bold")
        for column, value in zip(report.columns[1:], values, strict=True):
            if value not in ("", "-"):
                label.append(f"  {column} ", style="dim").append(value, style="not bold")
        branches[name] = branches[".".join(parts[:-1])].add(label)
    for note in report.notes:
        root.add(Text(note, style="italic"))
    return root


def _draw(path: Path, report: Report, picture: Path) -> None:
    if path.is_file() and path.suffix not in (".safetensors", ".json"):
        from spikeloom.export import draw, read

        draw(read(path), picture)
    else:
        report.plot(path=picture)
