"""Networks and ways to convert them, side by side: accuracy and logit error by number of steps."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from spikeloom.files import whole_file
from spikeloom.report import Report

from .methods import METHODS
from .training import Data, medians, score, scores, train

__all__ = ["compare"]

Networks = Mapping[str, Callable[[], nn.Module]]


def compare(
    description: str | None,
    networks: Networks,
    load: Callable[[int], Data],
    steps: Sequence[int],
    epochs: int,
    calibrate: int | None = None,
) -> None:
    """The command line of a comparison: trains, converts, prints a table.

    Args:
        description: What the command does.
        networks: Their makers, by name; "relu" is also converted by rate coding.
        load: From a seed to data.
        steps: T, unless others are asked for.
        epochs: Of training, likewise.
        calibrate: How many of the training pictures calibrate; None takes all.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", nargs="+", choices=networks, default=list(networks))
    parser.add_argument("--steps", nargs="+", type=int, default=list(steps))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--plot", type=Path, help="save accuracy against T as a picture")
    args = parser.parse_args()
    chosen = {name: networks[name] for name in args.net}
    report = table(chosen, load, sorted(args.steps), args.seeds, args.epochs, calibrate)
    print(report)
    if args.plot:
        plot(report, sorted(args.steps), args.plot)


def table(
    networks: Networks,
    load: Callable[[int], Data],
    steps: Sequence[int],
    seeds: Sequence[int],
    epochs: int,
    calibrate: int | None,
) -> Report:
    """A row for each network and method, of medians over seeds."""
    columns = ("network", "method", "ANN", *(f"T={t}" for t in steps))
    report = Report(
        f"Test accuracy, %, median of seeds {seeds}",
        (*columns, *(f"error T={t}" for t in steps)),
    )
    for name, make in networks.items():
        data = [load(seed) for seed in seeds]
        models = [train(make, part, seed, epochs) for part, seed in zip(data, seeds, strict=True)]
        pairs = list(zip(models, data, strict=True))
        with torch.no_grad():
            answers = [(model(part.unseen), part.unseen_labels) for model, part in pairs]
        exact = [score(logits, logits, labels).accuracy for logits, labels in answers]
        for method, convert in METHODS.items():
            if method == "rate coding" and name != "relu":
                continue
            runs = [scores(model, part, convert, steps, calibrate) for model, part in pairs]
            accuracies, errors = zip(*medians(runs), strict=True)
            report.add(name, method, statistics.median(exact), *accuracies, *errors)
    return report


def plot(report: Report, steps: Sequence[int], path: Path) -> None:
    """Accuracy against T, a picture for each network."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(report.column("network")))
    figure = Figure(figsize=(3.2 * len(names), 3.0), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for network, method, ann, *values in report.rows:
            if network == name:
                axes.plot(steps, values[: len(steps)], marker="o", label=method)
                axes.axhline(ann, color="0.7", linewidth=1)
        axes.set(title=name, xlabel="steps T", xscale="log", ylim=(0, 102))
        axes.set_xticks(steps, [str(t) for t in steps])
        axes.minorticks_off()
        axes.legend(loc="lower right")
    figure.axes[0].set_ylabel("test accuracy, %")
    with whole_file(path) as temporary:
        figure.savefig(temporary)
