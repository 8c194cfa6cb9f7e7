"""How many steps signGD needs for how many layers.

    python examples/benchmarks/signgd_depth.py
    python examples/benchmarks/signgd_depth.py --depths 64 --steps 512

A chain of blocks (64 features: linear, batch norm, ReLU) with random weights; its batch norms have
the statistics of their inputs, so that signals neither vanish nor grow. 32 inputs calibrate, 64
others are tried, with the usual settings instead of the search. Error relative to the spread of the
float outputs, the largest of the seeds; and how many steps the conversion says are needed for 1 %.
"""

from __future__ import annotations

import argparse
import warnings

import torch
from torch import Tensor, nn

from spikeloom.convert import SignGD
from spikeloom.report import Report

WIDTH = 64


@torch.no_grad()
def chain(depth: int) -> nn.Module:
    """Blocks behind each other, and a linear layer that reads them out."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        norm = nn.BatchNorm1d(WIDTH, momentum=None)  # the mean of all batches
        layers += [nn.Linear(WIDTH, WIDTH), norm, nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
    for _ in range(20):
        model(torch.randn(256, WIDTH))
    return model.eval()


@torch.no_grad()
def unseen_error(model: nn.Module, snn: nn.Module, unseen: Tensor) -> float:
    exact = model(unseen)
    return float((snn(unseen) - exact).norm() / (exact - exact.mean(0)).norm())


def row(depth: int, counts: list[int], seeds: list[int]) -> list[float]:
    """The largest error for each number of steps, and the most steps that are said to be needed."""
    errors, needed = [0.0] * len(counts), 0
    for seed in seeds:
        torch.manual_seed(seed)
        model, shown, unseen = chain(depth), torch.randn(32, WIDTH), torch.randn(64, WIDTH)
        for place, steps in enumerate(counts):
            snn = SignGD(steps, search=False, progress=False).apply(model, shown)
            errors[place] = max(errors[place], unseen_error(model, snn, unseen))
            needed = max(needed, snn.steps_needed or 0)
    return [*errors, needed]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depths", nargs="+", type=int, default=[2, 4, 8, 16, 32])
    parser.add_argument("--steps", nargs="+", type=int, default=[16, 32, 64, 128, 256])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    columns = ("blocks", *(f"T={steps}" for steps in args.steps), "needed")
    report = Report("Error on unseen inputs", columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values beyond reach, which the error shows
        for depth in args.depths:
            report.add(depth, *row(depth, args.steps, args.seeds))
    print(report)


if __name__ == "__main__":
    main()
