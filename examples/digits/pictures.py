"""Two pictures: how training went, and what the neurons fire."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from spikingjelly.activation_based.monitor import OutputMonitor
from torch import Tensor, nn

from spikeloom import plugins
from spikeloom.files import whole_file

from .data import CLASSES, STEPS, Digits, over_time
from .hosts import run_spikingjelly

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = {"SpikingJelly": "#0072b2", "snnTorch": "#d55e00", "Norse": "#009e73"}
QUIET = "#c9ced6"
INK = "#30343b"


# --- Training ---------------------------------------------------------------------------------


def draw_training(results: Sequence[Any], aim: float, path: Path) -> None:
    """Accuracy by epoch; beside it what a training step costs, and with the host's own neuron."""
    figure = Figure(figsize=(10, 3.6), layout="constrained", dpi=110)
    curves, times, memory = figure.subplots(1, 3, width_ratios=(2, 1.2, 1.2))
    draw_curves(curves, results, aim)
    draw_pairs(times, results, "step_ms", "ms per training step")
    draw_pairs(memory, results, "kept", "kept for backward / input")
    memory.set_yticklabels([])
    with whole_file(path) as temporary:
        figure.savefig(temporary)


def draw_curves(axes: Axes, results: Sequence[Any], aim: float) -> None:
    for r in results:
        epochs = range(1, len(r.accuracy_by_epoch) + 1)
        label = f"{r.framework}  {r.accuracy_by_epoch[-1]:.1%}"
        axes.plot(epochs, r.accuracy_by_epoch, color=COLOURS[r.framework], lw=2, label=label)
    axes.axhline(aim, color=INK, lw=0.8, ls=":")
    axes.set(xlabel="epoch", ylabel="test accuracy", ylim=(0.5, 1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(frameon=False, loc="lower right")
    tidy(axes)


def draw_pairs(axes: Axes, results: Sequence[Any], quantity: str, title: str) -> None:
    """Two bars for each framework: spikeloom's neuron, and its own below in grey."""
    for row, r in enumerate(results):
        for offset, who, colour in ((-0.19, "ours", COLOURS[r.framework]), (0.19, "own", QUIET)):
            value = getattr(r, f"{quantity}_{who}")
            axes.barh(row + offset, value, height=0.34, color=colour)
            axes.annotate(
                f"{value:.3g}",
                (value, row + offset),
                xytext=(4, 0),
                va="center",
                textcoords="offset points",
                fontsize=8,
                color=INK,
            )
    axes.set_yticks(range(len(results)), [r.framework for r in results])
    axes.set_title(f"{title}\n(grey: with its own neuron)", fontsize=9, color=INK)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.margins(x=0.18)
    tidy(axes, left=False)


def tidy(axes: Axes, left: bool = True) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    if not left:
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(left=False)


# --- Spikes -----------------------------------------------------------------------------------

GAP = 3  # steps left empty between two images
STRIDE = STEPS + GAP


def draw_spikes(network: nn.Module, digits: Digits, path: Path) -> None:
    """Ten test images, and every spike that both layers fire while the network sees them."""
    shown = one_of_each(digits.test_labels)
    hidden, output = record(network, over_time(digits.test_images))
    order, favourites = by_favourite(hidden, digits.test_labels)
    figure = Figure(figsize=(10, 6.2), layout="constrained", dpi=110)
    above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=(1.2, 4.2, 1.6))
    draw_images(above, digits.test_images[shown])
    draw_raster(middle, hidden[:, shown][:, :, order], favourites, size=5)
    draw_raster(below, output[:, shown], torch.arange(CLASSES), size=16)
    middle.set_ylabel("hidden neurons,\nby favourite digit")
    below.set_ylabel("output")
    below.set_yticks(range(CLASSES), [str(digit) for digit in range(CLASSES)], fontsize=7)
    below.set_xlabel(f"{STEPS} steps for each image")
    figure.suptitle("Every spike of a 64-256-10 network that looks at ten digits", color=INK)
    with whole_file(path) as temporary:
        figure.savefig(temporary)


def one_of_each(labels: Tensor) -> list[int]:
    """The first image of every class."""
    return [int((labels == digit).nonzero()[0]) for digit in range(CLASSES)]


def record(network: nn.Module, x: Tensor) -> list[Tensor]:
    """The spikes of every layer, caught by SpikingJelly's own monitor."""
    monitor = OutputMonitor(network, plugins.spikingjelly.LIFNode)
    with torch.no_grad():
        run_spikingjelly(network, x)
    monitor.remove_hooks()
    return monitor.records


def by_favourite(spikes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Neurons that fire, sorted by the digit they fire most for; and that digit."""
    rates = torch.stack([spikes[:, labels == digit].mean((0, 1)) for digit in range(CLASSES)])
    strongest, favourite = rates.max(0)
    order = (favourite - strongest / 2).argsort()
    order = order[strongest[order] > 0]
    return order, favourite[order]


def draw_images(axes: Axes, images: Tensor) -> None:
    for column, image in enumerate(images):
        left = column * STRIDE - 0.5
        axes.imshow(image.reshape(8, 8), cmap="Greys", extent=(left, left + STEPS, STEPS, 0))
    axes.set(xlim=(-GAP, CLASSES * STRIDE), ylim=(STEPS, 0), aspect="equal")
    axes.set_axis_off()


def draw_raster(axes: Axes, spikes: Tensor, classes: Tensor, size: float) -> None:
    """Spikes ``[T, images, neurons]`` as dots, coloured by the class each neuron stands for."""
    times, images, neurons = spikes.nonzero().T
    colours = colormaps["tab10"](classes[neurons].numpy())
    axes.scatter(times + images * STRIDE, neurons, size, colours, marker="s", linewidths=0)
    for column in range(CLASSES):
        axes.axvspan(
            column * STRIDE - 0.7, column * STRIDE + STEPS - 0.3, color="#f4f5f7", zorder=0
        )
    axes.set(ylim=(spikes.shape[2] - 0.2, -0.8), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
