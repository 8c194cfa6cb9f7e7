"""Sweep: a score at several settings of each method, drawn as curves."""

from __future__ import annotations

import os
from typing import Any

from spikeloom.pictures import drawn, lines
from spikeloom.report import Report

__all__ = ["Sweep"]


class Sweep(Report):
    """Scores at several settings; columns are method, setting and score."""

    def plot(self, column: str | None = None, path: str | os.PathLike[str] | None = None) -> Any:
        """A line for each method.

        Args:
            column: What to show upwards; None takes the last column.
            path: Save the picture there, in the format of its suffix.

        Returns:
            The matplotlib figure.

        Raises:
            ImportError: If matplotlib is missing.
            ValueError: If the column does not exist.
        """
        column = self.columns[-1] if column is None else column
        points = zip(
            self.column("method"), self.column(self.columns[1]), self.column(column), strict=True
        )
        curves: dict[str, list[tuple[float, float]]] = {}
        for method, setting, score in points:
            curves.setdefault(method, []).append((setting, score))
        with drawn("plot", (6, 4), path) as figure:
            axes = figure.subplots()
            lines(axes, curves)
            axes.set(title=self.title, xlabel=self.columns[1], ylabel=column)
            if column == "error":
                axes.set_yscale("log")
        return figure
