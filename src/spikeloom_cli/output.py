"""What a command prints: a report as a table or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from spikeloom.report import Report

__all__ = ["is_watched", "save_report", "show", "show_all", "wrote"]


def show(report: Report, as_json: bool) -> None:
    """Print a report.

    Args:
        report: What to print.
        as_json: As JSON instead of a table.
    """
    typer.echo(report.to_json() if as_json else str(report))


def show_all(reports: Sequence[Report], as_json: bool) -> None:
    """Print several reports; as JSON they are one list.

    Args:
        reports: What to print.
        as_json: As JSON instead of tables.
    """
    if as_json:
        typer.echo(f"[{', '.join(report.to_json() for report in reports)}]")
    else:
        typer.echo("\n\n".join(map(str, reports)))


def save_report(report: Report, folder: Path, name: str = "report") -> None:
    """Keep a report beside the network that it is about.

    Args:
        report: The report.
        folder: Where the network is.
        name: The file's name, without its suffix.
    """
    report.save(folder / f"{name}.json")


def wrote(path: object) -> None:
    """Say where a result is, beside the standard output, which belongs to the report."""
    typer.echo(f"wrote {path}", err=True)


def is_watched() -> bool:
    """Whether progress bars are visible."""
    return sys.stderr.isatty()
