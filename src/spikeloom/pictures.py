"""Pictures: spike rasters, and what every other picture is drawn with."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from spikeloom.files import whole_file

__all__ = ["bars", "drawn", "heat_map", "lines", "raster"]

# Rows of a raster that are still told apart.
MOST_NEURONS = 200


@contextmanager
def drawn(
    who: str, size: tuple[float, float], path: str | os.PathLike[str] | None = None
) -> Iterator[Any]:
    """A matplotlib figure to draw on; it is saved when the block ends.

    Args:
        who: The function that draws, for the error.
        size: Width and height in inches.
        path: Save the picture there, in the format of its suffix.

    Raises:
        ImportError: If matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f'{who} needs matplotlib: pip install "spikeloom[plot]"') from error
    figure = Figure(figsize=size, layout="constrained")
    yield figure
    if path is not None:
        with whole_file(path) as temporary:
            figure.savefig(temporary)


def raster(
    spikes: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    sample: int = 0,
    title: str = "",
) -> Any:
    """Draw which neuron fires when: a mark for each spike, red for one that is negative.

    Args:
        spikes: A tensor ``[T, N]``, or ``[T, batch, *]`` of which one sample is drawn; or a dict
            from a name to such a tensor, which are drawn one above the other.
        path: Save the picture there, in the format of its suffix.
        sample: Which sample of the batch.
        title: A title.

    Returns:
        The matplotlib figure. Of a layer with more than 200 neurons, 200 evenly spaced ones are
        drawn, as its label says.

    Raises:
        ImportError: If matplotlib is missing.
        TypeError: If the spikes are no tensor.
        ValueError: If a tensor has no time axis, or no such sample.

    Example:
        >>> import torch
        >>> from spikeloom import neurons, pictures, run
        >>> spikes, _ = run(neurons.LIF(), 2 * torch.rand(50, 1, 20))
        >>> figure = pictures.raster({"LIF": spikes})      # doctest: +SKIP
    """
    layers = dict(spikes) if isinstance(spikes, dict) else {"neuron": spikes}
    trains = {name: _train(name, layer, sample) for name, layer in layers.items()}
    counts = [max(1, min(train.shape[1], MOST_NEURONS)) for train in trains.values()]
    # A layer of few neurons still has room for its label.
    heights = [0.5 + 0.02 * count for count in counts]
    with drawn("raster", (7, sum(heights) + 0.8), path) as figure:
        panels = figure.subplots(len(trains), 1, sharex=True, squeeze=False, height_ratios=heights)[
            :, 0
        ]
        for axes, (name, train), count in zip(panels, trains.items(), counts, strict=True):
            _mark(axes, name, train, count)
        panels[-1].set_xlabel("step")
        if title:
            figure.suptitle(title)
    return figure


def _train(name: str, spikes: Any, sample: int) -> Any:
    """One sample's spikes as ``[T, N]``."""
    if not hasattr(spikes, "dim"):
        raise TypeError(f"spikes: {name} must be a tensor, got {type(spikes).__name__}")
    if spikes.dim() < 2:
        raise ValueError(
            f"spikes: {name} must have shape [T, N] or [T, batch, ...], got {list(spikes.shape)}"
        )
    if spikes.dim() == 2:
        return spikes.detach().cpu()
    if not 0 <= sample < spikes.shape[1]:
        raise ValueError(f"sample: {name} has {spikes.shape[1]} samples, got {sample}")
    return spikes[:, sample].detach().cpu().flatten(1)


def _mark(axes: Any, name: str, train: Any, count: int) -> None:
    total = train.shape[1]
    chosen = [row * total // count for row in range(count)] if total else []
    for colour, fired in (("0.15", train > 0), ("tab:red", train < 0)):
        times = [fired[:, neuron].nonzero().flatten().tolist() for neuron in chosen]
        axes.eventplot(times, colors=colour, linelengths=0.8, linewidths=1)
    label = name if total <= count else f"{name}\n{count} of {total}"
    axes.locator_params(integer=True)
    axes.set(ylabel=label, xlim=(-0.5, len(train) - 0.5), ylim=(count - 0.5, -0.5))


def bars(axes: Any, labels: Sequence[str], values: Sequence[float | None]) -> None:
    """A bar for each value, the first at the top.

    Args:
        axes: Where to draw.
        labels: The names of the bars.
        values: Their lengths; None draws none.
    """
    axes.barh(range(len(values)), [math.nan if v is None else float(v) for v in values])
    axes.set_yticks(range(len(values)), labels)
    axes.invert_yaxis()


def heat_map(
    axes: Any, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]]
) -> None:
    """A coloured cell with its value for each row and column; a column's largest is the darkest.

    Args:
        axes: Where to draw.
        rows: The names of the rows.
        columns: The names of the columns.
        values: A sequence for each row.
    """
    shown = [[math.nan if v is None else float(v) for v in row] for row in values]
    largest = [
        max((abs(v) for v in column if math.isfinite(v)), default=0.0) or 1.0
        for column in zip(*shown, strict=True)
    ]
    shares = [[abs(v) / m for v, m in zip(row, largest, strict=True)] for row in shown]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
    for y, row in enumerate(shown):
        for x, value in enumerate(row):
            if not math.isnan(value):
                axes.text(x, y, f"{value:.3g}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axes.set_yticks(range(len(rows)), rows)


def lines(axes: Any, curves: dict[str, list[tuple[float, float]]]) -> None:
    """A line with a mark at each point, for every curve.

    Args:
        axes: Where to draw.
        curves: Name -> points.
    """
    for name, points in curves.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
    axes.legend()
